"""The kernels pass Triton's compiler, for which no GPU is needed."""

from __future__ import annotations

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
    lines = [line.split() for line in done.stdout.splitlines()]
    assert {line[0] for line in lines if line[1] == "90"} == KERNELS
    assert ["_project_kernel", "90", "wgmma"] in lines
    assert ["_cross_attention_kernel", "90", "mma.sync"] in lines
    assert ["_cross_attention_kernel", "80", "mma.sync"] in lines
