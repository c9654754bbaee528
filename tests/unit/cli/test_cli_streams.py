"""Standard streams that are closed or break, pipes as inputs, arguments that are no text, users without a home."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from seqkd.cli.main import main
from seqkd.config.toml import to_toml
from seqkd.corpus.manifest import MANIFEST
from tests.unit.stages.select_folders import write_gold, write_kbest, write_prepared
from tests.unit.stages.support import prepare_config

NO_PASSWD_ENTRY = """
import pwd

def missing(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")

pwd.getpwuid = missing
"""


def run(
    folder: Path, *words: str | bytes, streams: str = "", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with redirections of the shell."""
    command = " ".join(shlex.quote(os.fsdecode(word)) for word in (sys.executable, "-m", "seqkd", *words))
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        ["bash", "-c", os.fsencode(f"{command} {streams}")],
        cwd=folder,
        env=(dict(os.environ) if environment is None else environment) | {"PYTHONPATH": f"{folder}:{root}"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A stage file of `seqkd prepare` and its text."""
    path = tmp_path / "prepare.toml"
    path.write_text(to_toml(prepare_config(tmp_path)))
    return path


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_stage_does_its_work_whatever_streams_there_are(config: Path, tmp_path: Path, streams: str) -> None:
    done = run(tmp_path, "prepare", "--config", str(config), "--out", "gold", streams=streams)
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "gold" / MANIFEST).exists()
    assert ("pieces; in gold" in done.stderr) == ("2>" not in streams)
    if streams != "2>&-":
        return
    shown = run(tmp_path, "inspect", "gold", streams=streams)
    assert shown.returncode == 0
    assert shown.stdout.startswith("Prepared data gold")


@pytest.mark.parametrize("streams", [">&-", "<&- >&- 2>&-"])
def test_a_command_that_shows_something_ends_well_without_stdout(config: Path, tmp_path: Path, streams: str) -> None:
    assert main(["prepare", "--config", str(config), "--out", str(tmp_path / "gold")]) == 0
    done = run(tmp_path, "inspect", "gold", streams=streams)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert run(tmp_path, "--version", streams=streams).returncode == 0


def test_no_stderr_is_no_reason_to_write_messages_among_results(tmp_path: Path) -> None:
    done = run(tmp_path, "inspect", "nowhere", streams="2>&-")
    assert (done.returncode, done.stdout) == (2, "")


@pytest.mark.parametrize(
    ("words", "streams", "name"),
    [
        (["translate", "--model", "m"], "<&-", "stdin"),
        (["translate", "--model", "m"], ">&-", "stdout"),
        (["score", "--model", "m", "--source", "text", "--target", "text"], ">&-", "stdout"),
    ],
)
def test_a_command_whose_streams_are_its_data_says_that_one_is_closed(
    tmp_path: Path, words: list[str], streams: str, name: str
) -> None:
    (tmp_path / "text").write_text("a\n")
    done = run(tmp_path, *words, streams=streams)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {name}: is closed\n")


def test_a_full_disk_behind_stdout_is_one_message(tmp_path: Path) -> None:
    done = run(tmp_path, "--version", streams=">/dev/full")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no space left on the disk\n")
    assert done.stderr.count("\n") == 2


def test_a_stdout_of_another_encoding_gets_what_it_can_show(config: Path, tmp_path: Path) -> None:
    assert main(["prepare", "--config", str(config), "--out", str(tmp_path / "göld")]) == 0
    done = run(tmp_path, "inspect", "göld", environment=dict(os.environ) | {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Prepared data g\\xf6ld\n")


def test_a_user_without_a_home_is_served(config: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_PASSWD_ENTRY)
    nobody = {name: value for name, value in os.environ.items() if name not in ("HOME", "USER", "LOGNAME")}
    nobody = {name: value for name, value in nobody.items() if not name.startswith("XDG_")} | {"TMPDIR": str(tmp_path)}
    done = run(tmp_path, "prepare", "--config", str(config), "--out", "gold", environment=nobody)
    assert done.returncode == 0, done.stderr
    select = tmp_path / "select.toml"
    select.write_text(
        'kbest = "kbest"\ngold = "prepared/train"\nprepared = "prepared"\nrule = "seqinter"\nworkers = 1\n'
    )
    write_prepared(tmp_path / "prepared")
    write_gold(tmp_path / "prepared" / "train")
    write_kbest(tmp_path / "kbest")
    done = run(tmp_path, "select", "--config", str(select), "--out", "selected", environment=nobody)
    assert done.returncode == 0, done.stderr


# --- pipes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["plan", "pipe"],
        ["import", "fairseq", "pipe", "--dictionary", "text", "--out", "out"],
        ["import", "fairseq", "text", "--dictionary", "pipe", "--out", "out"],
        ["import", "fairseq", "text", "--dictionary", "text", "--source-dictionary", "pipe", "--out", "out"],
        ["import", "fairseq", "text", "--dictionary", "text", "--sentencepiece", "pipe", "--out", "out"],
        ["import", "fairseq", "text", "--dictionary", "text", "--source-sentencepiece", "pipe", "--out", "out"],
        ["export", "fairseq", "pipe", "--out", "out"],
        ["inspect", "pipe"],
        ["verify", "pipe"],
        ["translate", "--model", "pipe"],
        ["score", "--model", "pipe", "--source", "text", "--target", "text"],
        ["prepare", "--config", "text.toml", "--out", "out"],
        ["prepare", "--monolingual", "--config", "text.toml", "--out", "out"],
    ],
)
def test_a_pipe_that_cannot_serve_is_refused_at_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("text").write_text("a\n")
    if words[0] == "prepare":
        monolingual = "--monolingual" in words
        write_prepared(tmp_path / "prepared")
        text = '{ source = "text", target = "text" }'
        parts = ['train = { source = "text", target = "pipe" }', f"valid = {text}"]
        parts.append('test = { source = "text", target = "text", accepted = "pipe" }')
        mono = ['prepared = "prepared"', 'text = ["pipe"]', "ratio = 1.0"]
        Path("text.toml").write_text("\n".join(mono if monolingual else parts))
    assert main(words) == 2
    assert "pipe: " in capsys.readouterr().err
    assert not Path("out").exists()


def test_a_stage_file_may_come_from_a_process(config: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "prepare", "--out", "gold", streams=f"--config <(cat {shlex.quote(str(config))})")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_waiting_for_a_pipe_can_be_ended(tmp_path: Path, number: signal.Signals) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("a\n")
    # A process that a shell started in the background ignores SIGINT, and so do its children, until they say otherwise.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from seqkd.cli.main import main; from seqkd.tools.score import score_files; print('here', flush=True)\n"
    code += "sys.exit(main(sys.argv[1:]))"
    words = ["score", "--model", "m", "--source", "pipe", "--target", "text"]
    command = [sys.executable, "-c", code, *words]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(number)
        try:
            assert process.wait(timeout=60) == (130 if number == signal.SIGINT else -signal.SIGTERM)
        finally:
            process.kill()  # leaving the block waits for it


# --- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        [b"prepare", b"--config", b"prepare.toml", b"--out", b"caf\xe9"],
        [b"translate", b"--model", b"caf\xe9"],
        [b"inspect", b"caf\xe9"],
    ],
)
def test_an_argument_that_is_not_utf8_is_refused_before_work_starts(
    config: Path,  # noqa: ARG001
    tmp_path: Path,
    words: list[bytes],
) -> None:
    done = run(tmp_path, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the argument caf\\xe9 is not UTF-8\n")
    assert not any("caf" in path.name for path in tmp_path.iterdir())
