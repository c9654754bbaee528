"""The instruction sets that kernels can be compiled for, and those that this processor has."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from seqkd.errors import InputError

VARIABLE = "SEQKD_ISA"


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """A target of the compiler.

    Attributes:
        name: Its value of `SEQKD_ISA`.
        flags: The compiler's options for it.
        needs: Features that a processor must have, as /proc/cpuinfo names them.
    """

    name: str
    flags: tuple[str, ...]
    needs: frozenset[str]


NATIVE = InstructionSet("native", ("-march=native",), frozenset())
_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe", "abm"})
_AVX512 = _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
_BF16 = _AVX512 | {"avx512_vnni", "avx512_bf16"}
_V3, _V4 = "-march=x86-64-v3", "-march=x86-64-v4"
_X86 = (
    InstructionSet("any", ("-march=x86-64",), frozenset()),
    InstructionSet("avx2", (_V3,), _AVX2),
    InstructionSet("avx-vnni", (_V3, "-mavxvnni"), _AVX2 | {"avx_vnni"}),
    InstructionSet("avx512", (_V4,), _AVX512),
    InstructionSet("vnni", (_V4, "-mavx512vnni"), _AVX512 | {"avx512_vnni"}),
    InstructionSet("bf16", (_V4, "-mavx512vnni", "-mavx512bf16"), _BF16),
    InstructionSet(
        "amx",
        (_V4, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-int8", "-mamx-bf16"),
        _BF16 | {"amx_tile", "amx_int8", "amx_bf16"},
    ),
)
_OTHER = (InstructionSet("any", (), frozenset()),)


def known(machine: str | None = None) -> tuple[InstructionSet, ...]:
    """The instruction sets of a kind of machine (`platform.machine()`; this one if None), narrow ones first."""
    return _X86 if (machine or platform.machine()) in ("x86_64", "AMD64") else _OTHER


@functools.cache
def processor() -> str:
    """The processor's model and features, on which `-march=native` depends.

    A cache folder on a shared disk serves machines of several kinds.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def model_name() -> str:
    """The processor's name, as its maker has it."""
    names = [line.partition(":")[2].strip() for line in processor().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "CPU"


def features() -> frozenset[str]:
    """The processor's features, as /proc/cpuinfo names them; none if the system does not tell."""
    lines = (line.partition(":") for line in processor().splitlines())
    return frozenset(word for name, _, words in lines if not name.startswith("model") for word in words.split())


def present(found: frozenset[str] | None = None) -> tuple[InstructionSet, ...]:
    """Those of `known()` that a processor with the features `found` (this one if None) can run."""
    has = features() if found is None else found
    return tuple(one for one in known() if one.needs <= has)


def requested(environ: Mapping[str, str] = os.environ, found: frozenset[str] | None = None) -> InstructionSet:
    """The instruction set that kernels are compiled for: that of `SEQKD_ISA`, or all that the processor has.

    Args:
        environ: The environment.
        found: The processor's features; those of this one if None.

    Raises:
        InputError: `SEQKD_ISA` names no instruction set, or one that the processor lacks.
    """
    name = environ.get(VARIABLE, "").lower() or NATIVE.name
    if name == NATIVE.name:
        return NATIVE
    usable = present(found)
    for one in usable:
        if one.name == name:
            return one
    expected = ", ".join([NATIVE.name, *(one.name for one in usable)])
    for one in known():
        if one.name == name:
            lacking = ", ".join(sorted(one.needs - (features() if found is None else found)))
            raise InputError(
                f"this processor lacks the instruction set {name!r} ({lacking})",
                where=VARIABLE,
                expected=f"one of {expected}",
            )
    raise InputError(f"no instruction set is named {name!r}", where=VARIABLE, expected=f"one of {expected}")
