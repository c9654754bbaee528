"""The parts of an installed fairseq (the extra `fairseq`) that seqkd uses. Importing it without fairseq is an error."""

from __future__ import annotations

import logging
from types import SimpleNamespace

from seqkd.errors import ModelError

# When they are imported, some of fairseq's modules configure logging for the whole process and write messages.
_root = logging.getLogger()
_handlers, _level, _disabled = list(_root.handlers), _root.level, _root.manager.disable
logging.disable(logging.INFO)
try:
    from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
    from fairseq.criterions.nat_loss import LabelSmoothedDualImitationCriterion as NatCriterion
    from fairseq.data import Dictionary, LanguagePairDataset
    from fairseq.iterative_refinement_generator import IterativeRefinementGenerator
    from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_NAME_REGISTRY, ARCH_MODEL_REGISTRY
    from fairseq.modules import dynamic_crf_layer
    from fairseq.sequence_generator import SequenceGenerator
    from fairseq.tasks import register_task
    from fairseq.tasks.translation import TranslationConfig, TranslationTask
    from fairseq.tasks.translation_lev import TranslationLevenshteinConfig, TranslationLevenshteinTask
except ImportError as error:
    raise ModelError(
        f"this needs fairseq, which cannot be imported: {error}",
        hint='pip install "seqkd[fairseq]"; the guide explains how to build it',
    ) from None
finally:
    logging.disable(_disabled)
    _root.handlers[:] = _handlers
    _root.setLevel(_level)

# fairseq's CRF module uses NumPy only for infinity, by a name that NumPy no longer has.
dynamic_crf_layer.np = SimpleNamespace(float=float)

__all__ = [
    "ARCH_CONFIG_REGISTRY",
    "ARCH_MODEL_NAME_REGISTRY",
    "ARCH_MODEL_REGISTRY",
    "Dictionary",
    "IterativeRefinementGenerator",
    "LabelSmoothedCrossEntropyCriterion",
    "LanguagePairDataset",
    "NatCriterion",
    "SequenceGenerator",
    "TranslationConfig",
    "TranslationLevenshteinConfig",
    "TranslationLevenshteinTask",
    "TranslationTask",
    "register_task",
]
