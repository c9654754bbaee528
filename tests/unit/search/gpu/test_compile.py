"""The kernels pass Triton's compiler, for which no GPU is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

REPOSITORY = Path(__file__).resolve().parents[4]
KERNELS = {"_follow_kernel", "_self_attention_kernel", "_cross_attention_kernel", "_add_norm_kernel"}
KERNELS |= {"_reduce_kernel", "_select_kernel", "_project_kernel", "_advance_kernel", "_draw_kernel"}


@pytest.mark.slow
def test_every_kernel_compiles_and_products_use_the_matrix_units(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "tests.unit.search.gpu.compiled"]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for capability in (80, 90, 100):
        assert {one["name"] for one in found if one["capability"] == capability} == KERNELS
    matrix = {(one["name"], one["capability"], *one["matrix"]) for one in found}
    assert ("_project_kernel", 90, "wgmma") in matrix
    assert ("_cross_attention_kernel", 90, "mma.sync") in matrix
    assert ("_cross_attention_kernel", 80, "mma.sync") in matrix
    # Sampling's kernel spills a few numbers of 64 bits.
    assert max(one["spilled"] for one in found if one["name"] == "_draw_kernel") <= 32
    assert not any(one["spilled"] for one in found if one["name"] != "_draw_kernel")
    # Whatever the vocabulary, the kernels of the output layer are as small as for 32,000 pieces, and read 16 bytes at
    # once.
    output = [one for one in found if one["name"] in ("_reduce_kernel", "_select_kernel")]
    assert {one["integers"]["vocab"] for one in output} >= {32_000, 128_000, 256_206}
    aligned = [one for one in output if one["integers"]["stride"] % 64 == 0]
    # A bias takes as many registers as the logits to which it is added.
    for biased, most in ((False, 72), (True, 96)):
        assert max(one["registers"] for one in aligned if one["integers"]["biased"] == biased) <= most
    assert all(one["wide"] for one in aligned)
