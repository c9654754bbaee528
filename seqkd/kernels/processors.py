"""The instruction sets for which kernels can be compiled, and the instruction sets of this processor."""

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
    """An instruction set for which kernels can be compiled.

    Attributes:
        name: The value of `SEQKD_ISA` that selects it.
        flags: The compiler options for it.
        needs: The processor features that it needs, as /proc/cpuinfo names them.
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


def known_sets(machine: str | None = None) -> tuple[InstructionSet, ...]:
    """Return the instruction sets of a kind of machine, narrow ones first; None stands for this machine."""
    return _X86 if (machine or platform.machine()) in ("x86_64", "AMD64") else _OTHER


@functools.cache
def processor() -> str:
    """Return the model and the features of this processor, on which `-march=native` depends.

    They are part of the cache key, because a cache folder on a shared disk serves several kinds of machines.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def model_name() -> str:
    """Return the manufacturer's name of the processor."""
    names = [line.partition(":")[2].strip() for line in processor().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "CPU"


def features() -> frozenset[str]:
    """Return the processor's features as /proc/cpuinfo names them; empty if the system does not provide them."""
    lines = (line.partition(":") for line in processor().splitlines())
    return frozenset(word for name, _, words in lines if not name.startswith("model") for word in words.split())


def available_sets(found: frozenset[str] | None = None) -> tuple[InstructionSet, ...]:
    """Return the sets of `known_sets()` that a processor with the features `found` supports; None: this processor."""
    has = features() if found is None else found
    return tuple(one for one in known_sets() if one.needs <= has)


def requested_set(environ: Mapping[str, str] = os.environ, found: frozenset[str] | None = None) -> InstructionSet:
    """Return the instruction set for which kernels are compiled: `SEQKD_ISA`, or everything the processor has.

    Args:
        environ: The environment variables.
        found: The features of the processor; None for this processor.

    Raises:
        InputError: `SEQKD_ISA` is not the name of an instruction set, or the processor lacks the instruction set.
    """
    name = environ.get(VARIABLE, "").lower() or NATIVE.name
    if name == NATIVE.name:
        return NATIVE
    usable = available_sets(found)
    for one in usable:
        if one.name == name:
            return one
    expected = ", ".join([NATIVE.name, *(one.name for one in usable)])
    for one in known_sets():
        if one.name == name:
            lacking = ", ".join(sorted(one.needs - (features() if found is None else found)))
            raise InputError(
                f"this processor lacks the instruction set {name!r} ({lacking})",
                where=VARIABLE,
                expected=f"one of {expected}",
            )
    raise InputError(f"no instruction set is named {name!r}", where=VARIABLE, expected=f"one of {expected}")
