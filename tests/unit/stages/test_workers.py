"""Stages that ask external workers: teachers, scorers and filters."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seqkd.cli.main import main
from seqkd.config.stages import DistillConfig, SelectConfig
from seqkd.config.toml import to_toml, validate
from seqkd.corpus.locks import Part
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConflictError, CorpusError, InputError, WorkError
from seqkd.executors.work import Scale
from seqkd.models.checkpoint import model_digest
from seqkd.stages.distill import distill
from seqkd.stages.prepare import prepare
from seqkd.stages.select import select
from seqkd.tools.verify import verify
from tests.unit.interop.worker_server import program
from tests.unit.stages.select_folders import rows_of, write_gold, write_kbest, write_prepared
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import make_teacher

WORKERS = Path(__file__).parents[3] / "docs" / "workers"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@pytest.fixture
def gold(tmp_path: Path) -> Path:
    prepare.run(prepare_config(tmp_path), tmp_path / "gold")
    return tmp_path / "gold"


def distill_config(gold: Path, *, workers: int = 0, **source: Any) -> DistillConfig:
    values = {"corpus": gold / "train", "prepared": gold, "source": source, "workers": workers}
    return validate(DistillConfig, values, "file")


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.arrow"))}


def asked(log: Path) -> list[int]:
    return [int(row) for row in log.read_text().split()] if log.exists() else []


def test_a_command_teaches(gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, out = tmp_path / "log", tmp_path / "kbest"
    command = program(tmp_path, log=log)
    config = distill_config(gold, command=command, name="upper", version="1", canary=5)
    distill.run(config, out)
    sources = [row["source"] for table in Corpus.open(gold / "train").tables() for row in table.to_pylist()]
    lists = [row for table in Corpus.open(out, "kbest").tables() for row in table.to_pylist()]
    assert [row["hypotheses"][1]["text"] for row in lists] == [source.upper() for source in sources]
    assert [row["hypotheses"][0]["score"] for row in lists] == [-0.5] * len(sources)
    assert len(asked(log)) == len(set(sources)) + 5
    (facts,) = read_manifest(out).extra["workers"]
    assert TIME.fullmatch(facts.pop("first"))
    assert TIME.fullmatch(facts.pop("last"))
    assert facts == {
        "role": "teacher",
        "name": "upper",
        "version": "1",
        "answers": len(sources),
        "canary": {"different": 0, "asked": 5},
    }
    assert not [path.name for path in out.iterdir() if path.name.startswith(("asked", "canary"))]
    assert not verify(out).problems
    # Limits, places and the command's own path are no settings of the lists; a version is one.
    distill.run(distill_config(gold, command=["moved"], name="upper", version="1", rate=2.0, max_requests=1), out)
    with pytest.raises(ConflictError, match=r'source.version: "1" -> "2"'):
        distill.run(distill_config(gold, command=command, name="upper", version="2"), out)
    # A new split into shards asks nothing again, whatever part of them this machine makes.
    prepare.run(prepare_config(tmp_path).model_copy(update={"shard_rows": 30}), tmp_path / "split")
    again = replace_canary(distill_config(tmp_path / "split", command=command, name="upper", version="1"))
    before = len(asked(log))
    capsys.readouterr()
    distill.estimate(again, tmp_path / "kbest2", scale=Scale(part=Part(1, 2)))
    assert "asked 0 different rows: 0 requests, 0 characters; " in capsys.readouterr().err
    for part in (Part(1, 2), Part(2, 2)):
        distill.run(again, tmp_path / "kbest2", scale=Scale(part=part))
    assert len(asked(log)) == before
    more = [row for table in Corpus.open(tmp_path / "kbest2", "kbest").tables() for row in table.to_pylist()]
    assert more == lists


def replace_canary(config: DistillConfig) -> DistillConfig:
    assert config.source is not None
    settings = replace(config.source.settings, canary=0)
    return config.model_copy(update={"source": config.source.model_copy(update={"settings": settings})})


def test_a_failure_leaves_no_half_shard_and_work_goes_on(gold: Path, tmp_path: Path) -> None:
    log, out, fault = tmp_path / "log", tmp_path / "kbest", "if row['id'] == 130: print('Loading')"
    config = distill_config(gold, command=program(tmp_path, fault, log), batch=7, name="w", version="1")
    with pytest.raises(WorkError, match=r"worker w: row 1\d\d: a line of its standard output is not JSON: 'Loading'"):
        distill.run(config, out)
    assert list(shards(out)) == ["shard-00000.arrow"]
    program(tmp_path, log=log)
    done = asked(log)
    distill.run(config, out)
    kept = {json.loads(line).get("key") for path in (tmp_path / ".answers").rglob("*.jsonl") for line in path.open()}
    assert len(kept - {None}) == len(set(asked(log)))
    again = asked(log)[len(done) :]
    assert set(again) & set(done) <= set(range(119, 140))  # the rows of the request that failed
    distill.run(config, tmp_path / "other" / "kbest")
    assert shards(out) == shards(tmp_path / "other" / "kbest")


def test_a_run_that_would_be_shared_wrongly_is_refused(gold: Path, tmp_path: Path) -> None:
    command = program(tmp_path)
    for config, scale, message in (
        (distill_config(gold, workers=2, command=command), Scale(), "workers = 2: .* set `parallel`"),
        (distill_config(gold, command=["/nowhere"]), Scale(), "no such program"),
        (distill_config(gold, endpoint="http://x", key="NO_SUCH_KEY"), Scale(), "NO_SUCH_KEY is not set"),
    ):
        with pytest.raises(InputError, match=rf"(?s){message}"):
            distill.run(config, tmp_path / "kbest", scale=scale)
        assert not (tmp_path / "kbest").exists()


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    return {
        "kbest": write_kbest(tmp_path / "kbest"),
        "gold": write_gold(tmp_path / "gold"),
        "prepared": write_prepared(tmp_path / "prepared"),
    }


def select_config(folders: dict[str, Path], **values: Any) -> SelectConfig:
    return validate(SelectConfig, {**folders, **values}, "file")


def test_a_command_scores_and_filters(folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    log = tmp_path / "log"
    worker = {"command": program(tmp_path, log=log), "version": "1", "canary": 2}
    config = select_config(
        folders,
        rule="rerank",
        rerank={"type": "worker", "reference": True, **worker},
        filters={"worker": worker},
        rejected="next",
    )
    # As a stage file says it, with the filter's verdict on even lengths, after the longest hypotheses.
    assert validate(SelectConfig, json.loads(config.model_dump_json()), "file") == config
    assert 'type = "worker"' in to_toml(config)
    select.estimate(config, tmp_path / "out")
    scoring, filtering = capsys.readouterr().err.splitlines()
    # Source, reference and hypotheses of each row.
    texts = "einsonewononezweitwo and twotwo and twotoodreithreethreevierfourforfore"
    again = "einsonewononezweitwo and twotwo and twotoo"
    assert scoring.startswith("select --dry-run: scorer ")
    assert "would be asked 4 different rows, 2 of them once more at the end: 3 requests, " in scoring
    assert f", {len(texts) + len(again)} characters; 0 rows are answered already" in scoring
    assert filtering.startswith("select --dry-run: filter ")
    assert asked(log) == []
    select.run(config, tmp_path / "out")
    assert [(row["id"], row["target"]) for row in rows_of(tmp_path / "out")] == [(9, "fore")]
    listed = (tmp_path / "out" / "rejected.tsv").read_text().splitlines()
    assert listed[1:] == [f"{row}\trejected by the worker\tdropped" for row in (0, 3, 4)]
    scorer, judge = read_manifest(tmp_path / "out").extra["workers"]
    assert (scorer["role"], scorer["answers"], scorer["canary"]) == ("scorer", 4, {"different": 0, "asked": 2})
    assert (judge["role"], judge["reasons"]) == ("filter", {"odd": 5})
    assert not verify(tmp_path / "out").problems
    whole = shards(tmp_path / "out")
    before = len(asked(log))
    select.run(select_config(folders, **{**config.model_dump(), "rejected": "next"}), tmp_path / "again")
    assert shards(tmp_path / "again") == whole
    assert len(asked(log)) == before + 4  # the canaries


def test_what_a_scorer_reads(folders: dict[str, Path], tmp_path: Path) -> None:
    worker = {"type": "worker", "command": program(tmp_path), "reference": True}
    with pytest.raises(InputError, match="reads references, and monolingual text has none"):
        select_config(folders, rule="rerank", rerank=worker, reverse=True)
    # A scorer gives values where a teacher gives none; rules and filters that read scores are refused.
    bare = write_kbest(tmp_path / "bare", lists=[(row, [("a", [1], None)]) for row in (0, 3, 4, 9)])  # type: ignore[list-item]
    manifest = json.loads((bare / "manifest.json").read_text())
    manifest["counts"] = {"hypotheses without a score or a log-probability": 4}
    (bare / "manifest.json").write_text(json.dumps(manifest))
    select.run(select_config({**folders, "kbest": bare}, rule="rerank", rerank=worker), tmp_path / "out")
    assert len(rows_of(tmp_path / "out")) == 4
    with pytest.raises(CorpusError, match="4 hypotheses without a score"):
        select.run(select_config({**folders, "kbest": bare}, rule="sample"), tmp_path / "other")


def test_dry_run_on_the_command_line(gold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = distill_config(
        gold, endpoint="http://127.0.0.1:9/x", batch=10, price_per_request=0.01, price_per_million=20.0, canary=4
    )
    (tmp_path / "stage.toml").write_text(to_toml(config))
    arguments = ["distill", "--config", str(tmp_path / "stage.toml"), "--out", str(tmp_path / "kbest"), "--dry-run"]
    assert main([*arguments, "--device", "cpu"]) == 0
    said = capsys.readouterr().err
    texts = {row["source"] for table in Corpus.open(gold / "train").tables() for row in table.to_pylist()}
    assert f"asked {len(texts)} different rows, 4 of them once more at the end: " in said
    assert ", at a cost of 0." in said
    assert not (tmp_path / "kbest").exists()
    assert main([*arguments, "--soft-targets"]) == 2


@pytest.mark.slow
def test_a_command_that_runs_translate_gives_the_corpus_of_the_model_itself(gold: Path, tmp_path: Path) -> None:
    make_teacher(tmp_path / "model", gold / "vocab.model")
    search = {"beam": 3, "nbest": 1, "max_length_extra": 6, "max_length_ratio": 1.0}
    words = ["--beam", "3", "--max-length-extra", "6", "--max-length-ratio", "1.0", "--precision", "float32"]
    translate = ["{python}", "-m", "seqkd", "translate", "--device", "cpu", "--model", "{model}", *words]
    command = ["{python}", str(WORKERS / "line_teacher.py"), *translate]
    asked = distill_config(gold, command=command, model=tmp_path / "model", name="system", batch=500)
    values = {"models": [tmp_path / "model"], "corpus": gold / "train", "search": search, "precision": "float32"}
    distill.run(validate(DistillConfig, {**values, "workers": 1}, "file"), tmp_path / "itself", device="cpu")
    distill.run(asked, tmp_path / "asked")
    rows = {}
    for name in ("itself", "asked"):
        paths = {"kbest": tmp_path / name, "gold": gold / "train", "prepared": gold}
        filters = {"unknown": False}
        config = validate(SelectConfig, {**paths, "rule": "seqkd", "filters": filters}, "file")
        select.run(config, tmp_path / f"{name}-corpus")
        found = rows_of(tmp_path / f"{name}-corpus")
        rows[name] = [(row["id"], row["source"], row["target"]) for row in found]
    assert rows["asked"] == rows["itself"]
    assert len({target for _, _, target in rows["asked"]}) > 20
    assert read_manifest(tmp_path / "asked").fingerprint["inputs"]["source.model"] == model_digest(tmp_path / "model")
    # Another model under the same name makes other lists, and is asked anew.
    shutil.rmtree(tmp_path / "model")
    make_teacher(tmp_path / "model", gold / "vocab.model", seed=2)
    with pytest.raises(ConflictError, match=r"source\.model"):
        distill.run(asked, tmp_path / "asked")
    distill.run(asked, tmp_path / "asked", overwrite=True)
    other = Corpus.open(tmp_path / "asked", "kbest").read_shard(0).column("hypotheses").to_pylist()
    first = Corpus.open(tmp_path / "itself", "kbest").read_shard(0).column("hypotheses").to_pylist()
    assert [row[0]["text"] for row in other] != [row[0]["text"] for row in first]
