"""The timeline of selective distillation, and rows of data sets that share their sources."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from seqkd.config.report import NamedPath
from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.report.shared import choose_shared
from seqkd.report.switches import switches_table
from seqkd.report.timelines import read_timelines


def test_the_timeline_of_each_data_set(tmp_path: Path) -> None:
    decisions = {"de": [1.0, 0.0, 0.0, 1.0, 0.0], "fr": [0.5, 0.5, 1.0, 1.0, 1.0]}
    lines = [
        {"update": 100 * (n + 1), "metrics": {f"distilled@{group}": found[n] for group, found in decisions.items()}}
        for n in range(5)
    ]
    for line in lines:
        line["metrics"] |= {"bleu@de": 1.0, "teacher_bleu@de": 20.0, "teacher_bleu@fr": 30.0}  # type: ignore[operator]
    (tmp_path / "history.json").write_text(json.dumps(lines))
    german, french = read_timelines("many", tmp_path / "history.json")
    assert [(each.first, each.last, each.share) for each in german.periods] == [
        (0, 200, 1.0),
        (200, 400, 0.0),
        (400, 500, 1.0),
    ]
    assert german.mean == pytest.approx(0.6)
    assert (french.group, french.metric, french.teacher) == ("fr", "bleu", 30.0)
    shown = [[cell.text for cell in row] for row in switches_table([german, french]).rows]
    assert shown == [
        ["many", "de", "BLEU", "20.00", "1\N{EN DASH}200, 401\N{EN DASH}500", "60"],
        ["many", "fr", "BLEU", "30.00", "1\N{EN DASH}100, 101\N{EN DASH}300 (0.5), 301\N{EN DASH}500", "80"],
    ]
    assert read_timelines("plain", tmp_path / "none.json") == []


def corpus(folder: Path, rows: list[dict[str, object]]) -> Corpus:
    folder.mkdir()
    full = [{"source_ids": [5], "target_ids": [6], **row} for row in rows]
    names = [name for name in ("id", "source", "target", "source_ids", "target_ids", "source_row") if name in full[0]]
    shard = write_shard(folder, 0, pa.table({name: [row[name] for row in full] for name in names}))
    made_by = build_fingerprint("prepare", {}, {})
    write_manifest(folder, Manifest(kind="corpus", fingerprint=made_by, rows=len(rows), shards=[shard]))
    return Corpus.open(folder)


def test_the_targets_of_a_source_in_all_data_sets(tmp_path: Path) -> None:
    german = [{"id": n, "source": f"s{n}", "target": f"d{n}"} for n in range(4)]
    gold = corpus(tmp_path / "de", german)
    distilled = corpus(tmp_path / "kd", [{**row, "target": f"k{row['id']}"} for row in german if row["id"] != 3])
    french: list[dict[str, object]] = [
        {"id": 0, "source": "x", "target": "f?", "source_row": None},
        {"id": 1, "source": "s1", "target": "f1", "source_row": 1},
        {"id": 2, "source": "s3", "target": "f3", "source_row": 3},
        {"id": 3, "source": "s1", "target": "again", "source_row": 1},
    ]
    corpus(tmp_path / "fr", french)
    (found,) = choose_shared(gold, [("kd", distilled)], [NamedPath(name="fr", path=tmp_path / "fr")])
    assert (found.id, found.source, found.reference) == (1, "s1", "d1")
    assert [(text.name, text.words) for text in found.targets] == [
        ("kd", (("k1", False),)),
        ("fr", (("f1", False),)),
    ]
