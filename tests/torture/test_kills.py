"""Each stage killed at random moments and started again: the same bytes, nothing made twice, each row once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.torture.kills import CROWD
from tests.torture.stages import SHARDS, STAGES
from tests.torture.table import Record

ROOT = Path(__file__).parents[2]
MOMENTS = 30
NAMES = {"SIGKILL": "killed (SIGKILL)", "SIGTERM": "asked to stop (SIGTERM)"}


def kill(folder: Path, moments: int, workers: int, *stages: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.kills", str(folder / "kills"), str(moments), str(workers), *stages],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    found: dict[str, dict[str, Any]] = json.loads(done.stdout)
    return found


def note(record: Record, stage: str, results: dict[str, Any], more: str = "") -> None:
    for number, result in results.items():
        after = "" if stage == "train" else ", half after a shard"
        if result["both"]:
            after = f", a third after a shard, {result['both']} while a shard was written and the next one decoded"
        end = "manifest and shards" if stage != "train" else "parameters"
        outcome = f"same {end}, byte by byte"
        if stage != "train":
            low, high = min(result["shards"]), max(result["shards"])
            outcome += f"; with {low} to {high} shards there, none was made again"
        if number == "SIGTERM":
            outcome += (
                f"; {result['good_ends']} ended by themselves with the work in hand done, the others had not begun"
            )
        record(
            f"`{stage}` {NAMES[number]}",
            f"at random moments of its run{more}{after}, then started again",
            result["moments"],
            outcome,
        )


@pytest.mark.slow
def test_all_stages_briefly(tmp_path: Path, full: bool) -> None:
    if full:
        pytest.skip("the long form is run")
    found = kill(tmp_path, 2, 1, *STAGES)
    assert {result["moments"] for results in found.values() for result in results.values()} == {1}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage(tmp_path: Path, full: bool, record: Record, stage: str) -> None:
    if not full:
        pytest.skip("make torture")
    results = kill(tmp_path, MOMENTS, 1, stage)[stage]
    assert sum(result["moments"] for result in results.values()) == MOMENTS
    assert results["SIGTERM"]["good_ends"] > 0
    if stage == "distill":
        assert all(result["both"] == MOMENTS // 6 for result in results.values())
    if stage != "train":
        assert max(results["SIGKILL"]["shards"]) > 0, f"never killed after one of {SHARDS} shards"
    note(record, stage, results)


@pytest.mark.slow
def test_workers_of_one_output(tmp_path: Path, full: bool, record: Record) -> None:
    if not full:
        pytest.skip("make torture")
    result = kill(tmp_path, 10, 1, CROWD)[CROWD]["SIGKILL"]
    low, high = min(result["shards"]), max(result["shards"])
    record(
        "one of three workers of `distill` is killed, another one's part is given twice",
        "SIGKILL at random moments, its part started again; two processes with `--worker 3/3`",
        result["moments"],
        f"same manifest and shards, byte by byte; {low} to {high} shards were there; the second process of a part was "
        f"refused {result['good_ends']} times, else it came late",
    )


@pytest.mark.slow
def test_distill_by_two_processes(tmp_path: Path, full: bool, record: Record) -> None:
    if not full:
        pytest.skip("make torture")
    note(record, "distill", kill(tmp_path, 4, 2, "distill")["distill"], " by two processes")
