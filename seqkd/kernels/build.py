"""Compile C++ kernels on the machine that they run on, once, and load them."""

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
from seqkd.kernels.processors import NATIVE, InstructionSet, processor, requested
from seqkd.progress import say

if TYPE_CHECKING:  # kernels of text and lists are compiled without torch
    from torch import Tensor

ABI = 1  # as in cpp/abi.h
CPP = Path(__file__).parent / "cpp"
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-pthread", "-fno-math-errno")
COMPILERS = ("g++", "clang++")

Compiler = tuple[str, ...]  # words of a command
Signature = tuple[Any, tuple[Any, ...]]  # the types of the result and of the arguments
INT, INT64, UINT32, UINT64 = ctypes.c_int, ctypes.c_int64, ctypes.c_uint32, ctypes.c_uint64
FLOAT, DOUBLE, POINTER = ctypes.c_float, ctypes.c_double, ctypes.c_void_p

_COMPILE_SECONDS = 300  # more than any library takes
_PATIENCE = 2.0  # seconds that a process waits for another one's build before it says so
_WAIT = 2.0 * _COMPILE_SECONDS  # seconds until it no longer waits: the other process is stopped, or its machine is gone


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """A library of kernels.

    Attributes:
        name: Its name in the cache folder and in messages.
        source: The C++ file that is compiled.
        stage: The stage that the message names if there are no kernels.
        otherwise: The path that is taken then, as that message and manifests say it.
        functions: What Python calls, by name.
    """

    name: str
    source: Path
    stage: str
    otherwise: str
    functions: Mapping[str, Signature]


class NoKernelsError(Exception):
    """There are no kernels here.

    Args:
        reason: Why, in a few words without paths: it may stand in a manifest.
        detail: What the system or the compiler says.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason = reason
        super().__init__(f"{reason}: {detail}" if detail else reason)


class _Exact(ctypes.CDLL):
    """A library whose functions refuse too many arguments as well as too few; ctypes takes more than C declares."""

    _func_flags_ = 0


def load(library: Library, environ: Mapping[str, str] = os.environ) -> ctypes.CDLL | None:
    """Load a library, compiled first if the cache folder does not have it.

    Returns:
        None if there are no kernels; one line says why. Each process looks once: see `missing`.

    Raises:
        InputError: `SEQKD_ISA`, `SEQKD_CACHE` or `CXX` cannot be used, or others can write to the cache folder.
    """
    try:
        return open_library(library, environ)[0]
    except NoKernelsError as error:
        _missing[library.name] = f"{library.otherwise}: {error.reason}"
        say(f"{library.stage}: {error}; {library.otherwise}")
        return None


def open_library(library: Library, environ: Mapping[str, str] = os.environ) -> tuple[ctypes.CDLL, Path, bool]:
    """A library, its file, and whether it was compiled just now.

    Raises:
        NoKernelsError: There is no compiler, it fails, or its result cannot be loaded.
        InputError: As `load`.
    """
    command, target, folder = compiler(environ), requested(environ), cache_folder(environ)
    try:
        path, built = _file(library, command, target, folder)
        return _opened(path, library), path, built
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", "") or str(error)
        raise NoKernelsError("the CPU kernels could not be built or loaded", detail.strip()[:500]) from None


_missing: dict[str, str] = {}


def missing() -> dict[str, str]:
    """The paths taken in place of libraries that this process could not have, with the reason, by library."""
    return dict(_missing)


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Refuse an environment that no kernel can be built in, before work starts.

    Raises:
        InputError: As `load`.
    """
    compiler(environ)
    requested(environ)
    cache_folder(environ)


def compiler(environ: Mapping[str, str] = os.environ) -> Compiler | None:
    """The compiler's command: `CXX`, which may have options or a launcher (`ccache g++`), or g++, or clang++.

    Returns:
        None if there is none.

    Raises:
        InputError: `CXX` is not a command.
    """
    named = environ.get("CXX", "").strip()
    if not named:
        path = environ.get("PATH", os.defpath)
        found = next((found for name in COMPILERS if (found := shutil.which(name, path=path))), None)
        return None if found is None else (found,)
    if Path(named).is_file():  # a path with blanks
        return (named,)
    try:
        return tuple(shlex.split(named))
    except ValueError as error:
        raise InputError(
            f"{named!r} is not a command: {error}", where="CXX", expected="a compiler's command, such as `ccache g++`"
        ) from None


@functools.cache
def version(command: Compiler) -> str:
    """What the compiler says of itself; asked once a process, a few milliseconds.

    Raises:
        OSError: There is no such program.
        SubprocessError: It does not answer.
    """
    done = subprocess.run(
        [*command, "--version"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "LC_ALL": "C"},  # the answer is part of a key, which must not depend on the language
    )
    return done.stdout.strip()


def included(source: Path) -> list[Path]:
    """The file and all of ours that it includes, directly or not."""
    found = [source]
    for path in found:
        names = re.findall(r'^#include "(.+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        found += dict.fromkeys(other for name in names if (other := (path.parent / name).resolve()) not in found)
    return found


def pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    """The address of a tensor's numbers, for a kernel; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


# --- the cache ----------------------------------------------------------------------------------------------------
#
# A library's file is NAME-SOURCE-COMPILER-CONTENT.so: digests of its sources and target, of the compiler's command and
# version, and of its own bytes. A file whose bytes have another digest was cut short or is not ours, and is replaced.


def _file(library: Library, command: Compiler | None, target: InstructionSet, folder: Path) -> tuple[Path, bool]:
    """The library's file, and whether it was compiled just now."""
    source = _source_digest(library, target)
    if command is None:
        found = _cached(folder, f"{library.name}-{source}-*")  # built ahead of time
        if found is None:
            raise NoKernelsError("no C++ compiler found", f"neither CXX nor {' nor '.join(COMPILERS)}")
        return found, False
    try:
        stem = f"{library.name}-{source}-{_digest(' '.join(command), version(command))}"
    except FileNotFoundError:
        raise NoKernelsError("no C++ compiler found", f"{command[0]!r} (CXX) is not a program") from None
    found = _cached(folder, f"{stem}-*")
    if found is not None:
        return found, False
    with _building(folder, library):
        found = _cached(folder, f"{stem}-*", discard=True)  # another process may have built it meanwhile
        if found is not None:
            return found, False
        return _compile(library, command, target, folder, stem), True


def _source_digest(library: Library, target: InstructionSet) -> str:
    machine = processor() if target is NATIVE else ""
    texts = [path.read_text(encoding="utf-8") for path in included(library.source)]
    return _digest(*FLAGS, *target.flags, platform.machine(), machine, *platform.libc_ver(), *texts)


def _digest(*parts: str) -> str:
    key = hashlib.sha256()
    for part in parts:
        key.update(part.encode() + b"\0")
    return key.hexdigest()[:16]


def _cached(folder: Path, pattern: str, *, discard: bool = False) -> Path | None:
    """The first whole file of the cache with such a name; others are removed if `discard`."""
    for path in sorted(folder.glob(f"{pattern}.so")):
        with contextlib.suppress(OSError):
            if path.stem.rpartition("-")[2] == hashlib.sha256(path.read_bytes()).hexdigest()[:16]:
                return path
            if discard:
                path.unlink()
    return None


def _compile(library: Library, command: Compiler, target: InstructionSet, folder: Path, stem: str) -> Path:
    for left in folder.glob("building-*"):  # by a process that was killed
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
    """Hold the cache folder for a build. The lock goes with the process that holds it, however that ends."""
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
                    break  # each builds in a folder of its own, and files are renamed into place whole
                time.sleep(0.05)
            except OSError:
                break  # a disk without locks: likewise
        yield


def _opened(path: Path, library: Library) -> ctypes.CDLL:
    """Load a file and declare its functions.

    A function that the library leaves out for this instruction set is left out here: see `products`.
    """
    try:
        opened = _Exact(str(path))
    except OSError as error:
        raise OSError(f"{error}; a disk that programs cannot be loaded from? {VARIABLE} names another folder") from None
    found = opened.seqkd_abi() if hasattr(opened, "seqkd_abi") else None
    if found != ABI:
        raise NoKernelsError(
            "the CPU kernels have other functions than this seqkd calls",
            f"{library.source.name} has version {found} of them, not {ABI}",
        )
    for name, (result, arguments) in library.functions.items():
        if hasattr(opened, name):
            function = getattr(opened, name)
            function.restype, function.argtypes = result, arguments
    return opened
