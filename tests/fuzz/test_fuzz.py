"""Mutated files of each kind: an error that says what is wrong, or a result that is right; never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.mutations import mutated
from tests.fuzz.worker import READERS
from tests.torture.table import Record

FILES = 1000  # in `make torture`
FEWER = 400
SECONDS = 300  # for all of a kind; they take a few


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_mutated_files(kind: str, tmp_path: Path, full: bool, record: Record) -> None:
    """When this fails, `python -m tests.fuzz.worker KIND SEED 1 FOLDER` reads the file again that is named."""
    count = FILES if full else FEWER
    words = [sys.executable, "-W", "ignore", "-m", "tests.fuzz.worker", kind, "0", str(count), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        words, cwd=root, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    lines = done.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    last = next((line for line in reversed(lines) if line.startswith("seed")), "before the first seed")
    assert not failed, "\n".join(failed)
    assert done.returncode == 0, f"{kind}: ended with {done.returncode} at {last}\n{done.stderr[-3000:]}"
    files, refused, bad = (int(part.split()[0]) for part in lines[-1].split(", "))
    assert (files, bad) == (count, 0)
    record(
        "a hostile file is read",
        "bytes flipped, cut, spliced and repeated, lengths blown up (fixed seeds)",
        files,
        "{refused} refused with an error that says what is wrong, {right} read right; no crash, no hang, no endless "
        "allocation",
        of=kind.replace("_", " "),
        counts={"refused": refused, "right": files - refused},
    )


def test_a_seed_gives_the_same_file_and_others_give_others() -> None:
    files = [bytes(range(256)) * 4, b"abc" * 100]
    assert mutated(files, 7) == mutated(files, 7)
    assert len({mutated(files, seed) for seed in range(200)}) > 150


def test_a_crash_of_a_library_is_a_failure(tmp_path: Path) -> None:
    """The harness itself: what dies, hangs or asks for endless memory is not taken for a result."""
    program = "import os; from tests.fuzz import worker, texts\nworker.READERS['bad'] = 'texts'\n{}\n"
    program += "import sys; sys.exit(worker.main('bad', 0, 3, None))"
    crash = "texts.bad = lambda folder: ([b'x'], lambda data: data == b'x' or os.abort())"
    memory = "texts.bad = lambda folder: ([b'x'], lambda data: data == b'x' or bytearray(1 << 36))"
    for made, code in ((crash, -6), (memory, 1)):
        done = subprocess.run(
            [sys.executable, "-c", program.format(made)], capture_output=True, text=True, check=False, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert done.returncode == code
        assert "seed 0" in done.stdout
