"""Text with several targets for each source, and the languages of texts and outputs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqkd.config.stages import ReportConfig
from seqkd.corpus.manifest import Manifest, write_manifest
from seqkd.corpus.writer import write_shard
from seqkd.errors import TextError
from seqkd.report import gather
from seqkd.report.page import render
from tests.unit.report.report_folders import evaluation, made_by, make, named, parallel, write_evaluation

SOURCES = 40
NAMES = ("de", "fr", "cs", "es")


def write_text(folder: Path, rows: list[dict[str, Any]], **extra: Any) -> None:
    folder.mkdir(parents=True)
    shards = [write_shard(folder, 0, pa.Table.from_pylist(rows))]
    manifest = Manifest(kind="corpus", fingerprint=made_by(folder), rows=len(rows), shards=shards, extra=extra)
    write_manifest(folder, manifest)


def word(language: int, row: int) -> str:
    return f"{NAMES[language]}{row % 7}"


def make_row(number: int, source: int, language: int) -> dict[str, Any]:
    """Three words, each translated by the dictionary of a language."""
    words = [source % 7, (source + 2) % 7, (source + 5) % 7]
    return {
        "id": number,
        "source": f"satz {source}",
        "target": " ".join(word(language, each) for each in words),
        "source_ids": [10 + each for each in words],
        "target_ids": [100 * (language + 1) + each for each in words],
    }


def write_run(root: Path, languages: int) -> ReportConfig:
    """A run with targets in several languages; `one` has a single one of them, and `mixed` another one in each row."""
    rows = [make_row(row, row // languages, row % languages) for row in range(SOURCES * languages)]
    gold = [row | {"source_row": row["id"] // languages * languages} for row in rows]
    write_text(root / "gold" / "train", gold, targets=languages)
    write_manifest(root / "gold", Manifest(kind="prepared", fingerprint=made_by(root)))
    write_text(root / "one", rows[::languages])
    write_text(root / "mixed", [rows[source * languages + source % languages] for source in range(SOURCES)])
    for language in range(languages):
        lines = [row["target"] + "\n" for row in rows[language::languages]]
        (root / f"{NAMES[language]}.txt").write_text("".join(lines))
    outputs = {
        "teacher": [row["target"] for row in rows[::languages]],
        "nat": [f"{word(0, row)} {word(1, row)} {word(row % languages, row)} unseen" for row in range(SOURCES)],
    }
    for model in (evaluation("teacher", role="teacher", rows=SOURCES), parallel("nat", 5.5, rows=SOURCES)):
        folder = root / "evaluations" / model.name
        write_evaluation(folder, model)
        file = "hypotheses.nat.txt" if model.parallel else "hypotheses.beam5.txt"
        (folder / file).write_text("".join(f"{line}\n" for line in outputs[model.name]))
    return ReportConfig.model_validate(
        {
            "pipeline": "p",
            "prepared": root / "gold",
            "corpora": named(root, "one", "mixed"),
            "evaluations": named(root, "evaluations/teacher", "evaluations/nat"),
            "languages": [
                {"name": name, "text": root / f"{name}.txt", "test": root / f"{name}.txt"} for name in NAMES[:languages]
            ],
        }
    )


def test_complexity_and_faithfulness_count_all_targets_of_the_shared_sources(tmp_path: Path) -> None:
    contents = gather.gather(write_run(tmp_path, 3))
    gold, one, mixed = contents.corpora
    assert contents.aligned_rows == SOURCES
    assert gold.complexity == pytest.approx(math.log(3), abs=0.01)
    assert one.complexity == 0.0
    assert mixed.complexity == pytest.approx(math.log(3), abs=0.15)
    assert gold.faithfulness == pytest.approx(0.0)
    assert gold.rows == 3 * SOURCES
    assert one.faithfulness is not None
    assert mixed.faithfulness is not None
    assert one.faithfulness > 1.0 > 0.2 > mixed.faithfulness
    assert {sample.id % 3 for sample in contents.samples} == {0}


def test_the_languages_of_texts_corpora_and_outputs(tmp_path: Path) -> None:
    page, data = make(write_run(tmp_path, 3), tmp_path / "report")
    found = {(entry["kind"], entry["name"]): entry for entry in data["languages"]}
    assert list(found) == [
        *(("language", name) for name in NAMES[:3]),
        *(("corpus", name) for name in ("gold", "one", "mixed")),
        *(("test language", name) for name in NAMES[:3]),
        ("model", "teacher"),
        ("model", "nat"),
    ]
    for key, entry in found.items():
        assert entry["purity"] == (0.0 if key == ("model", "nat") else 1.0), key
    assert found["corpus", "gold"]["shares"] == pytest.approx({"de": 1 / 3, "fr": 1 / 3, "cs": 1 / 3})
    assert found["corpus", "one"]["shares"] == {"de": 1.0, "fr": 0.0, "cs": 0.0}
    nat = found["model", "nat"]
    assert (nat["unknown"], nat["sentences"], nat["words"]) == (0.25, SOURCES, 4 * SOURCES)
    assert nat["bin_entropies"][8] == pytest.approx(math.log(3))  # the last of four words is unknown
    assert "points" not in nat
    assert "<h2>Languages</h2>" in page
    assert page.count("Sentences between the languages") == 1
    for name in NAMES[:3]:
        assert f">{name}</text>" in page
    assert "#0a0a0" not in page  # all colours follow the page from light to dark
    assert "#0b0b0" not in page


@pytest.mark.parametrize(("languages", "drawn"), [(2, True), (4, False)])
def test_two_languages_have_a_line_and_four_have_no_corners(languages: int, drawn: bool, tmp_path: Path) -> None:
    page = render(gather.gather(write_run(tmp_path, languages)))
    assert ("Sentences between the languages" in page) == drawn
    assert "Own language, by position" in page


def test_without_languages_nothing_is_measured(tmp_path: Path) -> None:
    config = write_run(tmp_path, 2).model_copy(update={"languages": ()})
    page, data = make(config, tmp_path / "report")
    assert "languages" not in data
    assert "<h2>Languages</h2>" not in page
    assert not any("languages" in name for name in _inputs(tmp_path / "report"))


def test_a_changed_or_missing_text_is_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_run(tmp_path, 2)
    make(config, tmp_path / "report")
    assert {"languages.de", "languages.fr.test"} <= _inputs(tmp_path / "report").keys()
    make(config, tmp_path / "report")
    assert "is up to date" in capsys.readouterr().err
    (tmp_path / "fr.txt").unlink()
    with pytest.raises(TextError, match=r"fr\.txt"):
        make(config, tmp_path / "report")


def _inputs(report: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((report / "manifest.json").read_text())["fingerprint"]["inputs"]
    return found
