"""Training a student on several corpora at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from seqkd.cli.main import main
from seqkd.config.stages import TrainConfig
from seqkd.config.toml import load_stage, to_toml, validate
from seqkd.corpus.manifest import Manifest, build_fingerprint, read_manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.errors import ConfigError, ConflictError, CorpusError, WorkError
from seqkd.models.checkpoint import model_digest
from seqkd.stages.prepare import prepare
from seqkd.stages.train import train
from tests.unit.stages.interrupted import stop_at
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import MODEL, TRAINING, make_teacher


@pytest.fixture(scope="module")
def other(prepared: Path) -> Path:
    """The gold corpus' ids and sources with the targets of other rows, in another number of shards."""
    rows = [row for table in Corpus.open(prepared / "train").tables() for row in table.to_pylist()]
    for row, giver in zip(rows, [*rows[1:], rows[0]], strict=True):
        row["target"], row["target_ids"] = giver["target"] + " .", list(giver["target_ids"])
    folder = prepared.parent / "other"
    folder.mkdir()
    shard = write_shard(folder, 0, pa.Table.from_pylist(rows))
    vocabulary = read_manifest(prepared).vocabulary
    made_by = build_fingerprint("select", {}, {})
    manifest = Manifest(kind="corpus", fingerprint=made_by, rows=len(rows), shards=[shard], vocabulary=vocabulary)
    write_manifest(folder, manifest)
    return folder


def mix(prepared: Path, other: Path, first: float = 0.5, second: float = 2.0, **more: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "prepared": prepared,
        "corpus": [{"path": prepared / "train", "weight": first}, {"path": other, "weight": second}],
        "model": MODEL,
        "training": {**TRAINING, **more.pop("training", {})},
    }
    return validate(TrainConfig, {**values, **more}, "test")


def test_an_interrupted_run_ends_with_the_same_model(
    prepared: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = mix(prepared, other, training={"max_updates": 90, "validate_every": 45})  # more than one epoch
    train.run(config, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, 70)
        with pytest.raises(WorkError, match="stopped at update 70 of 90"):
            train.run(config, tmp_path / "stopped", device="cpu")
    train.run(config, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")


NOISE = {"drop": 0.2, "blank": 0.2, "shuffle": 3}


def in_turn(prepared: Path, other: Path, *updates: int, **more: Any) -> TrainConfig:
    blocks = [
        {"corpus": path, "updates": size} for path, size in zip((prepared / "train", other), updates, strict=True)
    ]
    values = {"prepared": prepared, "alternate": blocks, "model": MODEL, "training": TRAINING}
    return validate(TrainConfig, {**values, **more}, "test")


@pytest.mark.parametrize("way", ["blocks", "noise"])
def test_blocks_and_noise_go_on_where_they_stopped(
    way: str, prepared: Path, other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {**TRAINING, "max_updates": 40, "validate_every": 20, "accumulate": 2}
    config = in_turn(prepared, other, 7, 4, training=training)
    if way == "noise":
        config = mix(prepared, other, training=training, corpus={"path": prepared / "train", "noise": NOISE})
    train.run(config, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, 30)  # in the middle of a block
        with pytest.raises(WorkError, match="stopped at update 30 of 40"):
            train.run(config, tmp_path / "stopped", device="cpu")
    train.run(config, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")


def test_blocks_and_noise_are_in_the_fingerprint(prepared: Path, other: Path) -> None:
    made_by = train.settings(in_turn(prepared, other, 7, 4))
    assert made_by["alternate"] == [7, 4]
    assert made_by.keys().isdisjoint({"weights", "noise"})
    noisy = mix(prepared, other, corpus=[{"path": prepared / "train"}, {"path": other, "noise": {"drop": 0.2}}])
    assert train.settings(noisy)["noise"] == [None, {"drop": 0.2}]
    alone = mix(prepared, other, corpus={"path": other, "noise": NOISE})
    assert (train.settings(alone)["weights"], train.settings(alone)["noise"]) == ([1.0], [NOISE])
    assert "noise" not in train.settings(mix(prepared, other))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"alternate": [{"corpus": "a", "updates": 0}, {"corpus": "b", "updates": 5}]}, "alternate.0.updates: Input"),
        ({"alternate": [{"corpus": "a", "updates": 5}]}, "alternate: has one block, but blocks alternate"),
        ({"alternate": [{"corpus": "a", "updates": 5}] * 2}, "a is listed twice; give it a larger weight, or a longer"),
        ({"alternate": [{"corpus": "a", "updates": 5}] * 2, "corpus": "a"}, "give either `corpus` or `alternate`"),
        ({}, "corpus: missing"),
        ({"corpus": {"path": "a", "noise": {"drop": 0.0}}}, "noise: changes nothing"),
        (
            {"corpus": {"path": "a", "noise": NOISE}, "objective": {"type": "word_kd", "soft_targets": "s"}},
            "a weight or noise; let teachers run beside the student",
        ),
    ],
)
def test_blocks_and_noise_that_cannot_be(values: dict[str, Any], message: str) -> None:
    table = {"prepared": "p", "model": MODEL, "training": TRAINING, **values}
    with pytest.raises(ConfigError) as caught:
        validate(TrainConfig, table, "test")
    assert message in str(caught.value)


def test_the_fingerprint_has_every_corpus_and_weight(prepared: Path, other: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    train.run(mix(prepared, other), out, device="cpu")
    made_by = read_manifest(out).fingerprint
    assert made_by["config"]["weights"] == [0.5, 2.0]
    assert made_by["inputs"]["corpus1"] == read_manifest(prepared / "train").digest()
    assert made_by["inputs"]["corpus2"] == read_manifest(other).digest()
    assert read_manifest(out).rows == 2 * Corpus.open(other).rows
    with pytest.raises(ConflictError, match=r"config\.weights: \[0\.5, 2\.0\] -> \[0\.5, 3\.0\]"):
        train.run(mix(prepared, other, second=3.0), out, device="cpu")


def test_one_corpus_in_a_list_is_that_corpus(prepared: Path, tmp_path: Path) -> None:
    out, path = tmp_path / "model", prepared / "train"
    train.run(mix(prepared, path, corpus=str(path)), out, device="cpu")
    before = model_digest(out)
    train.run(mix(prepared, path, corpus=[{"path": path}]), out, device="cpu")  # up to date
    assert model_digest(out) == before
    with pytest.raises(ConflictError, match=r"config\.weights: \(absent\) -> \[2\.0\]"):
        train.run(mix(prepared, path, corpus=[{"path": path, "weight": 2}]), out, device="cpu")


def test_rejected_rows_are_listed_by_corpus(prepared: Path, other: Path, tmp_path: Path) -> None:
    expected, limit = [], 9
    for number, path in enumerate((prepared / "train", other), start=1):
        ids, sources, targets = Corpus.open(path).lengths()
        expected += [(f"corpus{number}", int(row)) for row in ids[np.maximum(sources, targets) >= limit]]
    train.run(mix(prepared, other, model={**MODEL, "max_positions": limit}), tmp_path / "m", device="cpu")
    lines = [line.split("\t") for line in (tmp_path / "m" / "rejected.tsv").read_text().splitlines()]
    assert lines[0] == ["corpus", "id", "reason"]
    assert [(name, int(row)) for name, row, _ in lines[1:]] == expected
    assert read_manifest(tmp_path / "m").counts == {"longer than max_positions": len(expected)}


def test_every_corpus_must_have_the_vocabulary(prepared: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    prepare.run(prepare_config(tmp_path / "text", size=38), tmp_path / "foreign")
    with pytest.raises(CorpusError, match="a target vocabulary other than") as caught:
        train.run(mix(prepared, tmp_path / "foreign" / "train"), tmp_path / "m", device="cpu")
    assert caught.value.where == str(tmp_path / "foreign" / "train")
    assert not (tmp_path / "m").exists()


def test_a_loss_that_is_not_finite_names_rows_and_corpora(prepared: Path, other: Path, tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path / "teacher", prepared / "vocab.model", nan=True)
    objective = {"type": "word_kd", "teachers": [teacher], "alpha": 1.0}
    with pytest.raises(WorkError) as caught:
        train.run(mix(prepared, other, 1.0, 1.0, objective=objective), tmp_path / "m", device="cpu")
    assert f" of {prepared / 'train'}" in caught.value.where
    assert f" of {other}" in caught.value.where


def test_live_teachers_teach_on_all_corpora(prepared: Path, other: Path, tmp_path: Path) -> None:
    teacher = make_teacher(tmp_path / "teacher", prepared / "vocab.model")
    config = mix(prepared, other, objective={"type": "word_kd", "teachers": [teacher]})
    train.run(config, tmp_path / "m", device="cpu")
    assert read_manifest(tmp_path / "m").extra["updates"] == TRAINING["max_updates"]


@pytest.mark.parametrize(
    ("corpus", "more", "message"),
    [
        (["a", "a"], {}, "corpus: a is listed twice; give it a larger weight, or a longer block"),
        (
            ["a", "b"],
            {"objective": {"type": "word_kd", "soft_targets": "s"}},
            "objective.soft_targets: hold each row of one",
        ),
        ([], {}, "corpus: Tuple should have at least 1 item"),
    ],
)
def test_mixes_that_cannot_be(corpus: list[str], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        mix(Path("p"), Path("o"), corpus=[{"path": path} for path in corpus], **more)
    assert message in str(caught.value)


def test_weights_are_checked_where_they_stand() -> None:
    for weight in (0, -1.0, float("inf")):
        with pytest.raises(ConfigError, match=r"corpus\.1\.weight: "):
            mix(Path("p"), Path("o"), second=weight)


def test_the_real_command_and_inspect(
    prepared: Path, other: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, config = tmp_path / "train.toml", mix(prepared, other)
    file.write_text(to_toml(config))
    assert load_stage(TrainConfig, file) == config
    assert main(["train", "--config", str(file), "--out", str(tmp_path / "m"), "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "m")]) == 0
    shown = capsys.readouterr().out
    assert f"0.5 {read_manifest(prepared / 'train').digest()[:12]}" in shown
    assert f"2 {read_manifest(other).digest()[:12]}" in shown
