from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seqkd.config.stages import PrepareConfig, SampleConfig
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError, TextError
from seqkd.stages.prepare import prepare, sample
from seqkd.tools.verify import verify

SOURCES = ["the old cat sees a dog", "a dog", "the dog sees the cat", "a cat and a dog"]
TARGETS = {
    "de": ["die alte Katze sieht einen Hund", "ein Hund", "der Hund sieht die Katze", ""],
    "fr": ["le vieux chat voit un chien", "un chien", "le chien voit le chat", "un chat et un chien"],
}


@pytest.fixture
def config(tmp_path: Path) -> PrepareConfig:
    for name, lines in {"en": SOURCES, **TARGETS}.items():
        (tmp_path / f"train.{name}").write_text("".join(f"{line}\n" for line in lines * 3), encoding="utf-8")
        (tmp_path / f"held.{name}").write_text("".join(f"{line}\n" for line in lines[:2]), encoding="utf-8")
    train, held = (
        {"source": tmp_path / f"{part}.en", "target": [tmp_path / f"{part}.de", tmp_path / f"{part}.fr"]}
        for part in ("train", "held")
    )
    return PrepareConfig.model_validate(
        {
            "train": train,
            "valid": held,
            "test": held,
            "vocabulary": {"size": 30, "byte_fallback": False},
            "cleaning": {"drop_duplicates": True},
            "shard_rows": 3,
        }
    )


def rows(corpus: Path, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for table in Corpus.open(corpus).tables(list(columns)) for row in table.to_pylist()]


def test_each_target_of_a_source_is_a_row(config: PrepareConfig, tmp_path: Path) -> None:
    out = tmp_path / "gold"
    prepare.run(config, out)
    # The pairs of a line lie side by side. An empty target and repeated pairs are left out.
    kept = [
        (0, SOURCES[0], TARGETS["de"][0], 0),
        (1, SOURCES[0], TARGETS["fr"][0], 0),
        (2, SOURCES[1], TARGETS["de"][1], 2),
        (3, SOURCES[1], TARGETS["fr"][1], 2),
        (4, SOURCES[2], TARGETS["de"][2], 4),
        (5, SOURCES[2], TARGETS["fr"][2], 4),
        (6, SOURCES[3], TARGETS["fr"][3], 6),
    ]
    assert rows(out / "train", "id", "source", "target", "source_row") == kept
    assert read_manifest(out).counts["duplicate pair"] == 14
    listed = (out / "rejected.tsv").read_text().splitlines()
    assert listed[:4] == ["line\treason\ttarget", "4\tempty side\t1", "5\tduplicate pair\t1", "5\tduplicate pair\t2"]
    assert len(listed) == 1 + 24 - len(kept)


def test_validation_text_has_a_row_for_each_target_and_test_text_several_references(
    config: PrepareConfig, tmp_path: Path
) -> None:
    prepare.run(config, tmp_path / "gold")
    valid = rows(tmp_path / "gold" / "valid", "source", "target")
    assert valid == [(SOURCES[row], TARGETS[name][row]) for row in (0, 1) for name in ("de", "fr")]
    test = rows(tmp_path / "gold" / "test", "target", "further_references")
    assert test == [(TARGETS["de"][row], [TARGETS["fr"][row]]) for row in (0, 1)]


def test_all_targets_have_as_many_lines_as_the_source(config: PrepareConfig, tmp_path: Path) -> None:
    (tmp_path / "train.fr").write_text("un chat\n")
    with pytest.raises(TextError, match=r"train\.en"):
        prepare.run(config, tmp_path / "gold")
    assert not (tmp_path / "gold").exists()


def test_one_target_in_a_list_is_one_target(config: PrepareConfig, tmp_path: Path) -> None:
    def narrow(part: str, *, listed: bool) -> dict[str, Any]:
        text = getattr(config, part)
        return {part: text.model_copy(update={"target": text.target[:1] if listed else text.target[0]})}

    for name, listed in (("alone", False), ("list", True)):
        changes = narrow("train", listed=listed) | narrow("valid", listed=listed)
        prepare.run(config.model_copy(update=changes), tmp_path / name)
    assert read_manifest(tmp_path / "alone").fingerprint == read_manifest(tmp_path / "list").fingerprint
    assert "source_row" not in Corpus.open(tmp_path / "list" / "train").schema.names


# --- one target of each source ------------------------------------------------------------------------------------


def test_a_sample_has_one_target_of_each_source(config: PrepareConfig, tmp_path: Path) -> None:
    """The shards hold three rows, so that the targets of the second source lie in two of them."""
    gold = tmp_path / "gold"
    prepare.run(config, gold)
    everything = {row[0]: row for row in rows(gold / "train", "id", "source", "target")}
    drawn = Counter[int]()
    for seed in range(60):
        out = tmp_path / "samples" / str(seed)
        sample.run(SampleConfig(corpus=gold / "train", seed=seed), out)
        found = rows(out, "id", "source", "target")
        assert [row[1] for row in found] == SOURCES
        assert all(everything[row[0]] == row for row in found)
        drawn.update(row[0] for row in found)
    assert drawn[6] == 60  # the only target that is left of its source
    assert all(15 < drawn[row] < 45 for row in range(6))
    assert "source_row" not in Corpus.open(tmp_path / "samples" / "0").schema.names
    assert verify(tmp_path / "samples" / "0", [gold]).problems == []


def test_a_sample_is_the_same_however_the_corpus_is_cut(config: PrepareConfig, tmp_path: Path) -> None:
    for name, size in (("small", 2), ("large", 100)):
        prepare.run(config.model_copy(update={"shard_rows": size}), tmp_path / name)
        sample.run(SampleConfig(corpus=tmp_path / name / "train"), tmp_path / f"{name}-sample")
    small, large = (rows(tmp_path / f"{name}-sample", "id", "target") for name in ("small", "large"))
    assert small == large


def test_a_corpus_with_one_target_has_nothing_to_draw(config: PrepareConfig, tmp_path: Path) -> None:
    one = config.train.model_copy(update={"target": config.train.references[0]})
    prepare.run(config.model_copy(update={"train": one}), tmp_path / "gold")
    with pytest.raises(CorpusError, match="has one target for each source"):
        sample.run(SampleConfig(corpus=tmp_path / "gold" / "train"), tmp_path / "sample")
    assert not (tmp_path / "sample").exists()


def test_sources_with_several_targets_are_not_joined_with_another_data_set(config: PrepareConfig) -> None:
    with pytest.raises(ValueError, match=r"shares_sources: train\.target has several targets"):
        PrepareConfig(**(dict(config) | {"shares_sources": Path("other")}))
