"""From an objective's configuration to the objective."""

from __future__ import annotations

from seqkd.config_models import NllConfig, ObjectiveConfig
from seqkd.errors import ConfigError
from seqkd.objectives.base import Objective
from seqkd.objectives.nll import LabelSmoothedNll


def build_objective(config: ObjectiveConfig) -> Objective:
    """What training minimises.

    Raises:
        ConfigError: The objective needs a package that is not installed.
    """
    if isinstance(config, NllConfig):
        return LabelSmoothedNll(smoothing=config.label_smoothing)
    raise ConfigError(f"objective {config.type!r} is not there yet")
