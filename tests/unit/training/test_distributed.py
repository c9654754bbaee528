"""Two processes learn what one learns that accumulates."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.unit.training.distributed import DATA, KINDS, main

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Of one process and of two: by kind and rows, how far weights moved, and losses."""
    folder = tmp_path_factory.mktemp("runs")
    main(folder / "one.pt")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module"]
    done = subprocess.run(
        [sys.executable, *launch, "tests.unit.training.distributed", str(folder / "two.pt")],
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"},
        timeout=150,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    one, two = (torch.load(folder / name, weights_only=True) for name in ("one.pt", "two.pt"))
    return one, two


# Equal but for rounding, random choices and all: what is drawn for a batch depends on its place in the update, not on
# the process that computes it.
@pytest.mark.parametrize("rows", DATA)
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one_that_accumulates(runs: Any, kind: str, rows: str) -> None:
    (alone, lines), (shared, shared_lines) = (run[kind, rows] for run in runs)
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(torch.tensor(shared_lines), torch.tensor(lines), rtol=1e-5, atol=1e-5)
    assert torch.cat([way.flatten() for way in alone.values()]).abs().max() > 1e-2


def test_what_a_term_learns_is_the_same_on_two_processes(runs: Any) -> None:
    (alone, _), (shared, _) = (run["learned", "many rows"] for run in runs)
    names = {"loss.learned.states.projection.weight", "loss.learned.states.projection.bias"}
    assert names == {name for name in shared if name.startswith("loss.")}
    for name in names:
        assert float(alone[name].abs().max()) > 1e-3
        torch.testing.assert_close(shared[name], alone[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("processes", [1, 2])
def test_terms_that_learn_and_hooks_go_on_bit_for_bit(runs: Any, processes: int) -> None:
    whole, again, agree = runs[processes - 1]["resumed"]
    assert agree
    torch.testing.assert_close(again, whole, rtol=0, atol=0)
    assert not torch.equal(whole["model.target_embedding"], torch.zeros(()).expand_as(whole["model.target_embedding"]))
