"""Scoring of given translations through the C++ kernels: all positions at once, without logits in main memory."""

from __future__ import annotations

from itertools import chain, groupby

import torch
from torch import Tensor

from seqkd.kernels.build import pointer
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.scoring import Pairs, pad_rows


class NativeScorer:
    """A `PairModel` on the CPU.

    Args:
        engine: An engine whose decoder attends. Its weights and its arithmetic are used, but keys and values are
            float32.

    The log-probabilities of a pair are the same in every bit for any number of threads and with any other pairs.
    """

    def __init__(self, engine: NativeModel) -> None:
        assert engine.attends
        self.engine, self.max_positions = engine, engine.max_positions

    def token_logprobs(self, pairs: Pairs, *, batch_tokens: int) -> Tensor:
        """See `PairModel.token_logprobs`.

        Raises:
            ValueError: A source or target is longer than the model's positions, or an id is outside the vocabulary.
        """
        found: list[Tensor] = []
        batch: list[tuple[list[int], list[int]]] = []
        tokens = 0
        for pair in pairs:
            length = len(pair[1]) + 1
            if batch and tokens + length > batch_tokens:
                found.append(self._together(batch))
                batch, tokens = [], 0
            batch.append(pair)
            tokens += length
        return torch.cat([*found, self._together(batch)])

    def _together(self, pairs: Pairs) -> Tensor:
        engine = self.engine
        groups = [(source, len(list(group))) for source, group in groupby(pairs, key=lambda pair: pair[0])]
        source = pad_rows([[*source, engine.eos_id] for source, _ in groups], engine.pad_id)
        ids = torch.tensor([*chain.from_iterable((*target, engine.eos_id) for _, target in pairs)])
        for side, vocab in ((source, engine.source_vocab), (ids, engine.target_vocab)):
            if not 0 <= int(side.min()) <= int(side.max()) < vocab:
                raise ValueError(f"ids are from {int(side.min())} to {int(side.max())}; the model has {vocab} pieces")
        source_lengths = torch.tensor([len(source) + 1 for source, _ in groups], dtype=torch.int32)
        lengths = torch.tensor([len(target) + 1 for _, target in pairs], dtype=torch.int32)
        longest = int(max(source_lengths.max(), lengths.max()))
        if longest > self.max_positions:
            raise ValueError(f"{longest} tokens do not fit the {self.max_positions} positions of the model")
        sizes = torch.tensor([size for _, size in groups])
        owners = torch.arange(len(groups), dtype=torch.int32).repeat_interleave(sizes)
        logprobs = torch.empty(len(ids))
        engine.kernels.seqkd_score(
            engine.handle,
            len(groups),
            pointer(source),
            source.size(1),
            pointer(source_lengths),
            len(pairs),
            pointer(owners),
            engine.start_id,
            pointer(ids),
            pointer(lengths),
            pointer(logprobs),
        )
        return logprobs
