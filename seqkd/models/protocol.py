"""The interface of models that the rest of seqkd uses, whatever their architecture."""

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
    """The lengths of rows, without end of sentence.

    Attributes:
        source: `[rows]` source tokens.
        target: `[rows]` target tokens.
        repeats: `[rows]` target tokens that equal the token before them.
    """

    source: Lengths
    target: Lengths
    repeats: Lengths


class SequenceModel(Protocol):
    """A model that turns source ids into target ids. Every architecture implements it.

    Attributes:
        source_vocab: Number of source pieces, including special ids.
        target_vocab: Number of target pieces, including special ids.
        pad_id: The id of padding.
        eos_id: The id of end of sentence.
        unk_id: The id of the unknown piece.
        start_id: The id that a decoder reads first.
        max_positions: Longest source or target in tokens, including end of sentence.
    """

    source_vocab: int
    target_vocab: int
    pad_id: int
    eos_id: int
    unk_id: int
    start_id: int
    max_positions: int

    def unusable(self, lengths: PairLengths) -> dict[str, Marks]:
        """Mark the rows on which the model cannot be trained, by reason.

        Returns:
            For each reason `[rows]`, True for the rows to which it applies. If several apply, the first is reported.
        """
        ...


def too_long(lengths: PairLengths, max_positions: int) -> dict[str, Marks]:
    """Mark the rows with a side that, with end of sentence, is longer than `max_positions`."""
    return {TOO_LONG: np.maximum(lengths.source, lengths.target) >= max_positions}


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelSettings:
    """Settings of the decoding of models that write all positions at once.

    Attributes:
        iterations: Passes of a model that refines its output. Other models take one pass.
        candidates: Candidates for each sentence: lengths, fertilities or prefixes, depending on the model.
        strategy: greedy: the best piece of each position; beam: the most probable output, summed over alignments;
            lookahead: positions and tokens together (`dag`); auto: the default of the model.
        nbest: Number of candidates to return, best first.
        drop_repeats: Whether a piece that equals the piece before it is left out, as in the authors' decoder of
            DA-Transformer (`dag`). Other models ignore this setting.
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
        ids: Target ids, without end of sentence and padding.
        score: The value by which candidates are ranked.
        logprob: The log-probability under the model, or the part of it that decoding computes.
    """

    ids: list[int]
    score: float
    logprob: float


@runtime_checkable
class ParallelModel(Protocol):
    """A model that does not decode left to right: a non-autoregressive model, or one that refines its output."""

    def translate(self, source: Tensor, settings: ParallelSettings) -> Sequence[Sequence[Output]]:
        """Decode a batch, in evaluation mode and without gradients.

        Args:
            source: `[batch, source]` ids with end of sentence, padded on the right. Every row has a real token.
            settings: See `ParallelSettings`.

        Returns:
            For each sentence `settings.nbest` outputs, or fewer if the model has no more, best first. The outputs of a
            row must not depend on other rows or on padding.
        """
        ...

    def strategies(self) -> tuple[str, ...]:
        """Return the values of `ParallelSettings.strategy`, other than auto, that the model supports."""
        ...
