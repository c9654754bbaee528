"""Ensembles: several models whose probabilities are averaged at every step."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from seqkd.errors import ModelError
from seqkd.search.constraints import log_probabilities
from seqkd.search.protocol import SearchModel


class Ensemble:
    """A `SearchModel` whose log-probabilities are the log-mean-exp of its members'.

    Args:
        models: The members.
        temperature: Each member's logits are divided by it before the mean is taken, as in fairseq and in the teachers
            of word-level distillation.

    Raises:
        ModelError: The members' target vocabularies or special ids differ.
    """

    def __init__(self, models: Sequence[SearchModel], *, temperature: float = 1.0) -> None:
        first = models[0]
        for number, model in enumerate(models[1:], start=2):
            ours = (first.target_vocab, first.pad_id, first.eos_id, first.unk_id, first.start_id)
            theirs = (model.target_vocab, model.pad_id, model.eos_id, model.unk_id, model.start_id)
            if ours != theirs:
                raise ModelError(
                    f"model {number} of the ensemble has other target ids (pieces, pad, eos, unk, start): {theirs}",
                    expected=f"{ours}, as the first model",
                    hint="ensemble only models that share a vocabulary",
                )
        self.models, self.temperature = tuple(models), temperature
        self.target_vocab = first.target_vocab
        self.pad_id, self.eos_id, self.unk_id, self.start_id = first.pad_id, first.eos_id, first.unk_id, first.start_id
        self.max_positions = min(model.max_positions for model in models)
        self.device = first.device

    def new_state(self, slots: int, beam: int, max_source: int, max_target: int) -> list[object]:
        """See `SearchModel.new_state`."""
        return [model.new_state(slots, beam, max_source, max_target) for model in self.models]

    def admit(self, state: list[object], slots: Tensor, source: Tensor) -> None:
        """See `SearchModel.admit`."""
        for model, part in zip(self.models, state, strict=True):
            model.admit(part, slots, source)

    def step(self, state: list[object], tokens: Tensor) -> Tensor:
        """Take a step as `SearchModel.step` does; return float32 log-probabilities `[slots, beam, vocab]`."""
        members = [
            log_probabilities(model.step(part, tokens), self.temperature)
            for model, part in zip(self.models, state, strict=True)
        ]
        return torch.logsumexp(torch.stack(members), dim=0) - math.log(len(members))

    def reorder(self, state: list[object], parents: Tensor) -> None:
        """See `SearchModel.reorder`."""
        for model, part in zip(self.models, state, strict=True):
            model.reorder(part, parents)

    def release(self, state: list[object], slots: Tensor) -> None:
        """See `SearchModel.release`."""
        for model, part in zip(self.models, state, strict=True):
            model.release(part, slots)

    def shrink(self, state: list[object], slots: Tensor) -> None:
        """See `SearchModel.shrink`."""
        for model, part in zip(self.models, state, strict=True):
            model.shrink(part, slots)
