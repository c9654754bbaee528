"""The kernels for each instruction set: it decides how wide vectors are, and more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqkd.errors import InputError
from seqkd.kernels import decoding as build
from seqkd.kernels.processors import NATIVE, InstructionSet, available_sets, features, known_sets, requested_set
from tests.unit.kernels.support import OTHERS, Target

HERE = Path(__file__).parent
UNIT = HERE.parent
SUITES = (
    *(UNIT / "search" / "cpu" / name for name in ("test_engine.py", "test_rounded.py", "test_scoring.py")),
    *(HERE / name for name in ("test_attention.py", "test_training.py")),
    UNIT / "objectives" / "test_native_kd.py",
)
# What the left-out cases would add does not depend on the instruction set; emulated ones are slow.
QUICK = "not wide and not large_beams and not sru"
# These two differ from others in their products of bytes alone.
BYTES = ("avx-vnni", "vnni")
WIDEST = available_sets()[
    -1
]  # compiled for this processor the kernels are those of the widest one, which all other tests run


@pytest.mark.slow
@pytest.mark.skipif(build.kernels() is None, reason="no C++ compiler here")
@pytest.mark.parametrize(
    "target", [target for target in OTHERS if target.isa != WIDEST], ids=lambda target: target.name
)
def test_the_kernels_are_the_same_for_every_instruction_set(target: Target, tmp_path: Path) -> None:
    name = target.name.split()[0]
    if target.options and name not in ("bf16", "amx"):
        pytest.skip("emulated in the tests of products alone")
    chosen = f"{QUICK} and int8" if name in BYTES else QUICK
    suites = SUITES[:2] if name in BYTES else SUITES
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-rs", "-p", "no:cacheprovider", "-k", chosen, *map(str, suites)],
        cwd=HERE.parents[3],
        # pytest's own workers are none of its business.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        | target.environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[100%]" in done.stdout
    assert name in BYTES or (name in ("bf16", "amx")) != ("needs a CPU with" in done.stdout)
    assert list(tmp_path.glob("cache/decoding-*.so"))


def test_without_a_request_the_kernels_are_compiled_for_this_processor() -> None:
    assert requested_set({}) == requested_set({"SEQKD_ISA": ""}) == requested_set({"SEQKD_ISA": "Native"}) == NATIVE


@pytest.mark.parametrize("one", available_sets(), ids=lambda one: one.name)
def test_every_instruction_set_of_this_processor_can_be_asked_for(one: InstructionSet) -> None:
    assert requested_set({"SEQKD_ISA": one.name.upper()}) == one


def test_an_instruction_set_that_is_unknown_or_lacking_is_refused() -> None:
    with pytest.raises(InputError, match="no instruction set is named 'sse9'") as caught:
        requested_set({"SEQKD_ISA": "sse9"})
    assert caught.value.where == "SEQKD_ISA"
    assert caught.value.expected == f"one of native, {', '.join(one.name for one in available_sets())}"
    for one in known_sets()[1:]:
        least = sorted(one.needs)[0]
        with pytest.raises(InputError, match=f"lacks the instruction set '{one.name}'.*{least}") as caught:
            requested_set({"SEQKD_ISA": one.name}, one.needs - {least})
        assert "native, any" in caught.value.expected


def test_instruction_sets_are_those_whose_features_are_all_there() -> None:
    assert [one.name for one in available_sets(frozenset())] == ["any"]
    for one in known_sets():
        assert one in available_sets(one.needs)
    assert all(one.needs <= features() for one in available_sets())
