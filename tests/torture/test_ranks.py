"""Training by two processes of which one dies: the other one says so, and the run can be gone on with."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqkd.models.checkpoint import model_digest
from tests.torture.table import Record

ROOT = Path(__file__).parents[2]
NOTICED = 150.0  # seconds in which the end of a process must be noticed, on a busy machine
TRAIN = """
import sys
from datetime import timedelta
from seqkd.cli.main import main
from seqkd.training import runtime
runtime.PATIENCE = timedelta(seconds=float(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""

pytestmark = pytest.mark.slow


class Ranks:
    """Two processes that train together, as torchrun would start them, without anybody to look after them."""

    def __init__(self, inputs: Path, out: Path, *, patience: float = 300.0) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.out = out
        words = ["train", "--config", str(inputs / "train.toml"), "--out", str(out), "--device", "cpu"]
        self.processes = []
        for rank in range(2):
            environment = {
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "TORCHELASTIC_RUN_ID": "torture",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "GROUP_RANK": "0",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            }
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-c", TRAIN, str(patience), *words],
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def wait_for_state(self) -> None:
        while not (self.out / "state" / "last.pt").exists():
            assert all(process.poll() is None for process in self.processes)
            time.sleep(0.01)

    def finish(self) -> Path:
        for process in self.processes:
            _, said = process.communicate(timeout=300)
            assert process.returncode == 0, said
        return self.out


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    return Ranks(inputs, tmp_path_factory.mktemp("whole") / "out").finish()


def test_a_dead_process(inputs: Path, whole: Path, tmp_path: Path, full: bool, record: Record) -> None:
    draw = random.Random(3)
    times = 4 if full else 1
    slowest = 0.0
    for number in range(times):
        ranks = Ranks(inputs, tmp_path / f"out{number}")
        ranks.wait_for_state()
        time.sleep(draw.uniform(0.0, 0.3))
        dies = ranks.processes[(number + 1) % 2]
        lives = ranks.processes[number % 2]
        dies.send_signal(signal.SIGKILL)
        died = time.monotonic()
        _, said = lives.communicate(timeout=NOTICED)
        slowest = max(slowest, time.monotonic() - died)
        dies.communicate()
        assert lives.returncode == 1, said
        assert "error: another process of this training run has ended or does not answer" in said
        assert "run the same command to continue" in said
        assert not (ranks.out / "manifest.json").exists()
        Ranks(inputs, ranks.out).finish()
        assert model_digest(ranks.out) == model_digest(whole)
    record(
        "one of two `train` processes dies",
        "SIGKILL after the first validation, started again",
        times,
        f"the other one says so within {slowest:.0f} s and ends with code 1; then the same parameters, byte by byte",
    )


def test_a_process_that_hangs(inputs: Path, whole: Path, tmp_path: Path, full: bool, record: Record) -> None:
    if not full:
        pytest.skip("make torture")
    ranks = Ranks(inputs, tmp_path / "out", patience=5.0)
    try:
        ranks.wait_for_state()
        ranks.processes[1].send_signal(signal.SIGSTOP)
        _, said = ranks.processes[0].communicate(timeout=NOTICED)
    finally:
        ranks.processes[1].kill()
        ranks.processes[1].communicate()
    assert ranks.processes[0].returncode == 1, said
    assert "does not answer" in said
    assert model_digest(Ranks(inputs, ranks.out).finish()) == model_digest(whole)
    record(
        "one of two `train` processes hangs",
        "SIGSTOP, patience set to 5 s (15 minutes otherwise)",
        1,
        "the other one says so and ends with code 1; started again: the same parameters, byte by byte",
    )


def test_a_dead_process_under_torchrun(inputs: Path, whole: Path, tmp_path: Path, full: bool, record: Record) -> None:
    if not full:
        pytest.skip("make torture")
    out = tmp_path / "out"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--module", "seqkd"]
    words = ["train", "--config", str(inputs / "train.toml"), "--out", str(out), "--device", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen([*launch, *words], env=environment, stderr=subprocess.PIPE, text=True)
    while not (out / "state" / "last.pt").exists():
        assert run.poll() is None
        time.sleep(0.01)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    _, said = run.communicate(timeout=NOTICED)
    assert run.returncode != 0
    assert "SIGKILL" in said or "Signal 9" in said
    done = subprocess.run([*launch, *words], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert model_digest(out) == model_digest(whole)
    record(
        "one of two `train` processes dies under torchrun",
        "SIGKILL after the first validation, started again",
        1,
        "torchrun ends with an error that names it; then the same parameters, byte by byte",
    )
