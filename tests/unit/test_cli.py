"""The command line: exit codes, one message a failure, and what the stage commands do around their stage."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from seqkd import __version__
from seqkd.cli import main
from seqkd.config import SelectConfig
from seqkd.corpus.locks import Part
from seqkd.engines.work import Scale
from seqkd.errors import ConflictError, CorpusError, WorkError

STAGES = ("prepare", "train", "distill", "select", "evaluate", "report")

Run = Callable[..., None]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "select.toml"
    path.write_text('kbest = "k"\ngold = "g"\nprepared = "p"\nrule = "seqkd"\n')
    return path


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Run], None]:
    """Puts a function in the place of `seqkd select`'s stage."""

    def install(run: Run) -> None:
        module = ModuleType("seqkd.stages.select")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "seqkd.stages.select", module)

    return install


def failing(error: BaseException) -> Run:
    def run(*_: Any, **__: Any) -> None:
        raise error

    return run


def call(config: Path, *words: str) -> int:
    return main(["select", "--config", str(config), "--out", str(config.with_name("out")), *words])


# --- usage --------------------------------------------------------------------------------------------------------


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("plan", *STAGES, "translate", "score", "inspect"):
        assert f"\n  {command} " in shown


def test_help_does_not_load_what_it_does_not_need() -> None:
    heavy = "{'torch', 'pyarrow', 'pydantic', 'matplotlib', 'sentencepiece'}"
    code = f"import sys, seqkd.cli; seqkd.cli.main(['--help']); assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"seqkd {__version__}\n"


@pytest.mark.parametrize(
    "words", [["nonsense"], ["train"], ["train", "--out", "x"], ["translate", "--model", "m", "--beam", "0"]]
)
def test_bad_usage_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert "Usage: seqkd" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*STAGES, "distill --soft-targets"])
def test_every_stage_answers_a_missing_stage_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "nope.toml"
    assert main([*name.split(), "--config", str(config), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"error: {config}: no such file\n"
    assert not (tmp_path / "out").exists()


def test_all_problems_of_a_stage_file_are_listed(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config.write_text('kbest = "k"\nrule = "best"\nspeed = 1\n')
    assert call(config) == 2
    shown = capsys.readouterr().err
    assert "4 problems" in shown
    assert all(key in shown for key in ("gold: missing", "prepared: missing", "rule: ", "speed: unknown key"))
    assert "Traceback" not in shown


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
    config: Path,
    stage: Callable[[Run], None],
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    shown: str,
) -> None:
    stage(failing(error))
    assert call(config) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {shown}")
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_debug_shows_the_traceback(
    config: Path, stage: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stage(failing(WorkError("loss is nan")))
    assert call(config, "--debug") == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.rstrip().endswith("error: loss is nan")


def test_an_interrupt_is_130(config: Path, stage: Callable[[Run], None], capsys: pytest.CaptureFixture[str]) -> None:
    stage(failing(KeyboardInterrupt()))
    assert call(config) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_reader_that_goes_away_is_no_noise() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        done = subprocess.run(
            [sys.executable, "-m", "seqkd", "--help"], stdout=closed, stderr=subprocess.PIPE, text=True
        )
    assert (done.returncode, done.stderr) == (1, "")


# --- stages -------------------------------------------------------------------------------------------------------


def test_a_stage_gets_its_settings_and_its_manifest_becomes_newer(config: Path, stage: Callable[[Run], None]) -> None:
    out = config.with_name("out")
    out.mkdir()
    (out / "manifest.json").write_text("{}")
    os.utime(out / "manifest.json", (1, 1))
    calls: list[tuple[object, ...]] = []

    def run(settings: object, folder: Path, *, overwrite: bool, device: str, scale: object) -> None:
        assert scale == Scale()
        calls.append((settings, folder, overwrite, device))

    stage(run)
    assert call(config, "--device", "cuda:1", "--overwrite") == 0
    expected = SelectConfig(kbest=Path("k"), gold=Path("g"), prepared=Path("p"), rule="seqkd")
    assert calls == [(expected, out, True, "cuda:1")]
    assert (out / "manifest.json").stat().st_mtime > 1


@pytest.mark.parametrize(
    ("words", "calls", "code"),
    [
        ([], [False], 2),
        (["--overwrite"], [True], 0),
        (["--overwrite-changed"], [False, True], 0),
    ],
)
def test_a_folder_with_other_settings_is_made_anew_only_if_asked(
    config: Path, stage: Callable[[Run], None], words: list[str], calls: list[bool], code: int
) -> None:
    seen: list[bool] = []

    def run(_: object, out: Path, *, overwrite: bool, device: str, scale: object) -> None:  # noqa: ARG001
        seen.append(overwrite)
        if not overwrite:
            raise ConflictError("was made with other settings")
        out.mkdir()
        (out / "manifest.json").touch()

    stage(run)
    assert call(config, *words) == code
    assert seen == calls


def test_overwrite_changed_goes_on_where_the_settings_are_the_same(config: Path, stage: Callable[[Run], None]) -> None:
    seen: list[bool] = []

    def run(_: object, out: Path, *, overwrite: bool, device: str, scale: object) -> None:  # noqa: ARG001
        seen.append(overwrite)
        out.mkdir(exist_ok=True)
        (out / "manifest.json").touch()

    stage(run)
    assert call(config, "--overwrite-changed") == 0
    assert seen == [False]


def test_overwrite_changed_leaves_a_folder_alone_that_is_in_use(
    config: Path, stage: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stage(failing(ConflictError("in use by another process", where="out")))
    assert call(config, "--overwrite-changed") == 2
    assert capsys.readouterr().err == "error: out: in use by another process\n"


def test_a_worker_gets_its_part_and_may_leave_no_manifest(config: Path, stage: Callable[[Run], None]) -> None:
    calls: list[object] = []
    stage(lambda *_, scale, **__: calls.append(scale))
    assert call(config, "--worker", "2/3", "--engine", "ray") == 0
    assert calls == [Scale("ray", Part(2, 3))]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--worker", "4/3"], "'4/3' is no part"),
        (["--worker", "1/3", "--overwrite"], "would delete what the others have made"),
        (["--worker", "1/3", "--overwrite-changed"], "would delete what the others have made"),
        (["--soft-targets", "--engine", "ray"], "--soft-targets with"),
    ],
)
def test_options_that_make_no_sense_together(
    config: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "--config", str(config), "--out", str(config.with_name("out")), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["translate", "score"])
def test_a_folder_that_is_no_model_is_named(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text"
    text.write_text("a\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    extra = ["--source", str(text), "--target", str(text)] if command == "score" else []
    assert main([command, "--model", str(tmp_path), "--device", "cpu", *extra]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_inspect_of_nothing_is_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path / "nope")]) == 2
    assert main(["inspect", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("error: ") == 2
