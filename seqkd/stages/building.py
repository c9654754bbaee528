"""From an objective's configuration to the objective."""

from __future__ import annotations

from seqkd.config_models import CtcLossConfig, DagLossConfig, NllConfig, ObjectiveConfig
from seqkd.errors import ConfigError
from seqkd.objectives.base import Objective
from seqkd.objectives.ctc import CtcLoss
from seqkd.objectives.dag import DagLoss
from seqkd.objectives.nll import LabelSmoothedNll


def build_objective(config: ObjectiveConfig) -> Objective:
    """What training minimises.

    Raises:
        ModelError: The objective needs a package that is not installed.
    """
    if isinstance(config, NllConfig):
        return LabelSmoothedNll(smoothing=config.label_smoothing)
    if isinstance(config, CtcLossConfig):
        return CtcLoss(smoothing=config.label_smoothing, glancing=config.glancing)
    if isinstance(config, DagLossConfig):
        return DagLoss(glancing=config.glancing)
    raise ConfigError(f"objective {config.type!r} is not there yet")
