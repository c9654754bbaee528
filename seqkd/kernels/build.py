"""Compile the C++ kernels once on the machine that they run on, and load them."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqkd.errors import InputError
from seqkd.kernels.cache import VARIABLE, cache_folder
from seqkd.kernels.processors import NATIVE, InstructionSet, processor, requested_set
from seqkd.progress import say

if TYPE_CHECKING:  # kernels for text and lists are compiled without torch
    from torch import Tensor

ABI = 1  # must equal the number in cpp/abi.h
CPP = Path(__file__).parent / "cpp"
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno")
COMPILERS = ("g++", "clang++")

Compiler = tuple[str, ...]  # the words of a command
Signature = tuple[Any, tuple[Any, ...]]  # types of the result and of the arguments
INT, INT64, UINT32, UINT64 = ctypes.c_int, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint64
FLOAT, DOUBLE, POINTER = ctypes.c_float, ctypes.c_double, ctypes.c_void_p

_COMPILE_SECONDS = 300  # longer than any library takes to compile
_PATIENCE = 2.0  # seconds that a process waits silently for the build of another process
_WAIT = 2.0 * _COMPILE_SECONDS  # seconds after which it stops waiting: the other process is stopped or lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library of kernels.

    Attributes:
        name: The name of the library in the cache folder and in messages.
        source: The C++ file to compile.
        stage: The stage that messages about missing kernels name.
        otherwise: The slower path that is taken without the kernels, in words for messages and manifests.
        functions: The signatures of the functions that Python calls, by name.
    """

    name: str
    source: Path
    stage: str
    otherwise: str
    functions: Mapping[str, Signature]


class NoKernelsError(Exception):
    """The kernels are not available.

    Args:
        reason: The reason in a few words. It contains no path, because it may be written to a manifest.
        detail: The message of the system or the compiler.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class _StrictLibrary(ctypes.CDLL):
    """A library whose functions refuse surplus arguments, too. By default ctypes refuses missing arguments only."""

    _func_flags_ = 0


def load(library: Library, environ: Mapping[str, str] = os.environ) -> ctypes.CDLL | None:
    """Load a library. It is compiled first if the cache folder does not contain it.

    Returns:
        The library, or None if the kernels are not available. Then one line is printed, and `missing_kernels` knows
        the reason.

    Raises:
        InputError: `SEQKD_ISA`, `SEQKD_CACHE` or `CXX` cannot be used, or other users can write to the cache folder.
    """
    try:
        return open_library(library, environ)[0]
    except NoKernelsError as error:
        _missing[library.name] = f"{library.otherwise}: {error.reason}"
        say(f"{library.stage}: {error}; {library.otherwise}")
        return None


def open_library(library: Library, environ: Mapping[str, str] = os.environ) -> tuple[ctypes.CDLL, Path, bool]:
    """Return a library, its file, and whether this call has compiled it.

    Raises:
        NoKernelsError: There is no compiler, the compiler fails, or the compiled library cannot be loaded.
        InputError: See `load`.
    """
    command, target, folder = find_compiler(environ), requested_set(environ), cache_folder(environ)
    try:
        path, built = _find_or_compile(library, command, target, folder)
        return _open(path, library), path, built
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise NoKernelsError("the CPU kernels could not be built or loaded", detail.strip()[:500]) from None


_missing: dict[str, str] = {}


def missing_kernels() -> dict[str, str]:
    """Return, by library, the slower path that this process takes without the library, and the reason."""
    return dict(_missing)


def check_environment(environ: Mapping[str, str] = os.environ) -> None:
    """Refuse environment variables with which no kernel can be built, before work starts.

    Raises:
        InputError: See `load`.
    """
    find_compiler(environ)
    requested_set(environ)
    cache_folder(environ)


def find_compiler(environ: Mapping[str, str] = os.environ) -> Compiler | None:
    """Return the command of the compiler: `CXX`, which may contain options or a launcher, or g++, or clang++.

    Returns:
        The command, or None if there is no compiler.

    Raises:
        InputError: `CXX` is not a command.
    """
    named = environ.get("CXX", "").strip()
    if not named:
        path = environ.get("PATH", os.defpath)
        found = next((found for name in COMPILERS if (found := shutil.which(name, path=path))), None)
        return None if found is None else (found,)
    if Path(named).is_file():  # the path may contain blanks
        return (named,)
    try:
        return tuple(shlex.split(named))
    except ValueError as error:
        raise InputError(
            f"{named!r} is not a command: {error}",
            where="CXX",
            expected="the command of a compiler, such as `ccache g++`",
        ) from None


@functools.cache
def compiler_version(command: Compiler) -> str:
    """Return the version text of the compiler. It is run once in a process, for a few milliseconds.

    Raises:
        OSError: There is no such program.
        SubprocessError: The program fails or does not answer.
    """
    done = subprocess.run(
        [*command, "--version"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C"},  # the version is part of a cache key, which must not depend on the language
    )
    return done.stdout.strip()


def find_included_files(source: Path) -> list[Path]:
    """Return the file and all files of seqkd that it includes directly or indirectly."""
    found = [source]
    for path in found:
        names = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        found += dict.fromkeys(other for name in names if (other := (path.parent / name).resolve()) not in found)
    return found


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """Return the address of a tensor's data for a kernel, or null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


# --- the cache ----------------------------------------------------------------------------------------------------
#
# The file of a library is named NAME-SOURCE-COMPILER-CONTENT.so. SOURCE is a digest of its sources and target, COMPILER
# one of the compiler's command and version, CONTENT one of its own bytes. A file whose bytes have another digest was
# truncated or comes from elsewhere, and is replaced.


def _find_or_compile(
    library: Library, command: Compiler | None, target: InstructionSet, folder: Path
) -> tuple[Path, bool]:
    """Return the file of the library, and whether this call has compiled it."""
    source = _source_digest(library, target)
    if command is None:
        found = _find_cached(folder, f"{library.name}-{source}-*")  # built ahead of time
        if found is None:
            raise NoKernelsError("no C++ compiler found", f"neither CXX nor {' nor '.join(COMPILERS)}")
        return found, False
    try:
        stem = f"{library.name}-{source}-{_digest(' '.join(command), compiler_version(command))}"
    except FileNotFoundError:
        raise NoKernelsError("no C++ compiler found", f"{command[0]!r} (CXX) is not a program") from None
    found = _find_cached(folder, f"{stem}-*")
    if found is not None:
        return found, False
    with _building(folder, library):
        found = _find_cached(folder, f"{stem}-*", discard=True)  # another process may have built it in the meantime
        if found is not None:
            return found, False
        return _compile(library, command, target, folder, stem), True


def _source_digest(library: Library, target: InstructionSet) -> str:
    machine = processor() if target is NATIVE else ""
    texts = [path.read_text(encoding="utf-8") for path in find_included_files(library.source)]
    return _digest(*FLAGS, *target.flags, platform.machine(), machine, *platform.libc_ver(), *texts)


def _digest(*parts: str) -> str:
    key = hashlib.sha256()
    for part in parts:
        key.update(part.encode() + b"\0")
    return key.hexdigest()[:16]


def _find_cached(folder: Path, pattern: str, *, discard: bool = False) -> Path | None:
    """Return the first intact file of the cache that matches; `discard` removes damaged files before it."""
    for path in sorted(folder.glob(f"{pattern}.so")):
        with contextlib.suppress(OSError):
            if path.stem.rpartition("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]:
                return path
            if discard:
                path.unlink()
    return None


def _compile(library: Library, command: Compiler, target: InstructionSet, folder: Path, stem: str) -> Path:
    for left in folder.glob("building-*"):  # left by a process that was killed
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _WAIT:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
        built = Path(scratch) / "library.so"
        words = [*command, *FLAGS, *target.flags, str(library.source), "-o", str(built)]
        subprocess.run(words, check=True, capture_output=True, text=True, timeout=_COMPILE_SECONDS)
        content = hashlib.sha256(built.read_bytes()).hexdigest()[:16]
        return built.rename(folder / f"{stem}-{content}.so")


@contextlib.contextmanager
def _building(folder: Path, library: Library) -> Iterator[None]:
    """Lock the cache folder for a build. The lock is released when the process ends, however it ends."""
    with (folder / "lock").open("ab") as lock:
        started, told = time.monotonic(), False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - started
                if waited > _PATIENCE and not told:
                    say(f"{library.stage}: waiting for another process that compiles the CPU kernels in {folder}")
                    told = True
                if waited > _WAIT:
                    break  # safe: each process builds in its own folder and renames complete files into place
                time.sleep(0.05)
            except OSError:
                break  # the file system has no locks; building is safe without them for the same reason
        yield


def _open(path: Path, library: Library) -> ctypes.CDLL:
    """Load a library file and declare its functions.

    Functions that the library does not have for this instruction set are not declared; see `products`.
    """
    try:
        opened = _StrictLibrary(str(path))
    except OSError as error:
        hint = f"if programs cannot be loaded from this file system, set {VARIABLE} to another folder"
        raise OSError(f"{error}; {hint}") from None
    found = opened.seqkd_abi() if hasattr(opened, "seqkd_abi") else None
    if found != ABI:
        raise NoKernelsError(
            "the CPU kernels are of another version than this seqkd",
            f"{library.source.name} has interface version {found}, expected {ABI}",
        )
    for name, (result, arguments) in library.functions.items():
        if hasattr(opened, name):
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
    return opened
