"""`seqkd build-kernels`, and an environment in which kernels cannot be built."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from seqkd.cli.main import main
from seqkd.kernels import decoding
from seqkd.kernels.build import find_compiler
from seqkd.kernels.processors import available_sets, model_name
from tests.unit.cli.cli_stub import call

FAKE = r"""#!/bin/sh
[ "$1" = --version ] && exec echo quick 1.0
for last; do :; done
cat > "$last.cpp" << END
extern "C" {
int seqkd_abi() { return 1; }
int seqkd_arithmetics() { return 2; }
int seqkd_training_unit() { return 0; }
}
END
"""


@pytest.mark.skipif(decoding.kernels() is None, reason="no C++ compiler here")
def test_all_libraries_are_built_and_the_machine_is_shown(tmp_path: Path) -> None:
    real = find_compiler()
    assert real is not None
    fake = tmp_path / "compiler"  # one that is quick: the functions that are asked, and no more
    fake.write_text(f'{FAKE}exec {shlex.join(real)} -shared -fPIC "$last.cpp" -o "$last"\n')
    fake.chmod(0o755)
    environ = {**os.environ, "SEQKD_CACHE": str(tmp_path / "cache"), "CXX": str(fake), "SEQKD_ISA": ""}
    for how in ("built in", "already built"):
        command = [sys.executable, "-m", "seqkd", "build-kernels"]
        shown = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True).stdout
        for name in ("decoding", "attention", "dropout", "products", "bleu"):
            (path,) = (tmp_path / "cache").glob(f"{name}-*.so")
            assert f"{path.name}, {how}" in shown
        for part in (
            model_name(),
            ", ".join(one.name for one in available_sets()),
            "quick 1.0",
            str(tmp_path / "cache"),
        ):
            assert part in shown
        assert "native (SEQKD_ISA selects another one)" in shown
        assert "decodes in        float32, int8\n" in shown
        assert "trains in         float32\n" in shown


def test_without_a_compiler_it_fails_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SEQKD_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "/nonexistent")
    assert main(["build-kernels"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("error: not all kernels could be built:\n  decoding: no C++ compiler found")
    assert "bleu              missing" in shown.out


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SEQKD_ISA", "sse9", "no instruction set is named 'sse9'"),
        ("SEQKD_CACHE", "shared", "other users can write"),
        ("CXX", "'g++", "is not a command"),
    ],
)
def test_a_stage_refuses_such_an_environment_before_it_starts(
    select_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    value: str,
    said: str,
) -> None:
    if value == "shared":
        value = str(select_file.parent / "shared")
        Path(value).mkdir()
        Path(value).chmod(0o777)
    monkeypatch.setenv(name, value)
    assert call(select_file) == 2
    assert said in capsys.readouterr().err
    assert not select_file.with_name("out").exists()
