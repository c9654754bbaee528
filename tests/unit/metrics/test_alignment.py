from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from seqkd.metrics.alignment import (
    DIAGONAL,
    NULL_PRIOR,
    AlignedCounts,
    RaggedIds,
    align,
    count_cells,
)
from tests.properties import examples

Pair = tuple[list[int], list[int]]
PAIRS = st.lists(
    st.tuples(st.lists(st.integers(0, 6), max_size=5), st.lists(st.integers(0, 6), max_size=5)), max_size=8
)


def ragged(sentences: list[list[int]]) -> RaggedIds:
    return RaggedIds(
        ids=np.array([token for sentence in sentences for token in sentence], dtype=np.int64),
        lengths=np.array([len(sentence) for sentence in sentences], dtype=np.int64),
    )


def run(pairs: list[Pair], iterations: int = 5) -> dict[tuple[int, int], int]:
    return run_together([pairs], iterations)[0]


def run_together(texts: list[list[Pair]], iterations: int = 5) -> list[dict[tuple[int, int], int]]:
    sides = [(ragged([x for x, _ in pairs]), ragged([y for _, y in pairs])) for pairs in texts]
    return [as_dict(aligned) for aligned in align(sides, iterations=iterations)]


def as_dict(aligned: AlignedCounts) -> dict[tuple[int, int], int]:
    rows = zip(aligned.source.tolist(), aligned.target.tolist(), aligned.counts.tolist(), strict=True)
    return {(source, target): count for source, target, count in rows}


def plain_align(pairs: list[Pair], iterations: int) -> dict[tuple[int, int], int]:
    """The same algorithm as loops over dictionaries; NULL is None."""

    def prior(i: int, rows: int, columns: int) -> list[float]:
        weights = [np.exp(-DIAGONAL * abs((i + 0.5) / rows - (j + 0.5) / columns)) for j in range(columns)]
        return [NULL_PRIOR] + [(1 - NULL_PRIOR) * weight / sum(weights) for weight in weights]

    seen = {(x, y) for source, target in pairs for y in target for x in (None, *source)}
    fan = Counter(x for x, _ in seen)
    table = {(x, y): 1.0 / fan[x] for x, y in seen}
    for _ in range(iterations):
        counts: dict[tuple[int | None, int], float] = dict.fromkeys(table, 0.0)
        for source, target in pairs:
            for i, y in enumerate(target):
                weights = [
                    p * table[x, y] for p, x in zip(prior(i, len(target), len(source)), (None, *source), strict=True)
                ]
                for weight, x in zip(weights, (None, *source), strict=True):
                    counts[x, y] += weight / sum(weights)
        totals: Counter[int | None] = Counter()
        for (x, _), count in counts.items():
            totals[x] += count  # type: ignore[assignment]
        table = {(x, y): count / totals[x] for (x, y), count in counts.items()}
    found: Counter[tuple[int, int]] = Counter()
    for source, target in pairs:
        for i, y in enumerate(target):
            row = (None, *source)
            weights = [p * table[x, y] for p, x in zip(prior(i, len(target), len(source)), row, strict=True)]
            best = row[int(np.argmax(np.round(weights, 9)))]
            if best is not None:
                found[best, y] += 1
    return dict(found)


def test_words_are_told_apart_by_their_company() -> None:
    pairs: list[Pair] = [([1, 2], [11, 12]), ([2, 3], [12, 13]), ([3, 1], [13, 11]), ([1], [11])]
    assert run(pairs * 3) == {(1, 11): 9, (2, 12): 6, (3, 13): 6}


def test_agrees_with_the_textbook_loops() -> None:
    rng = np.random.default_rng(1)
    pairs: list[Pair] = []
    for _ in range(40):
        source = rng.integers(0, 9, size=rng.integers(1, 9)).tolist()
        pairs.append((source, [10 + x for x in source if rng.random() < 0.9] or [30]))
    assert run(pairs) == plain_align(pairs, 5)


def test_the_prior_settles_what_the_words_leave_open() -> None:
    assert run([([1, 2, 3], [11, 12, 13])]) == {(1, 11): 1, (2, 12): 1, (3, 13): 1}


@examples(60)
@given(pairs=PAIRS)
def test_every_target_word_is_aligned_at_most_once_and_within_its_sentence(pairs: list[Pair]) -> None:
    found = run(pairs)
    targets = Counter(y for _, target in pairs for y in target)
    aligned: Counter[int] = Counter()
    for (x, y), count in found.items():
        aligned[y] += count
        assert any(x in source and y in target for source, target in pairs)
    assert all(count <= targets[y] for y, count in aligned.items())


def test_the_counts_of_texts_add_up_to_those_of_one_text() -> None:
    """One model is fitted on all texts, so it makes no difference where one text ends."""
    rng = np.random.default_rng(2)
    pairs: list[Pair] = []
    for _ in range(60):
        source = rng.integers(0, 9, size=rng.integers(1, 9)).tolist()
        pairs.append((source, [10 + x for x in source if rng.random() < 0.9] or [30]))
    together: Counter[tuple[int, int]] = Counter()
    for found in run_together([pairs[:10], [], pairs[10:25], pairs[25:]]):
        together.update(found)
    assert dict(together) == run(pairs)


def test_a_text_is_aligned_by_what_the_other_texts_show() -> None:
    """Alone, the second text would align its words along the diagonal."""
    clear: list[Pair] = [([1], [11]), ([2], [12])] * 5
    crossed: list[Pair] = [([1, 2], [12, 11])]
    assert run(crossed) == {(1, 12): 1, (2, 11): 1}
    assert run_together([clear, crossed])[1] == {(1, 11): 1, (2, 12): 1}


def test_empty_sides_align_nothing() -> None:
    assert run([]) == {}
    assert run([([1], []), ([], [])]) == {}
    assert run([([], [5, 6])]) == {}
    assert run_together([]) == []
    assert run_together([[], [([1], [5])]]) == [{}, {(1, 5): 1}]


def test_cells_count_the_combinations() -> None:
    assert count_cells(np.array([2, 0]), np.array([3, 4])).tolist() == [9, 4]
