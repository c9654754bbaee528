"""Noise on the sources of corpora that are trained on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from seqkd.errors import ConfigError
from seqkd.models.protocol import Marks, PairLengths, too_long
from seqkd.text.noise import NoiseSettings, WordNoise
from seqkd.text.words import find_word_marks
from seqkd.training.mixing import MixedData
from seqkd.training.noise import Noise, word_noise
from tests.unit.training.test_mixing import LIMIT, corpus_of, part_of

WORDS = 12
Usable = Callable[[PairLengths], dict[str, Marks]]


FITS = partial(too_long, max_positions=LIMIT)


def noise_of(settings: NoiseSettings, unusable: Usable = FITS, seed: int = 1) -> Noise:
    marks = find_word_marks([f"\u2581{n}" for n in range(WORDS)])
    assert marks is not None
    return Noise(WordNoise(settings, marks, blank=3), seed=seed, number=0, unusable=unusable)


def rows_of(sources: list[list[int]], first: int = 0) -> pa.Table:
    kind = pa.list_(pa.int32())
    return pa.table(
        {
            "id": pa.array(range(first, first + len(sources)), pa.int64()),
            "source_ids": pa.array(sources, kind),
            "target_ids": pa.array(sources, kind),
        }
    )


def sources(noise: Noise, table: pa.Table, draw: int = 0) -> list[list[int]]:
    found: list[list[int]] = noise.apply(table, np.full(table.num_rows, draw)).column("source_ids").to_pylist()
    return found


def test_only_sources_change_and_each_draw_is_another_one() -> None:
    table = rows_of([list(range(4, 11))] * 30)
    noise = noise_of(NoiseSettings(drop=0.2, blank=0.2, shuffle=3))
    made = noise.apply(table, np.zeros(30, dtype=np.int64))
    assert made.drop_columns("source_ids") == table.drop_columns("source_ids")
    assert made.schema == table.schema
    first, again, later = sources(noise, table), sources(noise, table), sources(noise, table, 1)
    assert first == again
    assert sum(a != b for a, b in zip(first, later, strict=True)) > 25
    assert len({str(row) for row in first}) > 25  # by the row
    other = sources(noise_of(NoiseSettings(drop=0.2, blank=0.2, shuffle=3), seed=2), table)
    assert sum(a != b for a, b in zip(first, other, strict=True)) > 25


def test_a_row_that_could_not_be_trained_on_keeps_its_source() -> None:
    def needs(lengths: PairLengths) -> dict[str, Marks]:
        assert lengths.repeats.tolist() == [1, 0] * 10
        return {"too short": lengths.target + lengths.repeats > 2 * lengths.source}

    table = rows_of([[4, 5, 5, 6], [4, 5, 6, 7]] * 10)
    noise = noise_of(NoiseSettings(drop=0.4), needs)
    made = sources(noise, table)
    plain = sources(noise_of(NoiseSettings(drop=0.4)), table)
    for row, free, old in zip(made, plain, table.column("source_ids").to_pylist(), strict=True):
        need = 3 if old[1] == old[2] else 2
        assert row == (free if len(free) >= need else old)
    assert any(len(row) < 4 for row in made)
    assert any(len(row) == 4 for row in made)


def test_each_time_a_row_is_drawn_it_has_another_noise_on_any_rank(tmp_path: Path) -> None:
    parts = [part_of(corpus_of(tmp_path / name, 30, first)) for name, first in (("a", 5), ("b", 6))]

    def seen(epochs: range, world: int) -> dict[tuple[int, int], list[list[int]]]:
        found: dict[tuple[int, int], list[list[int]]] = {}
        for rank in range(world):
            data = MixedData(
                parts,
                [2.5, 1.0],
                batch_tokens=40,
                window=1000,
                seed=3,
                rank=rank,
                world=world,
                noises=[noise_of(NoiseSettings(blank=0.4)), None],
            )
            for number in epochs:
                for batch in map(data.load, data.plan(number)):
                    for row, source, target in zip(batch.ids, batch.source.tolist(), batch.target_out, strict=True):
                        place = (int(target[0]), int(row))
                        found.setdefault(place, []).append([piece for piece in source if piece not in (1, 2)])
        return {place: sorted(rows) for place, rows in found.items()}

    alone = seen(range(4), 1)
    assert alone == seen(range(4), 3)
    long = [rows for (word, row), rows in alone.items() if word == 5 and (row - 100) % 15 + 1 >= 8]
    assert long
    assert all(len(rows) > 7 and len({str(row) for row in rows}) > 5 for rows in long)
    assert all(len({str(row) for row in rows}) == 1 for (word, _), rows in alone.items() if word == 6)


class Pieces:
    """A vocabulary of some pieces."""

    path, unk_id, prefix = Path("vocab.model"), 3, ()

    def __init__(self, *more: str) -> None:
        self._pieces = ["<s>", "<pad>", "</s>", "<unk>", *more]

    def pieces(self) -> list[str]:
        return self._pieces

    def id_of(self, piece: str) -> int | None:
        return self._pieces.index(piece) if piece in self._pieces else None


@pytest.mark.parametrize(("more", "blank"), [((), 3), (("<mask>",), 6), (("<mask>", "<blank>"), 7)])
def test_a_blank_is_a_piece_made_for_it_or_the_unknown_piece(more: tuple[str, ...], blank: int) -> None:
    made = word_noise(NoiseSettings(blank=0.99), Pieces("\u2581x", "<bt>", *more), tags=["<bt>"], where="c")  # type: ignore[arg-type]
    ids, _ = made.change(np.array([5, 4, 4, 4, 4], dtype=np.int32), np.array([5]), np.ones(1, dtype=np.uint64))
    assert sorted(ids.tolist()) == sorted([5, 4, *[blank] * 3])
    assert ids[0] == 5


def test_a_vocabulary_without_words_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"needs the borders of words, which the pieces of vocab\.model do not show"):
        word_noise(NoiseSettings(drop=0.1), Pieces("x", "y"), tags=["", ""], where="c")  # type: ignore[arg-type]


def test_a_tag_of_text_stays_with_the_mark_before_it() -> None:
    vocabulary = Pieces("\u2581", "<2de>", "\u2581x", "y")
    made = word_noise(NoiseSettings(drop=0.99), vocabulary, tags=["", "<2de>"], where="c")  # type: ignore[arg-type]
    ids, _ = made.change(np.array([4, 5, 6, 7, 6], dtype=np.int32), np.array([5]), np.ones(1, dtype=np.uint64))
    assert ids.tolist() in ([4, 5, 6, 7], [4, 5, 6])
