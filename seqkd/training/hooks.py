"""Hooks of the training loop: code that changes batches, weights or the objective while a model is trained.

A run that is killed and resumed ends with the same weights, bit for bit, as one that never stopped. The saved state
therefore contains the decisions of each hook (its `state_dict`) and the batches that hooks have changed, but that the
loop has not used yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from seqkd.extensions import Registry, resolve

if TYPE_CHECKING:  # planning a pipeline and listing registries should not import torch
    from torch import nn

    from seqkd.objectives.base import Batch
    from seqkd.objectives.loss import Loss
    from seqkd.training.state import Validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The part of a run that hooks may read and change.

    Attributes:
        model: The student, on the device of the run once training begins.
        loss: The objective of the student.
        groups: The groups of rows that validations measure; empty if there is only one.
        measured: The metrics that validations measure.
        score_teachers: Measures the teacher of each group on its validation text, given the name of such a metric. It
            may only be called between updates, on every process. The group is "" if there is only one.
    """

    model: nn.Module
    loss: Loss
    groups: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    score_teachers: Callable[[str], Mapping[str, float]] = lambda _: {}


class Hook(Protocol):
    """A hook, which the loop calls on every process. No call may change the number of batches.

    Before `before` is called, torch's seed is set from the run's seed and the update, so that a hook that draws from
    torch's generator draws the same numbers in a resumed run. Weights, the objective and anything else that all
    processes share must be changed in the same way on every process.

    Attributes:
        updates: The largest number of updates whose batches `before` sees together; the last group of an epoch may be
            smaller. 0 if the hook does not use batches.
    """

    updates: int

    def before(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Return batches in place of this process' next batches, in equal number and on the CPU."""
        ...

    def stepped(self, update: int) -> None:
        """Called after an update of the weights. The first update has number 1."""
        ...

    def validated(self, line: Validation) -> Mapping[str, float] | None:
        """Called after a validation, when its checkpoint has been written.

        Returns:
            Numbers by name that are recorded in the `metrics` of the validation, or None.
        """
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the state on which later calls depend: tensors, numbers, strings, and lists or dicts of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state, including the changes that the hook has made to weights or the objective."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HookKind:
    """A hook that stage and pipeline files can name.

    Attributes:
        name: The `type` in files.
        help: A description in one line.
        settings: `module:attribute` of its settings, a frozen dataclass whose fields are the keys of the table.
        build: `module:attribute` of a callable that takes the settings and the `Training`, and returns the `Hook`.
        changes: The parts of a run that the hook changes.
    """

    name: str
    help: str
    settings: str
    build: str
    changes: tuple[Literal["batches", "weights", "objective"], ...]


HOOKS = Registry(
    "hook",
    HookKind,
    group="seqkd.hooks",
    own={
        "selective": HookKind(
            name="selective",
            help="A group is distilled only while the student is not ahead of its teacher (Tan et al. 2019)",
            settings="seqkd.training.selective:SelectiveSettings",
            build="seqkd.training.selective:build",
            changes=("objective",),
        ),
    },
)


def build_hook(record: HookKind, settings: Any, training: Training) -> Hook:
    """Build a hook for one run.

    Raises:
        ExtensionError: The module behind the record cannot be imported.
    """
    hook: Hook = resolve(record.build)(settings, training)
    return hook
