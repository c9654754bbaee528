"""K-best lists and their gold rows as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Integers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Lists:
    """Rows and their hypotheses, in the order of the rows, best hypothesis first.

    Attributes:
        ids: Row ids `[rows]`.
        sources: Arrow strings `[rows]`.
        source_ids: Arrow lists of int32 `[rows]`.
        references: Arrow strings `[rows]`, the gold targets.
        reference_ids: Arrow lists of int32 `[rows]`.
        hypotheses: Arrow structs `[hypotheses]`, as in a k-best file.
        counts: Hypotheses of each row `[rows]`.
        blanks: Whether the targets' language puts blanks between words.
        language: The code of the targets' language; "" if it is not known.
    """

    ids: Integers
    sources: Any
    source_ids: Any
    references: Any
    reference_ids: Any
    hypotheses: Any
    counts: Integers
    blanks: bool = True
    language: str = ""

    @classmethod
    def of_tables(cls, gold: pa.Table, kbest: pa.Table, *, blanks: bool = True, language: str = "") -> Lists:
        """Combine the rows of a gold table with those of a k-best table in the same order."""
        hypotheses = one_array(kbest.column("hypotheses"))
        return cls(
            ids=gold.column("id").to_numpy(),
            sources=one_array(gold.column("source")),
            source_ids=one_array(gold.column("source_ids")),
            references=one_array(gold.column("target")),
            reference_ids=one_array(gold.column("target_ids")),
            hypotheses=hypotheses.flatten(),
            counts=sizes(hypotheses),
            blanks=blanks,
            language=language,
        )

    def pieces(self, rows: int) -> Iterator[Lists]:
        """Yield parts of at most `rows` rows, so that the memory of a rule does not grow with the shard."""
        ends = np.cumsum(self.counts)
        for start in range(0, len(self.ids), rows):
            stop = min(start + rows, len(self.ids))
            first = int(ends[start] - self.counts[start])
            yield Lists(
                ids=self.ids[start:stop],
                sources=self.sources.slice(start, stop - start),
                source_ids=self.source_ids.slice(start, stop - start),
                references=self.references.slice(start, stop - start),
                reference_ids=self.reference_ids.slice(start, stop - start),
                hypotheses=self.hypotheses.slice(first, int(ends[stop - 1]) - first),
                counts=self.counts[start:stop],
                blanks=self.blanks,
                language=self.language,
            )

    @cached_property
    def firsts(self) -> Integers:
        """Place of each row's first hypothesis `[rows]`."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def owners(self) -> Integers:
        """The row of each hypothesis `[hypotheses]`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def ranks(self) -> Integers:
        """Place of each hypothesis in its list, from 0 `[hypotheses]`."""
        return np.arange(len(self.owners)) - self.firsts[self.owners]

    @cached_property
    def texts(self) -> Any:
        """Arrow strings `[hypotheses]`."""
        return self.hypotheses.field("text")

    @cached_property
    def token_ids(self) -> Any:
        """Arrow lists of int32 `[hypotheses]`."""
        return self.hypotheses.field("ids")

    def sort_by(self, values: Floats) -> Integers:
        """Sort the hypotheses of each row by value, the best first.

        Args:
            values: `[hypotheses]`; ties go to the better score, then to the better rank.

        Returns:
            `[hypotheses]`, the places of the hypotheses, row by row.
        """
        order: Integers = np.lexsort((self.ranks, -self.scores, -values, self.owners))
        return order

    @cached_property
    def lengths(self) -> Integers:
        """Subwords of each hypothesis `[hypotheses]`."""
        return sizes(self.token_ids)

    @cached_property
    def scores(self) -> Floats:
        """The scores of the search `[hypotheses]`."""
        return self._numbers("score")

    @cached_property
    def posterior(self) -> Floats:
        """The teacher's probability of each hypothesis, normalised to a sum of 1 over its list `[hypotheses]`."""
        logprobs = self._numbers("logprob")
        if not len(logprobs):
            return logprobs
        filled = np.flatnonzero(self.counts)
        best = np.zeros(len(self.counts))
        best[filled] = np.maximum.reduceat(logprobs, self.firsts[filled])
        mass = np.exp(logprobs - best[self.owners])
        return mass / np.bincount(self.owners, weights=mass, minlength=len(self.counts))[self.owners]

    def _numbers(self, name: str) -> Floats:
        values: Floats = self.hypotheses.field(name).to_numpy(zero_copy_only=False).astype(np.float64)
        return values


def one_array(column: pa.ChunkedArray) -> Any:
    """Return a column as a single array."""
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def sizes(lists: Any) -> Integers:
    """Return the length of each list of an array."""
    values: Integers = pc.list_value_length(lists).to_numpy(zero_copy_only=False).astype(np.int64)
    return values
