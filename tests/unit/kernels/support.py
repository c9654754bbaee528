"""Parts of the kernels, compiled by themselves, for this processor and for others."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from seqkd.kernels import build
from seqkd.kernels.build import FLAGS, processor
from seqkd.search import Hypothesis
from seqkd.search.cpu.weights import ARITHMETIC, Arithmetic, available
from tests.unit.search.cpu.rounded import Rounding

HEADERS = Path(build.__file__).parent / "cpp" / "decoding"
# Of sentences: where two hypotheses have nearly one score, the order of float32's sums decides which is kept.
NEAR_TIES = 0.05


Lists = Mapping[int, Sequence[Hypothesis]]


def differing(found: Lists, expected: Lists, tolerance: float) -> int:
    """How many sentences have other lists; scores must be close in all the others."""
    count = 0
    for row, wanted in expected.items():
        if [(one.ids, one.ended) for one in wanted] != [(one.ids, one.ended) for one in found[row]]:
            count += 1
            continue
        for one, other in zip(wanted, found[row], strict=True):
            for exact, near in ((one.score, other.score), (one.logprob, other.logprob)):
                assert abs(near - exact) <= tolerance * max(1, abs(exact))
    return count


class Target(NamedTuple):
    """What kernels are compiled for.

    Attributes:
        name: In tests' names.
        flags: The compiler's, in the place of the one for this processor.
        arithmetics: That there are kernels of.
    """

    name: str
    flags: tuple[str, ...]
    arithmetics: tuple[Arithmetic, ...]

    def all_flags(self) -> list[str]:
        """As the kernels are compiled, but for this target."""
        return [own for flag in FLAGS for own in (self.flags if flag.startswith("-march=") else (flag,))]


def _emulated(name: str, arithmetics: tuple[Arithmetic, ...], *features: str) -> Target:
    header = Path(__file__).parent / "emulated"
    macros = (f"-D__{feature}__" for feature in features)
    return Target(name, ("-march=x86-64-v3", "-Wno-psabi", f"-I{header}", *macros), arithmetics)


NATIVE = Target("native", ("-march=native",), tuple(name for name in ARITHMETIC if available(name)))
ANY = Target("any", ("-march=x86-64",), ("float32", "bf16"))
AVX2 = Target("AVX2", ("-march=x86-64-v3",), ("float32", "bf16", "int8"))
# What few processors have, in plain C++.
AVX_VNNI = _emulated("AVX-VNNI", ("float32", "bf16", "int8"), "AVXVNNI")
AVX512 = _emulated("AVX-512", ("float32", "bf16", "int8"), "AVX512F")
VNNI = _emulated("VNNI", ("float32", "bf16", "int8"), "AVX512F", "AVX512VNNI")
BF16 = _emulated("BF16", ("float32", "bf16", "int8"), "AVX512F", "AVX512VNNI", "AVX512BF16")
AMX = _emulated("AMX", tuple(ARITHMETIC), "AVX512F", "AVX512VNNI", "AVX512BF16", "AMX_INT8", "AMX_BF16")
OTHERS: list[Target] = []  # that this processor can run
if platform.machine() == "x86_64":
    OTHERS = [ANY, AVX2, AVX_VNNI, AVX512, VNNI, BF16, AMX] if "avx2" in processor() else [ANY]


@functools.cache
def macros(*flags: str) -> frozenset[str]:
    """Those that are defined where the kernels are compiled; by default as they are for this processor."""
    command = [_compiler(), *(flags or FLAGS), "-dM", "-E", "-x", "c++", os.devnull]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return frozenset(line.split()[1] for line in lines)


def rounding(arithmetic: Arithmetic, *flags: str) -> Rounding:
    """As kernels have it that are compiled with such flags; by default for this processor."""
    defined = macros(*flags)
    in_attention = "__AVX512BF16__" in defined
    return Rounding(arithmetic, in_attention or "__AMX_BF16__" in defined, in_attention)


def _compiler() -> str:
    found = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    assert found is not None
    return found


def harness(folder: Path, source: str, target: Target = NATIVE) -> ctypes.CDLL:
    """A library of `source`, C++ that may include the kernels' headers, built in `folder` as the kernels are."""
    (folder / "harness.cpp").write_text(source)
    command = [_compiler(), *target.all_flags(), f"-I{HEADERS}", "harness.cpp", "-o", "harness.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "harness.so"))
