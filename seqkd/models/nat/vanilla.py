"""The non-autoregressive Transformer (Gu et al. 2018), with a length or a fertility predictor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from seqkd.models.nat.copying import copy_states, fertile_places, uniform_places
from seqkd.models.nat.fertility import FertilityPredictor
from seqkd.models.nat.lengths import SHORTEST, LengthPredictor, out_of_reach
from seqkd.models.nat.stack import DecodingStack, ParallelStack
from seqkd.models.nat.tokens import best_tokens, rank_outputs
from seqkd.models.protocol import Marks, Output, PairLengths, ParallelSettings, too_long
from seqkd.models.settings import StackSettings
from seqkd.text.vocabulary import EOS_ID, PAD_ID, UNK_ID

CopyFrom = Literal["uniform", "fertility"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NatSettings(StackSettings):
    """The settings of a Transformer and the method of copying the source to the decoder's input.

    Attributes:
        embeddings: shared: one table for source, target and output; decoder: one for target and output. The decoder
            reads the embeddings of the source, so the target has no table of its own.
        copy_from: uniform: the source is stretched evenly to the predicted length; fertility: each source token is
            copied as many times as its predicted fertility.
    """

    embeddings: Annotated[
        Literal["shared", "decoder"],
        Field(
            description="shared: source = target = output; decoder: target = output (the decoder reads the source's)"
        ),
    ] = "shared"
    copy_from: Annotated[CopyFrom, Field(description="how the decoder's input is copied from the source")] = "uniform"


class Nat(nn.Module):
    """Writes all target positions at once, from a copy of the source that is as long as the target.

    Positions are the target's tokens and end of sentence, which is the last. The positional attention of Gu et al. is
    omitted, as in later work.

    Args:
        settings: The settings of the model.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.
    """

    pad_id, eos_id, unk_id, start_id = PAD_ID, EOS_ID, UNK_ID, EOS_ID

    def __init__(self, settings: NatSettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.max_positions = settings.max_positions
        self.stack = ParallelStack(
            settings, source_vocab=source_vocab, target_vocab=target_vocab, decoder_positions=self.max_positions
        )
        self.lengths = LengthPredictor(settings.dim) if settings.copy_from == "uniform" else None
        self.fertilities = FertilityPredictor(settings.dim) if settings.copy_from == "fertility" else None

    @property
    def output_weight(self) -> Tensor:
        """Return the weights of the output layer, `[target_vocab, dim]`."""
        return self.stack.output_weight

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        reasons = too_long(lengths, self.max_positions)
        return reasons if self.lengths is None else reasons | out_of_reach(lengths)

    def strategies(self) -> tuple[str, ...]:
        """See `ParallelModel.strategies`."""
        return ("greedy",)

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids, with end of sentence and padded on the right, to `[batch, source, dim]`."""
        return self.stack.encode(source)

    def embed_target(self, ids: Tensor) -> Tensor:
        """Map `[batch, target]` ids to inputs of the decoder, `[batch, target, dim]`."""
        return self.stack.embed_target(ids)

    def decode(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """See `ParallelStack.decode`."""
        return self.stack.decode(inputs, real, memory, source)

    def copy_source(self, memory: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the decoder's input for a known target.

        Args:
            memory: `[batch, source, dim]` from `encode`.
            source: `[batch, source]` ids.
            target: `[batch, target]` ids, with end of sentence and padded on the right.

        Returns:
            The copied source, `[batch, target, dim]`, and a scalar, the loss of the predicted lengths or fertilities.
            For lengths it is the cross-entropy, mean over sentences. For fertilities it is the cross-entropy, mean over
            source tokens, plus the loss of the aligner; see `FertilityPredictor`.
        """
        real, target_real = self.stack.source_mask(source), target.ne(self.pad_id)
        embedded = self._embed_source(source)
        if self.lengths is not None:
            lengths = target_real.sum(1)
            places = uniform_places(real.sum(1), lengths.clamp(min=1), target.size(1))
            return copy_states(embedded, places), self.lengths.loss(memory, real, lengths)
        assert self.fertilities is not None
        alignment = self.fertilities.align(embedded, real, target, target_real, self.output_weight)
        places = fertile_places(alignment.fertilities, target.size(1))
        loss = self.fertilities.loss(memory, real, alignment.fertilities)
        return copy_states(embedded, places), loss + alignment.loss

    def translate(
        self, source: Tensor, settings: ParallelSettings, stack: DecodingStack | None = None
    ) -> Sequence[Sequence[Output]]:
        """See `ParallelModel.translate`. `stack` replaces the model's own stack if it is given.

        The candidates of a sentence are its most probable lengths or fertilities. For each the likeliest token is
        written at every position. The candidates are ranked by `rank_outputs`. Repeated tokens are kept, as in
        published work.
        """
        stack = self.stack if stack is None else stack
        memory = stack.encode(source)
        places, lengths, known, priors = self._candidates(memory, source, settings.candidates)
        count = lengths.size(1)
        rows = lengths.flatten()[:, None]
        steps = torch.arange(places.size(1), device=source.device)
        inputs = copy_states(self._embed_source(source).repeat_interleave(count, 0), places)
        several = source.repeat_interleave(count, 0)
        features = stack.decode(inputs, steps < rows, memory.repeat_interleave(count, 0), several)
        number = int((known - 1).sum())
        written = best_tokens(stack, features, steps < rows - 1, number, (self.pad_id, self.eos_id))
        return rank_outputs(*written, lengths - 1, priors, settings.nbest)

    def _candidates(self, memory: Tensor, source: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Choose the candidates.

        Returns:
            Source positions to copy, `[batch * candidates, target]`; lengths with end of sentence,
            `[batch, candidates]`; the same on the host; and the log-probabilities of the candidates,
            `[batch, candidates]`.
        """
        real = self.stack.source_mask(source)
        if self.lengths is not None:
            lengths, logprobs = self.lengths.candidates(memory, real, count, self.max_positions)
            sources = real.sum(1).repeat_interleave(lengths.size(1), 0)
            known = lengths.cpu()
            return uniform_places(sources, lengths.flatten(), int(known.max())), lengths, known, logprobs
        assert self.fertilities is not None
        fertilities, logprobs = self.fertilities.candidates(memory, real, count)
        # A translation that is too long for the model is cut.
        lengths = fertilities.sum(2).clamp(SHORTEST, self.max_positions)
        known = lengths.cpu()
        return fertile_places(fertilities.flatten(0, 1), int(known.max())), lengths, known, logprobs

    def _embed_source(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids to embeddings `[batch, source, dim]`, without position embeddings."""
        return functional.embedding(source, self.stack.source_embedding) * self.stack.scale
