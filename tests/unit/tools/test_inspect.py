"""What `seqkd inspect` shows."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console
from safetensors.numpy import save_file

from seqkd.config.stages import TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.cost import Cost, write_cost
from seqkd.corpus.manifest import Manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.schema import KBEST_SCHEMA
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError, ModelError
from seqkd.models.checkpoint import load_model
from seqkd.stages.prepare import prepare
from seqkd.stages.train import train
from seqkd.tools.inspect import inspect
from tests.unit.stages.support import prepare_config

DIGEST = "ab" * 32


def shown(path: Path, rows: int = 3) -> str:
    text = io.StringIO()
    inspect(path, rows=rows, console=Console(file=text, width=150))
    return text.getvalue()


def finish(folder: Path, kind: str, shards: list[Any], **values: Any) -> None:
    made_by = {
        "stage": "test",
        "config": {"rule": "seqkd", "cleaning": {"max_length": 250}},
        "inputs": {"gold": DIGEST},
    }
    rows = sum(shard.rows for shard in shards)
    write_manifest(folder, Manifest(kind=kind, fingerprint=made_by, rows=rows, shards=shards, **values))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "gold"
    folder.mkdir()
    shards = [
        write_shard(
            folder,
            index,
            pa.table(
                {
                    "id": pa.array([2 * index, 2 * index + 1], pa.int64()),
                    "source": [f"source {2 * index} [b]", f"source {2 * index + 1}"],
                    "target": [f"target {2 * index}", f"target {2 * index + 1}"],
                    "source_ids": pa.array([[4] * (index + 1), [4]], pa.list_(pa.int32())),
                    "target_ids": pa.array([[4], [4] * 7], pa.list_(pa.int32())),
                }
            ),
        )
        for index in range(2)
    ]
    finish(folder, "corpus", shards, source_tokens=5, target_tokens=16, vocabulary=DIGEST, counts={"too long": 1234})
    return folder


def test_a_corpus(corpus: Path) -> None:
    text = shown(corpus, rows=2)
    for part in (
        f"Corpus {corpus}",
        "abababababab...",
        "too long",
        "1,234",
        "source 0 [b]",  # not taken for markup
        "target 3",
        "config.cleaning.max_length",
        "inputs.gold",
    ):
        assert part in text
    assert "source 1" not in text
    lengths = next(line for line in text.splitlines() if line.startswith("│ target ") and "4.0" in line)
    assert [word for word in lengths.split() if word != "│"][1:] == ["1", "4.0", "4", "7", "7"]


def test_no_sample_rows_if_none_are_wanted(corpus: Path) -> None:
    assert "source 0" not in shown(corpus, rows=0)


def test_kbest_lists(tmp_path: Path) -> None:
    def hypothesis(tokens: int, ended: str) -> dict[str, Any]:
        return {"ids": [5] * tokens, "text": f"{tokens} words", "score": -0.5, "logprob": -1.0, "ended": ended}

    rows = [
        {"id": 0, "source_ids": [4, 4], "hypotheses": [hypothesis(3, "eos"), hypothesis(9, "max_length")]},
        {"id": 1, "source_ids": [4], "hypotheses": [hypothesis(5, "eos")]},
    ]
    shard = write_shard(tmp_path, 0, pa.Table.from_pylist(rows, schema=KBEST_SCHEMA))
    finish(tmp_path, "kbest", [shard], extra={"beam": 5, "nbest": 2})
    text = shown(tmp_path)
    assert "K-best lists" in text
    values = {
        cells[0].strip(): cells[1].strip()
        for cells in (line.split("│")[1:3] for line in text.splitlines() if line.count("│") == 3)
    }
    assert values["hypotheses"] == "3"
    assert values["hypotheses a row"] == "1 to 2"
    assert (values["ended by eos"], values["ended by max_length"]) == ("2", "1")
    assert values["beam"] == "5"
    assert "9 words" in text
    best = next(line for line in text.splitlines() if line.startswith("│ best hypothesis"))
    assert [word for word in best.split() if word != "│"][2:] == ["3", "4.0", "4", "5", "5"]


def test_an_empty_corpus(tmp_path: Path) -> None:
    finish(tmp_path, "corpus", [])
    assert "Corpus" in shown(tmp_path)


@pytest.mark.parametrize("trained_here", [True, False])
def test_a_model(tmp_path: Path, trained_here: bool) -> None:
    weights = {"a": np.zeros((20, 60), np.float32), "b": np.zeros(34, np.float32)}
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"arch": "transformer", "settings": {"dim": 1024}}))
    if trained_here:
        finish(tmp_path, "model", [], extra={"role": "teacher", "updates": 4000})
    text = shown(tmp_path)
    for part in ("Model", "1,234 (F32)", "dim", "1,024", "transformer"):
        assert part in text
    assert ("4,000" in text) == trained_here
    assert "tokens" not in text  # nothing is known of the rows


def test_a_model_that_was_trained_in_a_run_folder(tmp_path: Path) -> None:
    prepare.run(prepare_config(tmp_path), tmp_path / "run" / "gold")
    (tmp_path / "run" / "plan.mk").touch()
    model = {"arch": "ctc", "upsample": 1, "dim": 16, "heads": 2, "ffn_dim": 32, "encoder_layers": 1}
    values = {
        "prepared": tmp_path / "run" / "gold",
        "corpus": tmp_path / "run" / "gold" / "train",
        "model": model,
        "training": {"max_updates": 4, "validate_every": 2, "batch_tokens": 200},
    }
    out = tmp_path / "run" / "students" / "small"
    train.run(validate(TrainConfig, values, "test"), out, device="cpu")
    text = shown(out)
    facts = {
        cells[0].strip(): cells[1].strip()
        for cells in (line.split("│")[1:3] for line in text.splitlines() if line.count("│") == 3)
    }
    left_out = {line.split("\t")[0] for line in (out / "rejected.tsv").read_text().splitlines()[1:]}
    corpus = Corpus.open(tmp_path / "run" / "gold" / "train")
    targets = [
        len(row["target_ids"]) for row in corpus.take(np.arange(200)).to_pylist() if str(row["id"]) not in left_out
    ]
    history = {line["update"]: line for line in json.loads((out / "history.json").read_text())}
    best = history[int(facts["best update"])]
    weights = sum(weight.numel() for weight in load_model(out).model.parameters())
    expected = {
        "architecture": "ctc",
        "parameters": f"{weights:,} (F32)",
        "objective": "ctc, label_smoothing 0",
        "trained on": "gold/train",
        "rows": str(len(targets)),
        "target tokens": f"{sum(targets):,}",
        "role": "student",
        "updates": "4",
        "validation NLL": f"{best['valid_nll']:.6g}",
        "validation BLEU": f"{best['valid_bleu']:.6g}",
        "dim": "16",
    }
    assert {name: facts[name] for name in expected} == expected
    assert facts["vocabulary"].startswith("40 pieces, ")
    assert left_out
    assert "rows left out" in text
    assert "config.model.dim" not in text
    (tmp_path / "run" / "plan.mk").unlink()
    assert "gold/train" not in shown(out)


def test_a_damaged_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        shown(tmp_path)


def test_results(tmp_path: Path) -> None:
    finish(tmp_path, "evaluation", [])
    (tmp_path / "result.json").write_text(json.dumps({"name": "teacher", "beams": {"5": {"bleu": 36.25}}}))
    text = shown(tmp_path)
    assert "beams.5.bleu" in text
    assert "36.25" in text


def test_a_run_folder_lists_what_it_holds(corpus: Path, tmp_path: Path) -> None:
    other = tmp_path / "students" / "kd"
    other.mkdir(parents=True)
    finish(other, "model", [])
    lines = shown(tmp_path).splitlines()
    assert [line.split("│")[1].strip() for line in lines if line.startswith("│ ")] == [corpus.name, "students/kd"]


def test_what_is_not_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such folder"):
        shown(tmp_path / "nope")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CorpusError, match="not a folder"):
        shown(tmp_path / "file")
    with pytest.raises(CorpusError, match="folders below"):
        shown(tmp_path)


def test_what_a_folder_cost_has_a_table(corpus: Path) -> None:
    cost = Cost(
        seconds=61.5, cpu_seconds=120.0, peak_memory_bytes=2_500_000, peak_memory_process="worker", begun=3, cut=1
    )
    write_cost(corpus, cost)
    text = shown(corpus)
    assert "peak memory │ 2.5 MB, worker process" in text
    assert "3, 1 of them killed" in text
    assert "cost.seconds" not in text
