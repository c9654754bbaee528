"""A stage that asks an endpoint which fails in every way, killed at random moments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.table import Record

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_no_answered_row_is_asked_again(tmp_path: Path, full: bool, record: Record) -> None:
    moments = 20 if full else 5
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.worker_kills", str(tmp_path / "kills"), str(moments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "127.0.0.1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    result = json.loads(done.stdout)
    assert result["moments"] == moments
    assert result["answered"] > 0, "never killed after an answer"
    assert result["failures"] > 0, "the endpoint never failed"
    record(
        "`distill` that asks an endpoint is killed (SIGKILL)",
        "at random moments of its run; the endpoint answers 429 and 503, cuts connections, reorders, leaves out, "
        "repeats and invents ids, and sends HTML; then started again until it is through",
        moments,
        f"same shards, byte by byte; none of the {result['answered']:,} rows that had been answered was asked again, "
        f"and none was lost; {result['failures']:,} runs ended with one error about the endpoint's answer",
    )
