"""fairseq's own loss for fairseq's architectures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch

from seqkd.interop.fairseq_library import LabelSmoothedCrossEntropyCriterion, NatCriterion
from seqkd.interop.fairseq_models import FairseqModel
from seqkd.objectives.base import Batch
from seqkd.objectives.nll import NllSettings
from seqkd.objectives.terms import NOTHING, Forward, Models, TermOutput

_EVALUATION_SEED = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FairseqLoss:
    """The loss that `fairseq-train` minimises for an architecture.

    For models that decode left to right it is the criterion `label_smoothed_cross_entropy`. For other models it is
    `nat_loss` on targets with the noise of the task `translation_lev` that fairseq's examples use for the architecture.
    It is the sum of a mean for each part of the model (words, lengths, insertions, deletions, CRF). The result is
    multiplied by the number of tokens, because the training loop divides by it. The negative log-likelihood is
    fairseq's `nll_loss`, that of the words that the model predicts.

    Args:
        smoothing: Share of the uniform distribution in the target, 0 for none.
    """

    reads = NOTHING

    smoothing: float

    def count(self, batch: Batch) -> float:
        """Return the number of target tokens."""
        return batch.tokens

    def __call__(self, forward: Forward) -> TermOutput:
        """Compute the loss of a `FairseqModel`. The noise comes from torch's generator and is fixed in evaluation."""
        student, batch = cast(FairseqModel, forward.model), forward.batch
        order, inputs = student.inputs(batch.source)
        target_in, target = batch.target_in[order], batch.target_out[order]
        if not batch.tokens:  # a process without rows takes part with one word of weight 0
            target_in = target.new_tensor([[student.start_id, student.unk_id]])
            target = target.new_tensor([[student.unk_id, student.eos_id]])
        sample: dict[str, Any] = {
            "net_input": inputs,
            "target": target,
            "ntokens": batch.tokens,
            "nsentences": len(target),
        }
        if student.refinement is None:
            inputs["prev_output_tokens"] = target_in
            criterion = LabelSmoothedCrossEntropyCriterion(
                student.task, sentence_avg=False, label_smoothing=self.smoothing
            )
            loss, _, logged = criterion(student.net, sample)
            scale = int(batch.tokens > 0)
        else:
            sample["target"] = student.add_begin(target)
            student.net.args.label_smoothing = self.smoothing
            with _noise(target.device, fixed=not student.training):
                sample["prev_target"] = student.task.inject_noise(sample["target"])
                loss, _, logged = NatCriterion(student.task, self.smoothing)(student.net, sample)
            scale = batch.tokens
        return TermOutput(loss.float() * scale, logged["nll_loss"].float() * scale)


@contextlib.contextmanager
def _noise(device: torch.device, *, fixed: bool) -> Iterator[None]:
    """Return a context for fairseq's random numbers. With `fixed` they are the same each time, in a separate stream."""
    # For each Levenshtein batch fairseq prints that its CUDA extension is missing. Its code for CPUs computes the same.
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(None))
        if fixed:
            stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
            torch.manual_seed(_EVALUATION_SEED)
        yield


def build(settings: NllSettings, _: Models) -> FairseqLoss:
    """Build the term with these settings."""
    return FairseqLoss(smoothing=settings.label_smoothing)
