"""Parts of the kernels, compiled by themselves, for this processor and for others."""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from seqkd.kernels.build import CPP, FLAGS, find_compiler
from seqkd.kernels.processors import InstructionSet, available_sets, known_sets, requested_set
from seqkd.search import Hypothesis
from seqkd.search.cpu.weights import ARITHMETIC, Arithmetic, available
from tests.unit.search.cpu.rounded import Rounding

HEADERS = CPP / "decoding"
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
    """A processor that kernels are compiled for.

    Attributes:
        name: Its name in tests' ids.
        isa: The instruction set that the compiler is asked for.
        options: Further options of the compiler, with which it takes another processor's place.
        arithmetics: The arithmetics that it has kernels of.
    """

    name: str
    isa: InstructionSet
    options: tuple[str, ...]
    arithmetics: tuple[Arithmetic, ...]

    def command(self) -> list[str]:
        """The compiler with its options, as the kernels are compiled for this target."""
        return [*_compiler(), *self.options, *FLAGS, *self.isa.flags]

    def environment(self, cache: Path) -> dict[str, str]:
        """The variables under which seqkd compiles its kernels for this target."""
        words = shlex.join([*_compiler(), *self.options])
        return {"SEQKD_ISA": self.isa.name, "CXX": words, "SEQKD_CACHE": str(cache)}


# Macros of the processors that are emulated if they are not at hand: their instructions in plain C++.
_EMULATED = {
    "avx-vnni": ("AVXVNNI",),
    "avx512": ("AVX512F",),
    "vnni": ("AVX512F", "AVX512VNNI"),
    "bf16": ("AVX512F", "AVX512VNNI", "AVX512BF16"),
    "amx": ("AVX512F", "AVX512VNNI", "AVX512BF16", "AMX_INT8", "AMX_BF16"),
}


def _arithmetics(name: str) -> tuple[Arithmetic, ...]:
    if name == "amx":
        return tuple(ARITHMETIC)
    return ("float32", "bf16") if name == "any" else ("float32", "bf16", "int8")


def _targets() -> list[Target]:
    """One for each instruction set: by itself if the processor has it, else emulated on AVX2."""
    here = {one.name: one for one in available_sets()}
    found = []
    for one in known_sets():
        if one.name in here:
            found.append(Target(one.name, one, (), _arithmetics(one.name)))
        elif "avx2" in here:
            macros = (f"-D__{feature}__" for feature in _EMULATED[one.name])
            options = ("-Wno-psabi", f"-I{Path(__file__).parent / 'emulated'}", *macros)
            found.append(Target(f"{one.name} emulated", here["avx2"], options, _arithmetics(one.name)))
    return found


NATIVE = Target("native", requested_set(), (), tuple(name for name in ARITHMETIC if available(name)))
OTHERS = _targets()


@functools.cache
def macros(target: Target) -> frozenset[str]:
    """The macros that are defined when kernels are compiled for a target."""
    words = [*target.command(), "-dM", "-E", "-x", "c++", os.devnull]
    lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    return frozenset(line.split()[1] for line in lines)


def rounding(arithmetic: Arithmetic, target: Target = NATIVE) -> Rounding:
    """How kernels that are compiled for a target round."""
    defined = macros(target)
    in_attention = "__AVX512BF16__" in defined
    return Rounding(arithmetic, in_attention or "__AMX_BF16__" in defined, in_attention)


def _compiler() -> tuple[str, ...]:
    found = find_compiler()
    assert found is not None
    return found


def harness(folder: Path, source: str, target: Target = NATIVE) -> ctypes.CDLL:
    """A library of `source`, C++ that may include the kernels' headers, built in `folder` as the kernels are."""
    (folder / "harness.cpp").write_text(source)
    subprocess.run([*target.command(), f"-I{HEADERS}", "harness.cpp", "-o", "harness.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "harness.so"))
