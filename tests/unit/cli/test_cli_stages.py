"""What the stage commands do around their stage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from seqkd.cli.main import main
from seqkd.config.stages import SelectConfig
from seqkd.corpus.locks import Part
from seqkd.errors import ConflictError
from seqkd.executors.work import Scale
from tests.unit.cli.cli_stub import STAGES, Run, call, failing


@pytest.mark.parametrize("name", [*STAGES, "distill --soft-targets"])
def test_every_stage_answers_a_missing_stage_file(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "nope.toml"
    assert main([*name.split(), "--config", str(config), "--out", str(tmp_path / "out")]) == 2
    said = f"error: {config}: no such file\n  expected: a UTF-8 TOML file\n  to do: check the path\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "out").exists()


def test_all_problems_of_a_stage_file_are_listed(select_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    select_file.write_text('kbest = "k"\nrule = "best"\nspeed = 1\n')
    assert call(select_file) == 2
    shown = capsys.readouterr().err
    assert "4 problems" in shown
    assert all(key in shown for key in ("gold: missing", "prepared: missing", "rule: ", "speed: unknown key"))
    assert "Traceback" not in shown


def test_a_stage_gets_its_settings_and_its_manifest_becomes_newer(
    select_file: Path, stage: Callable[[Run], None]
) -> None:
    out = select_file.with_name("out")
    out.mkdir()
    (out / "manifest.json").write_text("{}")
    os.utime(out / "manifest.json", (1, 1))
    calls: list[tuple[object, ...]] = []

    def run(settings: object, folder: Path, *, overwrite: bool, device: str, scale: object) -> None:
        assert scale == Scale()
        calls.append((settings, folder, overwrite, device))

    stage(run)
    assert call(select_file, "--device", "cuda:1", "--overwrite") == 0
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
    select_file: Path, stage: Callable[[Run], None], words: list[str], calls: list[bool], code: int
) -> None:
    seen: list[bool] = []

    def run(_: object, out: Path, *, overwrite: bool, device: str, scale: object) -> None:  # noqa: ARG001
        seen.append(overwrite)
        if not overwrite:
            raise ConflictError("was made with other settings")
        out.mkdir()
        (out / "manifest.json").touch()

    stage(run)
    assert call(select_file, *words) == code
    assert seen == calls


def test_overwrite_changed_goes_on_where_the_settings_are_the_same(
    select_file: Path, stage: Callable[[Run], None]
) -> None:
    seen: list[bool] = []

    def run(_: object, out: Path, *, overwrite: bool, device: str, scale: object) -> None:  # noqa: ARG001
        seen.append(overwrite)
        out.mkdir(exist_ok=True)
        (out / "manifest.json").touch()

    stage(run)
    assert call(select_file, "--overwrite-changed") == 0
    assert seen == [False]


def test_overwrite_changed_leaves_a_folder_alone_that_is_in_use(
    select_file: Path, stage: Callable[[Run], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stage(failing(ConflictError("in use by another process", where="out")))
    assert call(select_file, "--overwrite-changed") == 2
    assert capsys.readouterr().err == "error: out: in use by another process\n"


def test_a_worker_gets_its_part_and_may_leave_no_manifest(select_file: Path, stage: Callable[[Run], None]) -> None:
    calls: list[object] = []
    stage(lambda *_, scale, **__: calls.append(scale))
    assert call(select_file, "--worker", "2/3", "--executor", "ray") == 0
    assert calls == [Scale("ray", Part(2, 3))]


@pytest.mark.parametrize("name", ["local", "ray"])
def test_the_former_name_of_an_option_is_read_with_a_notice(
    select_file: Path, stage: Callable[[Run], None], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    calls: list[object] = []
    stage(lambda *_, scale, **__: calls.append(scale))
    assert call(select_file, "--engine", name, "--worker", "1/1") == 0
    assert calls == [Scale(executor=name, part=Part(1, 1))]  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said == f"--engine {name} is read as --executor {name}; the next version will refuse the old name\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--worker", "4/3"], "'4/3' is not a part"),
        (["--worker", "1/3", "--overwrite"], "would discard the shards of the others"),
        (["--worker", "1/3", "--overwrite-changed"], "would discard the shards of the others"),
        (["--soft-targets", "--worker", "1/3", "--overwrite"], "would discard the shards of the others"),
    ],
)
def test_options_that_make_no_sense_together(
    select_file: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distill", "--config", str(select_file), "--out", str(select_file.with_name("out")), *words]) == 2
    assert message in capsys.readouterr().err
