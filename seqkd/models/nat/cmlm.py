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
    """Predicts masked target tokens from the source and the visible target tokens.

    Positions are the target's tokens and end of sentence, which is the last and never masked.

    Args:
        settings: The settings of the model.
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.
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
        """Return the weights of the output layer, `[target_vocab, dim]`."""
        return self.stack.output_weight

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """See `SequenceModel.unusable`."""
        return too_long(lengths, self.max_positions) | out_of_reach(lengths)

    def strategies(self) -> tuple[str, ...]:
        """See `ParallelModel.strategies`."""
        return ("greedy",)

    def encode(self, source: Tensor) -> Tensor:
        """Map `[batch, source]` ids, with end of sentence and padded on the right, to `[batch, source, dim]`."""
        return self.stack.encode(source)

    def length_loss(self, memory: Tensor, source: Tensor, target: Tensor) -> Tensor:
        """See `LengthPredictor.loss`, with `source` ids `[batch, source]` and `target` lengths `[batch]`."""
        return self.lengths.loss(memory, self.stack.source_mask(source), target)

    def decode_features(self, inputs: Tensor, real: Tensor, memory: Tensor, source: Tensor) -> Tensor:
        """Compute the inputs of the output layer.

        Args:
            inputs: `[batch, target]` ids, `mask_id` at the positions to predict.
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
        """See `ParallelModel.translate`. `stack` replaces the model's own stack if it is given.

        The method is mask-predict (Ghazvininejad et al. 2019, section 4). The first pass predicts all tokens. Each
        later pass masks the least probable tokens and predicts them again; their number decreases from pass to pass.
        The candidates of a sentence are its most probable lengths, ranked by `rank_outputs`. The log-probability of a
        token is that of the pass that wrote it.
        """
        stack = self.stack if stack is None else stack
        memory = stack.encode(source)
        found = self.lengths.candidates(memory, self.stack.source_mask(source), settings.candidates, self.max_positions)
        count = found.lengths.size(1)
        lengths = found.lengths.flatten() - 1
        known = lengths.cpu()  # all that the host needs to know, so that no pass waits for the device
        steps = torch.arange(int(known.max()) + 1, device=source.device)
        real, inner = steps <= lengths[:, None], steps < lengths[:, None]
        ids = torch.full(real.shape, self.eos_id, device=source.device)
        logprobs = torch.zeros(real.shape, device=source.device)
        several, states = source.repeat_interleave(count, 0), memory.repeat_interleave(count, 0)
        for iteration in range(settings.iterations):
            masked = least_probable(logprobs, inner, count_masked(lengths, iteration, settings.iterations))
            inputs = self.stack.embed_target(ids.masked_fill(masked, self.mask_id))
            features = stack.decode(inputs, real, states, several)
            number = int(count_masked(known, iteration, settings.iterations).sum())
            written, chances = best_tokens(stack, features, masked, number, (self.pad_id, self.eos_id))
            ids, logprobs = torch.where(masked, written, ids), torch.where(masked, chances, logprobs)
        return rank_outputs(ids, logprobs, found.lengths - 1, found.logprobs, settings.nbest)


def count_masked(lengths: Tensor, iteration: int, iterations: int) -> Tensor:
    """Return the number of masked tokens in a pass, which decreases from all by equal steps and is rounded down.

    If a sentence has fewer tokens than there are passes, late passes may mask none. (The authors' code masks at least
    one.)

    Args:
        lengths: `[batch]`, numbers of tokens.
        iteration: Number of the pass, from 0.
        iterations: Number of passes.
    """
    return lengths * (iterations - iteration) // iterations


def least_probable(logprobs: Tensor, inner: Tensor, count: Tensor) -> Tensor:
    """Mark the positions to mask: the `count` least probable of each row. Ties go to the leftmost.

    Args:
        logprobs: `[batch, target]`.
        inner: `[batch, target]`, True at tokens that may be masked.
        count: `[batch]` int64, the number of positions to mark.

    Returns:
        `[batch, target]` bool.
    """
    ranks = logprobs.masked_fill(~inner, float("inf")).argsort(dim=1, stable=True).argsort(dim=1)
    return (ranks < count[:, None]) & inner
