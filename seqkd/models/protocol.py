"""What the rest of seqkd asks of a model, whatever its architecture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

Lengths = npt.NDArray[np.int32]
Marks = npt.NDArray[np.bool_]

TOO_LONG = "longer than max_positions"
SOURCE_TOO_LONG = "source longer than max_positions"  # such a row is not decoded


class PairLengths(NamedTuple):
    """How long rows are, ends of sentences not counted.

    Attributes:
        source: `[rows]` source tokens.
        target: `[rows]` target tokens.
        repeats: `[rows]` target tokens that equal the one before them.
    """

    source: Lengths
    target: Lengths
    repeats: Lengths


class SequenceModel(Protocol):
    """A model that turns source ids into target ids; every architecture is one.

    Attributes:
        source_vocab: Source pieces, special ids counted.
        target_vocab: Target pieces.
        pad_id: Padding.
        eos_id: End of sentence.
        unk_id: Unknown piece.
        start_id: What a decoder reads first.
        max_positions: Longest source or target in tokens, end of sentence counted.
    """

    source_vocab: int
    target_vocab: int
    pad_id: int
    eos_id: int
    unk_id: int
    start_id: int
    max_positions: int

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """Which rows the model cannot be trained on, by reason.

        Returns:
            For each reason `[rows]`, True where it holds. A row may have several; the first is the one that is told.
        """
        ...


def too_long(lengths: PairLengths, max_positions: int) -> dict[str, Marks]:
    """The reason that all architectures share: a side that, with its end of sentence, has no room."""
    return {TOO_LONG: np.maximum(lengths.source, lengths.target) >= max_positions}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSettings:
    """How a model that writes all positions at once decodes.

    Attributes:
        iterations: Passes of a model that refines its output; others take one.
        candidates: Hypotheses that are followed for each sentence: lengths, fertilities or prefixes, as the model has.
        strategy: greedy; beam: the most probable output summed over alignments; lookahead: positions and tokens
            together (`dag`). auto is the model's own default.
        nbest: How many of the candidates are returned, best first.
        drop_repeats: Leave out a piece that equals the one before it, as the authors' decoder of DA-Transformer does
            (`dag`). Other models ignore it.
    """

    iterations: int = 10
    candidates: int = 1
    strategy: Literal["auto", "greedy", "beam", "lookahead"] = "auto"
    nbest: int = 1
    drop_repeats: bool = True

    def __post_init__(self) -> None:
        for name in ("iterations", "candidates", "nbest"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.nbest > self.candidates:
            raise ValueError(f"nbest must be at most the {self.candidates} candidates, got {self.nbest}")


class Output(NamedTuple):
    """One translation of one sentence.

    Attributes:
        ids: Target ids, no end of sentence, no padding.
        score: What candidates are ranked by.
        logprob: Log-probability that the model gives it, or the part of it that decoding knows.
    """

    ids: list[int]
    score: float
    logprob: float


@runtime_checkable
class ParallelModel(Protocol):
    """A model that does not decode left to right (non-autoregressive, or refining what it wrote)."""

    def translate(self, source: Tensor, settings: ParallelSettings) -> Sequence[Sequence[Output]]:
        """Decode a batch; called in evaluation mode, without gradients.

        Args:
            source: `[batch, source]` ids, end of sentence appended, padded on the right; every row has a real token.
            settings: See `ParallelSettings`.

        Returns:
            For each sentence `settings.nbest` outputs (fewer where the model has no more), best first. A row's outputs
            must not depend on the other rows or on padding.
        """
        ...

    def strategies(self) -> tuple[str, ...]:
        """Which of `ParallelSettings.strategy` it has, beside auto."""
        ...
