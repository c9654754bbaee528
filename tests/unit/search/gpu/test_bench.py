"""The benchmark of the GPU engine runs, on a toy, where there is no GPU."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from seqkd.search import Hypothesis
from tests.bench import gpu
from tests.bench.gpu_without import OTHER_PACES


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs the peer")
def test_smoke(tmp_path: Path) -> None:
    command = [sys.executable, gpu.__file__, "--smoke", "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert {"engine", "engine without graphs", "plain torch (IncrementalTransformer)"} <= result["variants"].keys()
    assert {"engine with the search's step outside its graph", *OTHER_PACES} <= result["variants"].keys()
    assert all(row["sentences_per_second"] > 0 for row in result["variants"].values())
    assert result["same_lists_float32"] == 1.0
    assert result["work"]["flops"] > 0
    assert result["hugging_face"]["sentences_per_second"] > 0
    assert result["microseconds"]["whole step"] > 0
    assert result["microseconds"]["the search's step, kernel"] > 0
    assert "sentences/s  engine" in done.stdout


def test_work_is_counted() -> None:
    scale = gpu.SMOKE
    sources = gpu.draw_sources(scale, 2, seed=1)
    found = {row: [Hypothesis(ids, 0.0, 0.0, "eos")] * scale.beam for row, ids in sources}
    once = gpu.work(scale, sources, found, 100)
    twice = gpu.work(scale, sources + [(row + 2, ids) for row, ids in sources], found | {
        row + 2: kbest for row, kbest in found.items()
    }, 100)  # fmt: skip
    assert twice["flops"] == pytest.approx(2 * once["flops"])
    assert twice["bytes"] == pytest.approx(2 * once["bytes"])
    # by hand, for one sentence of 2 tokens whose outputs have 2: 3 positions read, 3 steps
    one = gpu.work(scale, [(0, [5, 6])], {0: [Hypothesis([5, 6], 0.0, 0.0, "eos")]}, 3)
    encode = 2 * 3 * (6 * 16 * 16 + 2 * 16 * 16) + 4 * 16 * 3 * 3
    steps = 2 * (2 * 3 * (6 * 16 * 16 + 2 * 16 * 16 + 16 * 40) + 4 * 16 * (6 + 9))
    assert one["flops"] == encode + steps
    assert one["steps_a_sentence"] == 3
