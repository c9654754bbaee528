"""Distill: the same bytes however often it is interrupted and however many processes work."""

from __future__ import annotations

import dataclasses
import gc
import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from seqkd.cli.main import main
from seqkd.config.stages import (
    BitextConfig,
    DistillConfig,
    PrepareConfig,
    SearchConfig,
    SelectConfig,
    VocabularyConfig,
)
from seqkd.corpus.manifest import read_manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.errors import ConflictError, CorpusError, WorkError
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.registry import build
from seqkd.search import score_pairs
from seqkd.stages.distill import distill
from seqkd.stages.prepare import prepare
from seqkd.stages.select import select
from seqkd.text.vocabulary import Vocabulary
from tests.events import interrupted_before, placed
from tests.manifests import comparable

ROWS = 90


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    draw = random.Random(3)
    words = ["eins", "zwei", "drei", "vier", "acht", "neun", "zehn"]
    for name, count in (("train", ROWS), ("valid", 3), ("test", 3)):
        lines = [" ".join(draw.choices(words, k=draw.randint(1, 6))) + f" {row}" for row in range(count)]
        (folder / f"{name}.s").write_text("\n".join(lines) + "\n")
        (folder / f"{name}.t").write_text("\n".join(line[::-1] for line in lines) + "\n")
    sides = {
        name: BitextConfig(source=folder / f"{name}.s", target=folder / f"{name}.t")
        for name in ("train", "valid", "test")
    }
    config = PrepareConfig(**sides, vocabulary=VocabularyConfig(size=50, byte_fallback=False), shard_rows=40)
    prepare.run(config, folder / "gold")
    return folder / "gold"


def make_teacher(
    folder: Path, vocabulary: Path, *, source: Path | None = None, broken: bool = False, max_positions: int = 64
) -> Path:
    torch.manual_seed(1)
    settings: dict[str, Any] = {
        "dim": 32,
        "heads": 2,
        "ffn_dim": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "max_positions": max_positions,
    }
    if source is not None:
        settings["embeddings"] = "decoder"
    sizes = {
        "source_vocab": Vocabulary.load(source or vocabulary).size,
        "target_vocab": Vocabulary.load(vocabulary).size,
    }
    model = build("transformer", settings, **sizes)
    if broken:
        with torch.no_grad():
            model.get_parameter("target_embedding")[9] = float("nan")
    folder.mkdir()
    save_model(folder, model, arch="transformer", settings=settings, vocab=vocabulary, source_vocab=source)
    return folder


@pytest.fixture(scope="module")
def teacher(prepared: Path) -> Path:
    return make_teacher(prepared.parent / "teacher", prepared / "vocab.model")


def test_a_source_longer_than_the_teacher_gets_no_hypothesis_is_counted_and_listed(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = make_teacher(tmp_path / "small", prepared / "vocab.model", max_positions=16)
    gold = Corpus.open(prepared / "train")
    lengths = {row["id"]: len(row["source_ids"]) for table in gold.tables() for row in table.to_pylist()}
    long = [row for row, length in lengths.items() if length >= 16]  # end of sentence counted
    assert 0 < len(long) < ROWS
    out = tmp_path / "out"
    for workers, name in ((1, "out"), (2, "again")):
        distill.run(settings(prepared, small, workers=workers), tmp_path / name, device="cpu")
    assert contents(out) == contents(tmp_path / "again")
    found = {row["id"]: row["hypotheses"] for table in Corpus.open(out).tables() for row in table.to_pylist()}
    assert [row for row, hypotheses in found.items() if not hypotheses] == long
    assert read_manifest(out).counts == {"source longer than max_positions": len(long)}
    best = [hypotheses[0]["ids"] for hypotheses in found.values() if hypotheses]
    assert read_manifest(out).target_tokens == sum(map(len, best))
    lines = [f"{row}\tsource longer than max_positions" for row in long]
    assert (out / "rejected.tsv").read_text().splitlines() == ["id\treason", *lines]
    assert f"without a hypothesis: {len(long)} source longer than max_positions" in capsys.readouterr().err
    assert main(["verify", str(out), "--inputs", str(prepared)]) == 0
    assert main(["inspect", str(out)]) == 0
    assert "source longer than max_positions" in capsys.readouterr().out  # among the rows by reason

    for rejected in ("drop", "gold"):
        chosen = tmp_path / f"select-{rejected}"
        select.run(
            SelectConfig(kbest=out, gold=prepared / "train", prepared=prepared, rule="seqkd", rejected=rejected), chosen
        )
        rows = {row["id"]: row for table in Corpus.open(chosen).tables() for row in table.to_pylist()}
        listed = [line.split("\t") for line in (chosen / "rejected.tsv").read_text().splitlines()[1:]]
        assert {int(row) for row, reason, _ in listed if reason == "no hypothesis"} == set(long)
        if rejected == "drop":
            assert not set(long) & rows.keys()
        else:
            assert {rows[row]["origin"] for row in long} == {"gold"}


def settings(prepared: Path, teacher: Path, *, workers: int = 1, beam: int = 3) -> DistillConfig:
    return DistillConfig(
        models=(teacher,),
        corpus=prepared / "train",
        search=SearchConfig(beam=beam, nbest=2),
        batch_tokens=120,
        workers=workers,
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: comparable(p) for p in folder.iterdir() if p.suffix == ".arrow" or p.name == "manifest.json"}


def test_every_row_gets_its_list(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    distill.run(settings(prepared, teacher), tmp_path / "out", device="cpu")
    gold, found = Corpus.open(prepared / "train"), Corpus.open(tmp_path / "out", "kbest")
    assert [shard.rows for shard in found.shards] == [shard.rows for shard in gold.shards]
    model = load_model(teacher)
    for one, other in zip(gold.tables(), found.tables(), strict=True):
        assert one.column("id").to_pylist() == other.column("id").to_pylist()
        assert one.column("source_ids").to_pylist() == other.column("source_ids").to_pylist()
        for row in other.to_pylist():
            assert len(row["hypotheses"]) == 2
            for hypothesis in row["hypotheses"]:
                assert hypothesis["text"] == model.vocabularies.target.decode([hypothesis["ids"]])[0]
                scored = score_pairs([model.model], [(row["source_ids"], hypothesis["ids"])], batch_tokens=100)[0]  # type: ignore[list-item]
                assert hypothesis["logprob"] == pytest.approx(scored.logprob, abs=1e-3)
    speed = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert speed["sentences_per_second"] > 0
    assert 0 <= speed["waiting_for_writing"] < 1
    assert read_manifest(tmp_path / "out").extra["beam"] == 3


def test_auto_batch_tokens_are_recorded_as_the_number_that_was_used(
    prepared: Path, teacher: Path, tmp_path: Path
) -> None:
    base = settings(prepared, teacher)
    for name, value in (("auto", "auto"), ("given", 4000)):
        distill.run(base.model_copy(update={"batch_tokens": value}), tmp_path / name, device="cpu")
    auto, given = (read_manifest(tmp_path / name) for name in ("auto", "given"))
    assert auto.extra["batch_tokens"] == given.extra["batch_tokens"] == 4000
    assert auto.fingerprint["config"]["batch_tokens"] == "auto"
    assert auto.shards == given.shards


@pytest.mark.slow
def test_more_processes_give_the_same_bytes(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several pieces"
    folder.mkdir()
    rows = Corpus.open(prepared / "train").read_shard(0)
    count = distill.CHUNK_ROWS + 100
    table = rows.take(pa.array(np.arange(count) % rows.num_rows)).set_column(0, "id", pa.array(range(count)))
    shards = [
        write_shard(folder, 0, table),
        write_shard(folder, 1, table.slice(0, 50).set_column(0, "id", pa.array(range(count, count + 50)))),
    ]
    write_manifest(folder, dataclasses.replace(read_manifest(prepared / "train"), rows=count + 50, shards=shards))
    short = SearchConfig(beam=2, nbest=2, max_length_ratio=0.0, max_length_extra=4)
    config = settings(prepared, teacher).model_copy(update={"corpus": folder, "search": short, "batch_tokens": 2000})
    distill.run(config, tmp_path / "one", device="cpu")
    distill.run(config.model_copy(update={"workers": 2}), tmp_path / "two", device="cpu")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    distill.run(settings(prepared, teacher), tmp_path / "whole", device="cpu")
    with interrupted_before("shard-00001.arrow"), pytest.raises(KeyboardInterrupt):
        distill.run(settings(prepared, teacher), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "manifest.json").exists()
    with placed(".arrow") as made:
        distill.run(settings(prepared, teacher), tmp_path / "out", device="cpu")
    assert made == ["shard-00001.arrow", "shard-00002.arrow"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_memory_does_not_grow_with_the_corpus(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    rows = Corpus.open(prepared / "train").read_shard(0)
    size, peaks, arrow = rows.num_rows, [], []
    for name, count in (("warm", 2), ("little", 2), ("much", 7)):
        folder = tmp_path / name / "train"
        folder.mkdir(parents=True)
        shards = []
        for shard in range(count):
            ids = pa.array(range(size * shard, size * (shard + 1)))
            shards.append(write_shard(folder, shard, rows.set_column(0, "id", ids)))
        manifest = read_manifest(prepared / "train")
        write_manifest(folder, dataclasses.replace(manifest, rows=size * count, shards=shards))
        # What other tests have left makes full collections rare. The second collection counts what is not frozen, and
        # so collections are as frequent as in a process of its own.
        gc.collect()
        gc.freeze()
        gc.collect()
        if name != "warm":  # imports on first use are slow under its eyes
            tracemalloc.start()
        distill.run(settings(tmp_path / name, teacher, beam=2), tmp_path / name / "out", device="cpu")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        gc.unfreeze()
        arrow.append(pa.default_memory_pool().bytes_allocated())
    # What is known of a shard, and nothing of its rows: 5 shards more, whose lists are some 2 kB a row in Python.
    assert peaks[2] - peaks[1] < 8_000 * 5
    assert arrow[2] - arrow[1] < 100_000


def test_a_finished_folder_is_left_alone_and_other_settings_are_refused(
    prepared: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    distill.run(settings(prepared, teacher), tmp_path / "out", device="cpu")
    before = contents(tmp_path / "out")
    distill.run(settings(prepared, teacher, workers=2), tmp_path / "out", device="cpu")
    assert "up to date" in capsys.readouterr().err
    with pytest.raises(ConflictError, match=r"search\.beam"):
        distill.run(settings(prepared, teacher, beam=4), tmp_path / "out", device="cpu")
    assert contents(tmp_path / "out") == before


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_teacher_with_another_vocabulary_is_refused(prepared: Path, tmp_path: Path, side: str) -> None:
    Vocabulary.train(
        ["anderer text hier", "noch mehr text"] * 20,
        tmp_path / "other.model",
        size=30,
        type="bpe",
        byte_fallback=False,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )
    own, strange = prepared / "vocab.model", tmp_path / "other.model"
    sides = (strange, own) if side == "target" else (own, strange)
    other = make_teacher(tmp_path / "teacher", sides[0], source=sides[1])
    with pytest.raises(CorpusError, match=f"a {side} vocabulary other than the teacher's"):
        distill.run(settings(prepared, other), tmp_path / "out", device="cpu")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_broken_teacher_stops_the_run_and_names_rows(prepared: Path, tmp_path: Path) -> None:
    broken = make_teacher(tmp_path / "teacher", prepared / "vocab.model", broken=True)
    with pytest.raises(WorkError, match=r"row \d+, .*NaN or infinite"):
        distill.run(settings(prepared, broken), tmp_path / "out", device="cpu")
    assert not list((tmp_path / "out").glob("shard-*"))
