"""Compiling kernels on first use, loading them, and what is declared of their functions."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from seqkd.errors import InputError
from seqkd.kernels import attention, bleu, decoding, dropout, products
from seqkd.kernels.build import (
    ABI,
    CPP,
    DOUBLE,
    FLOAT,
    INT,
    INT64,
    POINTER,
    UINT32,
    UINT64,
    Library,
    NoKernelsError,
    check_environment,
    compiler_version,
    find_compiler,
    find_included_files,
    load,
    missing_kernels,
    open_library,
)

needs_compiler = pytest.mark.skipif(decoding.kernels() is None, reason="no C++ compiler here")
LIBRARIES = [module.LIBRARY for module in (attention, bleu, decoding, dropout, products)]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    """A library of one number, which a header's header gives."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "number.h").write_text("#pragma once\nconstexpr int NUMBER = 3;\n")
    (tmp_path / "outer.h").write_text('#pragma once\n#include <vector>\n#include "inner/number.h"\n')
    path = tmp_path / "source.cpp"
    path.write_text(
        f'#include "{CPP / "abi.h"}"\n#include "outer.h"\n#include "inner/number.h"\n'
        'extern "C" int number(int added, const float*) { return NUMBER + added; }\n'
    )
    functions = {"number": (INT, (INT, POINTER))}
    return Library(name="test", source=path, stage="test", otherwise="nothing is lost", functions=functions)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Variables of a build into a folder of the test's own."""
    command = find_compiler()
    return {"SEQKD_CACHE": str(tmp_path / "cache"), "PATH": os.environ["PATH"], "CXX": " ".join(command or ())}


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], str]:
    """Makes a compiler out of lines of shell, before which the real one is called `$real`; gives its command."""

    def make(lines: str) -> str:
        path = tmp_path / "compiler"
        command = find_compiler()
        assert command is not None
        path.write_text(f'#!/bin/sh\nreal="{" ".join(command)}"\n{lines}\n')
        path.chmod(0o755)
        return str(path)

    return make


def number(library: Library, environ: dict[str, str]) -> int:
    found = load(library, environ)
    assert found is not None
    return int(found.number(0, None))


def files(environ: dict[str, str]) -> list[Path]:
    return sorted(path for path in Path(environ["SEQKD_CACHE"]).iterdir() if path.name != "lock")


def test_what_a_source_includes_is_found_wherever_it_lies(library: Library) -> None:
    folder = library.source.parent
    found = [library.source, CPP / "abi.h", folder / "outer.h", folder / "inner" / "number.h"]
    assert find_included_files(library.source) == found


# --- what is built again ------------------------------------------------------------------------------------------


@needs_compiler
def test_a_library_is_built_once_and_again_when_a_header_of_a_header_changes(
    library: Library, environ: dict[str, str]
) -> None:
    assert number(library, environ) == 3
    (built,) = files(environ)
    changed = built.stat().st_mtime_ns
    assert number(library, environ) == 3
    assert built.stat().st_mtime_ns == changed
    (library.source.parent / "inner" / "number.h").write_text("#pragma once\nconstexpr int NUMBER = 4;\n")
    assert number(library, environ) == 4
    assert len(files(environ)) == 2


@needs_compiler
@pytest.mark.parametrize("damage", ["cut short", "one byte", "empty", "another library", "no library"])
def test_a_file_that_is_damaged_or_foreign_is_built_again(
    library: Library, environ: dict[str, str], tmp_path: Path, damage: str
) -> None:
    _, path, built = open_library(library, environ)
    assert built
    whole = path.read_bytes()
    path.unlink()  # a library that is loaded may not be written to
    if damage == "another library":
        other = tmp_path / "other.cpp"
        other.write_text('extern "C" int number() { return 99; }\n')
        subprocess.run([*(find_compiler() or ()), "-shared", "-fPIC", str(other), "-o", str(path)], check=True)
    else:
        flipped = bytes([whole[100] ^ 1])
        content = {
            "cut short": whole[: len(whole) // 2],
            "one byte": whole[:100] + flipped + whole[101:],
            "empty": b"",
            "no library": b"not a library\n",
        }
        path.write_bytes(content[damage])
    assert number(library, environ) == 3
    (found,) = files(environ)
    assert len(found.read_bytes()) == len(whole)
    assert not open_library(library, environ)[2]


@needs_compiler
def test_the_compilers_version_and_the_instruction_set_have_builds_of_their_own(
    library: Library, environ: dict[str, str], script: Callable[[str], str], tmp_path: Path
) -> None:
    (tmp_path / "version").write_text("1.0")
    environ["CXX"] = script(f'[ "$1" = --version ] && exec cat {tmp_path / "version"}\nexec $real "$@"')
    assert number(library, environ) == 3
    assert number(library, {**environ, "SEQKD_ISA": "any"}) == 3
    assert len(files(environ)) == 2
    (tmp_path / "version").write_text("1.1")
    compiler_version.cache_clear()  # each process asks once
    assert number(library, environ) == 3
    assert len(files(environ)) == 3


# --- the compiler -------------------------------------------------------------------------------------------------


@needs_compiler
def test_the_compiler_may_have_a_launcher_and_options(
    library: Library, environ: dict[str, str], tmp_path: Path
) -> None:
    launcher = tmp_path / "cache it"
    launcher.write_text(f'#!/bin/sh\necho "$@" >> "{tmp_path / "log"}"\nexec "$@"\n')
    launcher.chmod(0o755)
    environ["CXX"] = f"'{launcher}' {environ['CXX']} -DSOME='a b'"
    assert number(library, environ) == 3
    assert "-DSOME=a b" in (tmp_path / "log").read_text()


def test_the_compiler_is_the_named_one_or_the_first_that_is_found(tmp_path: Path) -> None:
    assert find_compiler({"CXX": "ccache g++ -O1"}) == ("ccache", "g++", "-O1")
    assert find_compiler({"CXX": "none"}) == ("none",)
    assert find_compiler({"PATH": ""}) is None
    for name in ("clang++", "g++"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
        assert find_compiler({"PATH": str(tmp_path), "CXX": " "}) == (str(tmp_path / name),)
    blank = tmp_path / "a b"
    blank.write_text("")
    assert find_compiler({"CXX": str(blank)}) == (str(blank),)
    with pytest.raises(InputError, match="is not a command"):
        find_compiler({"CXX": "g++ 'x"})


@needs_compiler
def test_a_source_that_does_not_compile_is_told_in_a_line(
    library: Library, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    library.source.write_text("no such language\n")
    assert load(library, environ) is None
    told = capsys.readouterr().err
    assert told.startswith("test: the CPU kernels could not be built or loaded: ")
    assert told.endswith("; nothing is lost\n")
    assert files(environ) == []
    assert missing_kernels()["test"] == "nothing is lost: the CPU kernels could not be built or loaded"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"CXX": "", "PATH": ""}, "no C++ compiler found: neither CXX nor g++ nor clang++"),
        ({"CXX": "/nonexistent -O1"}, "no C++ compiler found: '/nonexistent' (CXX) is not a program"),
    ],
)
def test_without_a_compiler_there_is_a_line_and_no_library(
    library: Library, environ: dict[str, str], capsys: pytest.CaptureFixture[str], changed: dict[str, str], said: str
) -> None:
    assert load(library, environ | changed) is None
    assert capsys.readouterr().err == f"test: {said}; nothing is lost\n"
    assert missing_kernels()["test"] == "nothing is lost: no C++ compiler found"


@needs_compiler
def test_what_was_built_ahead_of_time_needs_no_compiler(library: Library, environ: dict[str, str]) -> None:
    assert number(library, environ) == 3
    without = environ | {"CXX": "", "PATH": ""}
    assert number(library, without) == 3
    (path,) = files(environ)
    path.unlink()  # a library that is loaded may not be written to
    path.write_bytes(b"")
    assert load(library, without) is None


def test_an_environment_in_which_nothing_can_be_built_is_refused(environ: dict[str, str]) -> None:
    check_environment(environ)
    for name, value in (("SEQKD_ISA", "sse9"), ("SEQKD_CACHE", "/dev/null/x"), ("CXX", "'")):
        with pytest.raises(InputError):
            check_environment(environ | {name: value})


# --- several processes --------------------------------------------------------------------------------------------

LOAD = """
import sys
from pathlib import Path
from seqkd.kernels.build import INT, Library, load
library = Library(name="test", source=Path(sys.argv[1]), stage="test", otherwise="", functions={})
sys.exit(0 if load(library).number(0, None) == 3 else 1)
"""


def started(library: Library, environ: dict[str, str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOAD, str(library.source)]
    return subprocess.Popen(command, env=os.environ | environ, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def wait_for(file: Path, process: subprocess.Popen[str]) -> None:
    """Until the process, or one that it started, has written into a file."""
    while not file.exists() or not file.read_text().endswith("\n"):
        assert process.poll() is None
        time.sleep(0.02)


@needs_compiler
def test_processes_that_come_at_once_build_once_and_say_that_they_wait(
    library: Library, environ: dict[str, str], script: Callable[[str], str], tmp_path: Path
) -> None:
    log, go = tmp_path / "log", tmp_path / "go"
    lines = f'[ "$1" = --version ] || {{ echo x >> {log}; while [ ! -e {go} ]; do sleep 0.1; done; }}\nexec $real "$@"'
    environ["CXX"] = script(lines)
    running = [started(library, environ)]
    wait_for(log, running[0])
    running += [started(library, environ) for _ in range(2)]
    for process in running[1:]:
        assert process.stderr is not None
        assert "waiting for another process that compiles the CPU kernels" in process.stderr.readline()
    go.touch()
    told = [process.communicate(timeout=60)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told
    assert log.read_text() == "x\n"
    assert len(files(environ)) == 1


@needs_compiler
def test_a_builder_that_was_killed_holds_nobody_up(
    library: Library, environ: dict[str, str], script: Callable[[str], str], tmp_path: Path
) -> None:
    begun = tmp_path / "begun"
    lines = f'[ "$1" = --version ] || [ -e {begun} ] || {{ echo $$ > {begun}; exec sleep 60; }}\nexec $real "$@"'
    environ["CXX"] = script(lines)
    first = started(library, environ)
    wait_for(begun, first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    os.kill(int(begun.read_text()), signal.SIGKILL)  # its compiler, which would sleep on
    second = started(library, environ)
    told = second.communicate(timeout=60)[1]
    assert second.returncode == 0, told
    assert told == ""


# --- functions ----------------------------------------------------------------------------------------------------


@needs_compiler
def test_a_library_of_another_version_is_told_and_not_used(
    library: Library, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for first, found in ((f'extern "C" int seqkd_abi() {{ return {ABI + 1}; }}\n', f"{ABI + 1}"), ("", "None")):
        library.source.write_text(first + 'extern "C" int number() { return 3; }\n')
        with pytest.raises(NoKernelsError, match=f"source.cpp has interface version {found}, expected {ABI}"):
            open_library(library, environ)
        assert load(library, environ) is None
        assert "test: the CPU kernels are of another version" in capsys.readouterr().err


@needs_compiler
def test_arguments_of_a_wrong_number_or_type_are_an_error(library: Library, environ: dict[str, str]) -> None:
    found = load(library, environ)
    assert found is not None
    assert found.number(2, ctypes.c_void_p(None)) == 5
    for few_or_many in ((), (1,), (1, None, None)):
        with pytest.raises(TypeError, match="takes 2 arguments"):
            found.number(*few_or_many)
    for wrong in ((ctypes.c_void_p(1), None), (1.5, None), (None, None), (1, 1.5)):
        with pytest.raises(ctypes.ArgumentError):
            found.number(*wrong)


TYPES = {"void": None, "int": INT, "int64_t": INT64, "uint32_t": UINT32, "uint64_t": UINT64} | {
    "float": FLOAT,
    "double": DOUBLE,
}
FUNCTION = re.compile(r"^(\w+\*?) (seqkd_\w+)\(([^)]*)\)\s*{", re.MULTILINE)


def declared(words: str) -> object:
    """The ctypes type of a C parameter or result."""
    if "*" in words:
        return POINTER
    return TYPES[words.removeprefix("const ").split()[0]]


@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_functions_are_declared_as_they_are_written(library: Library) -> None:
    found = {}
    for path in find_included_files(library.source):
        for result, name, arguments in FUNCTION.findall(path.read_text(encoding="utf-8")):
            words = [one.strip() for one in arguments.split(",") if one.strip()]
            found[name] = (declared(result), tuple(map(declared, words)))
    pointers = {ctypes.POINTER(attention._Shape): POINTER}
    wanted = {
        name: (result, tuple(pointers.get(one, one) for one in arguments))
        for name, (result, arguments) in library.functions.items()
    }
    assert found == wanted


@needs_compiler
@pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.name)
def test_every_library_has_the_version_that_is_wanted(library: Library) -> None:
    loaded = load(library)
    assert loaded is not None
    assert loaded.seqkd_abi() == ABI
