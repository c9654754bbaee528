"""Compiling kernels on first use."""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

import pytest

from seqkd.kernels.build import cache_folder, compiled, included

compiler = pytest.mark.skipif(
    not (os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler here"
)


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A library of one number, which a header's header gives."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "number.h").write_text("#pragma once\nconstexpr int NUMBER = 3;\n")
    (tmp_path / "outer.h").write_text('#pragma once\n#include <vector>\n#include "inner/number.h"\n')
    path = tmp_path / "source.cpp"
    path.write_text('#include "outer.h"\n#include "inner/number.h"\nextern "C" int number() { return NUMBER; }\n')
    return path


def number(source: Path) -> int:
    library = compiled(source, stage="test", otherwise="nothing is lost")
    assert isinstance(library, ctypes.CDLL)
    return int(library.number())


def test_what_a_source_includes_is_found_wherever_it_lies(source: Path) -> None:
    folder = source.parent
    assert included(source) == [source, folder / "outer.h", folder / "inner" / "number.h"]


@compiler
def test_a_library_is_built_once_and_again_when_a_header_of_a_header_changes(source: Path) -> None:
    assert number(source) == 3
    (built,) = cache_folder().iterdir()
    changed = built.stat().st_mtime_ns
    assert number(source) == 3
    assert built.stat().st_mtime_ns == changed
    (source.parent / "inner" / "number.h").write_text("#pragma once\nconstexpr int NUMBER = 4;\n")
    assert number(source) == 4
    assert len(list(cache_folder().iterdir())) == 2


@compiler
def test_a_source_that_does_not_compile_is_told_in_a_line(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source.write_text("no such language\n")
    assert compiled(source, stage="test", otherwise="nothing is lost") is None
    told = capsys.readouterr()
    assert "test: the CPU kernels could not be built; nothing is lost: " in told.err + told.out
    assert list(cache_folder().iterdir()) == []


def test_without_a_compiler_there_is_a_line_and_no_library(
    source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", "")
    assert compiled(source, stage="test", otherwise="nothing is lost") is None
    told = capsys.readouterr()
    assert "no C++ compiler found" in told.err + told.out
