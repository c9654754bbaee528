"""The command line: exit codes, and one message a failure."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seqkd import __version__
from seqkd.cli.main import main
from seqkd.errors import CorpusError, WorkError
from tests.unit.cli.cli_stub import Run, call, failing

# --- usage --------------------------------------------------------------------------------------------------------


def test_help_lists_the_commands_in_the_order_in_which_the_data_passes_through_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "] == [
        *("plan", "prepare", "train", "distill", "select", "evaluate", "report"),
        *("translate", "score", "inspect", "verify", "compare", "forget", "import", "export", "build-kernels"),
    ]
    assert "..." not in "".join(listed)  # no description is cut at the width of a terminal


def test_help_does_not_load_what_it_does_not_need() -> None:
    heavy = "{'torch', 'pyarrow', 'pydantic', 'matplotlib', 'sentencepiece'}"
    code = f"import sys, seqkd.cli.main; seqkd.cli.main.main(['--help']); assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_stages_without_a_model_do_not_wait_for_torch_and_those_that_only_search_not_for_fabric() -> None:
    loaded = "import sys, seqkd.{module}; assert '{heavy}' not in sys.modules, '{module}'"
    plain = ("stages.prepare.prepare", "stages.select.select", "report.stage", "tools.verify")
    modules = dict.fromkeys(plain, "torch") | {"stages.distill.distill": "lightning_fabric"}
    lines = [loaded.format(module=module, heavy=heavy) for module, heavy in modules.items()]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"seqkd {__version__}\n"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["train"], ["train", "--out", "x"], ["translate", "--model", "m", "--beam", "0"]]
)
def test_bad_usage_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Usage: seqkd" in capsys.readouterr().err


# --- failures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (CorpusError("is damaged", where="gold", hint="make it again"), 2, "gold: is damaged\n  to do: make it again"),
        (WorkError("loss is nan", where="update 3"), 1, "update 3: loss is nan"),
        (OSError(errno.ENOSPC, "No space left on device", "out/a"), 1, "out/a: no space left on the disk"),
        (ValueError("three"), 1, "internal error: ValueError: three\n  to do: run again with --debug"),
    ],
)
def test_a_failure_is_one_message_without_a_traceback(
    select_file: Path,
    stage: Callable[[Run], None],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    shown: str,
) -> None:
    stage(failing(error))
    assert call(select_file) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {shown}")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_debug_shows_the_traceback(
    select_file: Path, stage: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stage(failing(WorkError("loss is nan")))
    assert call(select_file, "--debug") == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.rstrip().endswith("error: loss is nan")


def test_an_interrupt_is_130(
    select_file: Path, stage: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stage(failing(KeyboardInterrupt()))
    assert call(select_file) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_goes_away_is_no_noise() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "seqkd", "--help"], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "")
