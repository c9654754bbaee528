"""A package outside seqkd: its architecture, term, rule, metric and source of k-best lists in one pipeline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from tests.installed import environment
from tests.integration.pipelines import toy_text

PIPELINE = """\
name = "extended"
[prepare.vocabulary]
size = 200
byte_fallback = false

[teacher]
model = { arch = "summary-gru", dim = 32 }
training = { max_updates = 6, batch_tokens = 512, warmup_updates = 4, validate_every = 6 }

[[distill]]
name = "turned"
source = { type = "words", nbest = 3 }

[[select]]
name = "near"
kbest = "turned"
rule = "length"
ratio = 1.5
filters = { unknown = false }

[[students]]
name = "small"
corpus = "near"
model = { arch = "summary-gru", dim = 16 }
training = { max_updates = 6, batch_tokens = 512, warmup_updates = 4, validate_every = 6 }

[[students.objective.terms]]
type = "nll"

[[students.objective.terms]]
type = "confidence"
weight = 0.1
most = 2.0

[evaluate]
beams = [1]
metrics = ["bleu", "chrf", "ter", "exact"]
"""


def data(folder: Path) -> str:
    """A `[data]` of a little toy text."""
    parts: dict[str, Any] = toy_text(folder, rows=100, held_out=4)
    lines = [
        f"{part} = {{ {', '.join(f'{key} = {json.dumps(path)}' for key, path in sides.items())} }}"
        for part, sides in parts.items()
    ]
    return "\n[data]\n" + "\n".join(lines) + "\n"


@pytest.mark.slow
def test_a_pipeline_runs_with_all_that_a_package_adds(tmp_path: Path) -> None:
    (tmp_path / "extended.toml").write_text(PIPELINE + data(tmp_path / "text"))
    command = [sys.executable, "-m", "tests.integration.pipeline_run", "extended.toml", "runs"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(tmp_path / "site"), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    root = tmp_path / "runs" / "extended"

    lists = Corpus.open(root / "kbest" / "turned", "kbest").read_shard(0).to_pylist()
    gold = Corpus.open(root / "gold" / "train", "corpus").read_shard(0).to_pylist()
    first, second = gold[0]["source"].split(maxsplit=1)
    texts = [one["text"] for one in lists[0]["hypotheses"]]
    assert texts[:2] == [gold[0]["source"], f"{second} {first}"]
    inputs = read_manifest(root / "kbest" / "turned").fingerprint
    assert inputs["inputs"]["source.version"] == "1"
    assert inputs["config"] == {"source": {"type": "words", "nbest": 3}}

    selected = Corpus.open(root / "corpora" / "near", "corpus").read_shard(0).to_pylist()
    assert read_manifest(root / "corpora" / "near").fingerprint["config"]["ratio"] == 1.5
    for row, found in zip(selected, lists, strict=True):
        wanted = 1.5 * len(row["source_ids"])
        distances = [abs(len(one["ids"]) - wanted) for one in found["hypotheses"]]
        assert row["target"] == found["hypotheses"][distances.index(min(distances))]["text"]

    made_by = read_manifest(root / "students" / "small").fingerprint["config"]
    assert made_by["model"] == {"arch": "summary-gru", "dim": 16}
    assert made_by["objective"]["terms"][1] == {"type": "confidence", "weight": 0.1, "most": 2.0}

    report = json.loads((root / "report" / "report.json").read_text())
    for model in report["models"]:
        assert model["arch"] == "summary-gru"
        for decode in model["decodes"].values():
            assert 0.0 <= decode["metrics"]["exact"] <= 1.0
    assert "Exact matches" in (root / "report" / "report.html").read_text()
