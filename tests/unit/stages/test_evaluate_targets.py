"""The log-probability of the targets of training corpora, as `seqkd evaluate` measures it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from seqkd.config.stages import EvaluateConfig
from seqkd.corpus.manifest import read_manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from seqkd.metrics.results import EvaluationResult, read_result
from seqkd.models.checkpoint import load_model
from seqkd.search import score_pairs
from seqkd.stages.evaluate import evaluate
from seqkd.tools.verify import verify
from tests.unit.stages.teachers import make_teacher

ROWS = 40


@pytest.fixture(scope="module")
def root(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, another one with another vocabulary, and a corpus whose targets are those of other rows."""
    root = tmp_path_factory.mktemp("targets")
    make_teacher(root / "model", prepared / "vocab.model")
    manifest, shards = read_manifest(prepared / "train"), []
    for index, table in enumerate(Corpus.open(prepared / "train").tables()):
        turned = pa.array([*range(1, table.num_rows), 0])
        for name in ("target", "target_ids"):
            column = table.column(name).take(turned)
            table = table.set_column(table.schema.get_field_index(name), name, column)
        shards.append(write_shard(make(root / "other"), index, table.slice(1)))  # the first row was rejected
    rows = sum(shard.rows for shard in shards)
    write_manifest(root / "other", dataclasses.replace(manifest, shards=shards, rows=rows))
    return root


def make(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def evaluated(root: Path, prepared: Path, out: Path, **changes: Any) -> EvaluationResult:
    targets = [{"name": "gold", "path": prepared / "train"}, {"name": "other", "path": root / "other"}]
    values = {"name": "m", "model": root / "model", "role": "student", "corpus": prepared / "test", "beams": [1]}
    values |= {"timed": False, "targets": targets, "target_rows": ROWS, **changes}
    evaluate.run(EvaluateConfig.model_validate(values), out, device="cpu")
    return read_result(out)


def test_each_corpus_has_the_mean_log_probability_of_the_rows_that_all_have(
    root: Path, prepared: Path, tmp_path: Path
) -> None:
    found = evaluated(root, prepared, tmp_path / "out")
    loaded = load_model(root / "model")
    ids = Corpus.open(root / "other").read_shard(0).column("id").to_pylist()[:ROWS]
    for name, folder in (("gold", prepared / "train"), ("other", root / "other")):
        rows = {row["id"]: row for table in Corpus.open(folder).tables() for row in table.to_pylist()}
        pairs = [(rows[row]["source_ids"], rows[row]["target_ids"]) for row in ids]
        scores = score_pairs([loaded.model], pairs, batch_tokens=500, device="cpu")  # type: ignore[list-item]
        expected = sum(score.logprob for score in scores) / sum(len(target) + 1 for _, target in pairs)
        assert found.target_logprobs[name] == pytest.approx(expected, rel=1e-4)
    assert found.target_rows == ROWS
    assert list(found.target_logprobs) == ["gold", "other"]
    made_by = read_manifest(tmp_path / "out").fingerprint
    assert made_by["inputs"]["targets.other"] == read_manifest(root / "other").digest()
    assert made_by["config"]["target_rows"] == ROWS
    assert verify(tmp_path / "out", [prepared, root / "other", root / "model"]).problems == []


def test_texts_are_encoded_for_a_model_with_another_vocabulary(root: Path, prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "other", tmp_path / "foreign")
    manifest = read_manifest(tmp_path / "foreign")
    digest = "ab" * 32  # the pieces mean nothing to the model
    extra = {**manifest.extra, "source_vocabulary": digest}
    write_manifest(tmp_path / "foreign", dataclasses.replace(manifest, vocabulary=digest, extra=extra))
    targets = [{"name": "other", "path": root / "other"}, {"name": "foreign", "path": tmp_path / "foreign"}]
    found = evaluated(root, prepared, tmp_path / "out", targets=targets).target_logprobs
    assert found["foreign"] == pytest.approx(found["other"], rel=1e-5)


def test_without_targets_nothing_is_measured(root: Path, prepared: Path, tmp_path: Path) -> None:
    found = evaluated(root, prepared, tmp_path / "out", targets=[], target_rows=500)
    assert (found.target_logprobs, found.target_rows) == ({}, 0)
    assert "target_rows" not in read_manifest(tmp_path / "out").fingerprint["config"]


def test_corpora_without_a_row_in_common_are_refused(root: Path, prepared: Path, tmp_path: Path) -> None:
    manifest, shards = read_manifest(prepared / "train"), []
    for index, table in enumerate(Corpus.open(prepared / "train").tables()):
        ids = pa.array([row + 10_000 for row in table.column("id").to_pylist()], pa.int64())
        shards.append(write_shard(make(tmp_path / "far"), index, table.set_column(0, "id", ids)))
    write_manifest(tmp_path / "far", dataclasses.replace(manifest, shards=shards))
    targets = [{"name": "gold", "path": prepared / "train"}, {"name": "far", "path": tmp_path / "far"}]
    with pytest.raises(CorpusError, match="no row in common") as error:
        evaluated(root, prepared, tmp_path / "out", targets=targets)
    assert error.value.where == "targets: gold, far"
    assert not (tmp_path / "out").exists()
