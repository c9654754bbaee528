"""From an objective's configuration to the objective."""

from __future__ import annotations

from seqkd.config.models import (
    CmlmLossConfig,
    CtcLossConfig,
    DagLossConfig,
    NatLossConfig,
    NllConfig,
    ObjectiveConfig,
    WordKdConfig,
)
from seqkd.objectives.base import Objective
from seqkd.objectives.cmlm import CmlmLoss
from seqkd.objectives.ctc import CtcLoss
from seqkd.objectives.dag import DagLoss
from seqkd.objectives.nat import NatLoss
from seqkd.objectives.nll import LabelSmoothedNll
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.word_kd import WordKd


def build_objective(config: ObjectiveConfig, teacher: Teacher | None = None) -> Objective:
    """What training minimises.

    Args:
        config: Its settings.
        teacher: Runs along, where the objective asks one.

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
    if isinstance(config, WordKdConfig):
        return WordKd(
            teacher=teacher,
            temperature=config.temperature,
            alpha=config.alpha,
            top=config.top_k,
            direction=config.direction,
            smoothing=config.label_smoothing,
        )
    from seqkd.interop.fairseq_loss import FairseqLoss  # needs the package

    return FairseqLoss(smoothing=config.label_smoothing)
