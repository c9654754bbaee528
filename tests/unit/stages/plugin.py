"""A package outside seqkd with a hook and a term, which the tests of the stages install by entry points alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqkd.objectives.registry import Needs, Objective, TeacherPrecision
from seqkd.training.hooks import HookKind

HERE = "tests.unit.stages.plugin"
POINTS = {"seqkd.hooks": f"swaps = {HERE}:HOOK", "seqkd.objectives": f"states = {HERE}:TERM"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapsSettings:
    """How many updates the hook sees at a time."""

    updates: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StatesSettings:
    """The teachers whose states are compared."""

    teachers: tuple[Path, ...] = ()
    precision: TeacherPrecision = "auto"


HOOK = HookKind(
    name="swaps",
    help="Puts the model's own guesses among the decoder's inputs, and changes weights",
    settings="tests.unit.stages.plugin:SwapsSettings",
    build="tests.unit.stages.plugin:build_swaps",
    changes=("batches", "weights"),
)
TERM = Objective(
    name="states",
    help="Squared distance of the teacher's encoder states from a learned projection of the student's",
    settings="tests.unit.stages.plugin:StatesSettings",
    build="tests.unit.stages.plugin:build_states",
    needs=Needs(teacher_states=True),
    suits=frozenset({"left to right"}),
)


def build_swaps(settings: SwapsSettings, training: Any) -> Any:
    from tests.unit.training.terms import Swaps

    return Swaps(training.model, settings.updates)


def build_states(_: StatesSettings, models: Any) -> Any:
    from tests.unit.training.terms import Projected

    return Projected(models.student.dim, models.teachers[0].dim)


def installed(folder: Path) -> Path:
    """A folder that, on PYTHONPATH, holds what pip would leave of the package."""
    there = folder / "plugin-1.0.dist-info"
    there.mkdir(parents=True)
    (there / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (there / "entry_points.txt").write_text("".join(f"[{group}]\n{point}\n" for group, point in POINTS.items()))
    return folder
