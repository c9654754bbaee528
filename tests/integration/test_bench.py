"""The side-by-side comparison runs, and its peers decode the same model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.bench import big, foreign

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = big.SETTINGS | {"dim": 32, "heads": 4, "ffn_dim": 64, "encoder_layers": 2, "decoder_layers": 2}
PEERS = {"seqkd": "seqkd", "fairseq": "fairseq", "ctranslate2": "ctranslate2", "marian": "transformers"}

for _module in PEERS.values():
    pytest.importorskip(_module, reason="a peer: make .venv/.fairseq, as `make test` does")
pytestmark = pytest.mark.slow


def test_all_peers_decode_the_same_model(tmp_path: Path) -> None:
    note = big.write_model(tmp_path / "model", settings=SMALL, pieces=120, max_length=60)
    assert "random weights" in note
    sentences = big.random_sentences(24, 120)
    lines = [" ".join(map(str, ids)) for ids in sentences.ids]
    (tmp_path / "ids.txt").write_text("\n".join(lines) + "\n")
    options = ["--model", str(tmp_path / "model"), "--source", str(tmp_path / "ids.txt")]
    options += ["--out", str(tmp_path / "out")]
    options += ["--sentences", "24", "--tune-sentences", "0", "--repeats", "1", "--max-length", "60"]
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "tests" / "bench" / "run.py"), *options],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert result["failures"] == []
    entries = {entry["name"].split()[0]: entry for entry in result["peers"]}
    assert entries.keys() == PEERS.keys()
    assert all(entry["sentences_per_second"] > 0 and entry["peak_rss_mb"] > 0 for entry in entries.values())
    assert entries["seqkd"]["same_lists"] == 1.0
    # The others stop a search by rules of their own, which shows where ends of sentence come at random. With weights
    # that were not the same nothing would be equal.
    assert entries["ctranslate2"]["same_best"] > 0.3
    assert entries["marian"]["same_best"] > 0.3
    assert "| seqkd float32 |" in (tmp_path / "out" / "bench.md").read_text()


def test_imported_models_decode_beside_ctranslate2() -> None:
    found = foreign.run(foreign.SMOKE)
    assert found.keys() == {"MarianMT", "NLLB"}
    # CTranslate2 has another rule at the longest length, to which most outputs of random weights come.
    assert all(result["same_best"] > 0.3 and result["ratio"] > 0 for result in found.values())
