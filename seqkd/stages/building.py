"""From an objective's configuration to the objective."""

from __future__ import annotations

from seqkd.config_models import (
    CmlmLossConfig,
    CtcLossConfig,
    DagLossConfig,
    NatLossConfig,
    NllConfig,
    ObjectiveConfig,
)
from seqkd.objectives.base import Objective
from seqkd.objectives.cmlm import CmlmLoss
from seqkd.objectives.ctc import CtcLoss
from seqkd.objectives.dag import DagLoss
from seqkd.objectives.nat import NatLoss
from seqkd.objectives.nll import LabelSmoothedNll


def build_objective(config: ObjectiveConfig) -> Objective:
    """What training minimises.

    Raises:
        ModelError: The objective needs a package that is not installed.
    """
    if isinstance(config, NllConfig):
        return LabelSmoothedNll(smoothing=config.label_smoothing)
    if isinstance(config, NatLossConfig):
        return NatLoss(smoothing=config.label_smoothing, length_weight=config.length_weight, glancing=config.glancing)
    if isinstance(config, CmlmLossConfig):
        return CmlmLoss(smoothing=config.label_smoothing, length_weight=config.length_weight)
    if isinstance(config, CtcLossConfig):
        return CtcLoss(smoothing=config.label_smoothing, glancing=config.glancing)
    if isinstance(config, DagLossConfig):
        return DagLoss(glancing=config.glancing)
    from seqkd.interop.fairseq_loss import FairseqLoss  # needs the package

    return FairseqLoss(smoothing=config.label_smoothing)
