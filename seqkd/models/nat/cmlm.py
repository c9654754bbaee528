"""The conditional masked language model, decoded by mask-predict (Ghazvininejad et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from seqkd.models.nat.lengths import LengthPredictor, out_of_reach
from seqkd.models.nat.stack import DecodingStack, ParallelStack
from seqkd.models.nat.tokens import best_tokens, rank_outputs
from seqkd.models.protocol import Marks, Output, PairLengths, ParallelSettings, too_long
from seqkd.models.settings import StackSettings
from seqkd.text.vocabulary import EOS_ID, PAD_ID, UNK_ID


class Cmlm(nn.Module):
    """Predicts masked target tokens from the source and the others.

    Positions are the target's tokens and end of sentence, which is the last and always given.

    Args:
        settings: Its sizes and kinds.
        source_vocab: Source pieces, special ids counted.
        target_vocab: Target pieces, likewise.
    """

    pad_id, eos_id, unk_id, start_id = PAD_ID, EOS_ID, UNK_ID, EOS_ID

    def __init__(self, settings: StackSettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.max_positions = settings.max_positions
        self.mask_id = self.target_vocab
        self.stack = ParallelStack(
            settings,
            source_vocab=source_vocab,
            target_vocab=target_vocab,
            decoder_positions=self.max_positions,
            extra_pieces=1,
        )
        self.lengths = LengthPredictor(settings.dim)

    @property
    def output_weight(self) -> Tensor:
        """`[target_vocab, dim]`, the output layer."""
        return self.stack.output_weight

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        return too_long(lengths, self.max_positions) | out_of_reach(lengths)

    def strategies(self) -> tuple[str, ...]:
        """See `ParallelModel.strategies`."""
        return ("greedy",)

    def encode(self, source: Tensor) -> Tensor:
        """`[batch, source]` ids, end of sentence appended, padded on the right, to `[batch, source, dim]`."""
        return self.stack.encode(source)

    def length_loss(self, memory: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """See `LengthPredictor.loss`; `source` `[batch, source]` ids, `target` `[batch]` lengths."""
        return self.lengths.loss(memory, self.stack.source_mask(source), target)

    def decode_features(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """What the output layer reads.

        Args:
            inputs: `[batch, target]` ids, `mask_id` where they are to be predicted.
            real: `[batch, target]` bool, False at padding. Each row has a real position.
            memory: `[batch, source, dim]` from `encode`.
            source: `[batch, source]` ids, for their padding.

        Returns:
            `[batch, target, dim]`.
        """
        return self.stack.decode(self.stack.embed_target(inputs), real, memory, source)

    def translate(
        self, source: Tensor, settings: ParallelSettings, stack: DecodingStack | None = None
    ) -> Sequence[Sequence[Output]]:
        """See `ParallelModel.translate`; `stack` may decode in place of the model's own.

        Mask-predict (Ghazvininejad et al. 2019, section 4): the first pass predicts all tokens; each later one masks
        the least probable ones anew and predicts those again, fewer from pass to pass. A sentence's candidates are its
        most probable lengths, ranked in the end as in `outputs`; a token's log-probability is that of the pass that
        wrote it.
        """
        stack = self.stack if stack is None else stack
        memory = stack.encode(source)
        found = self.lengths.candidates(memory, self.stack.source_mask(source), settings.candidates, self.max_positions)
        count = found.lengths.size(1)
        lengths = found.lengths.flatten() - 1
        steps = torch.arange(int(lengths.max()) + 1, device=source.device)
        real, inner = steps <= lengths[:, None], steps < lengths[:, None]
        ids = torch.full(real.shape, self.eos_id, device=source.device)
        logprobs = torch.zeros(real.shape, device=source.device)
        several, states = source.repeat_interleave(count, 0), memory.repeat_interleave(count, 0)
        for iteration in range(settings.iterations):
            masked = least_probable(logprobs, inner, count_masked(lengths, iteration, settings.iterations))
            inputs = self.stack.embed_target(ids.masked_fill(masked, self.mask_id))
            features = stack.decode(inputs, real, states, several)
            written, chances = best_tokens(stack, features, masked, (self.pad_id, self.eos_id))
            ids, logprobs = torch.where(masked, written, ids), torch.where(masked, chances, logprobs)
        return rank_outputs(ids, logprobs, found.lengths - 1, found.logprobs, settings.nbest)


def count_masked(lengths: Tensor, iteration: int, iterations: int) -> Tensor:
    """How many tokens are masked in a pass: all in the first, then fewer, by equal steps, rounded down.

    Late passes over a sentence with fewer tokens than passes may mask none. (The authors' code masks one at least.)

    Args:
        lengths: `[batch]` tokens.
        iteration: Which pass, from 0.
        iterations: Passes.
    """
    return lengths * (iterations - iteration) // iterations


def least_probable(logprobs: Tensor, inner: Tensor, count: Tensor) -> Tensor:
    """The positions to mask: of each row the `count` least probable, of equals the leftmost.

    Args:
        logprobs: `[batch, target]`.
        inner: `[batch, target]`, True at tokens that may be masked.
        count: `[batch]` int64.

    Returns:
        `[batch, target]` bool.
    """
    ranks = logprobs.masked_fill(~inner, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
    return (ranks < count[:, None]) & inner
