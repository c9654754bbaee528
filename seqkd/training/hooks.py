"""Hooks of the training loop: code that changes batches, weights or the objective while a model is trained.

A run that is killed and resumed ends with the same weights, bit for bit, as one that never stopped. The saved state
therefore holds what each hook has decided (its `state_dict`) and the batches that it has changed and the loop has not
used yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from seqkd.extensions import Registry, resolve

if TYPE_CHECKING:  # pipeline files are planned, and registries listed, without torch where they can be
    from torch import nn

    from seqkd.objectives.base import Batch
    from seqkd.objectives.loss import Loss
    from seqkd.training.state import Validation


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The part of a run that hooks may look at and change.

    Attributes:
        model: The student; on the run's device once training begins.
        loss: Its objective.
    """

    model: nn.Module
    loss: Loss


class Hook(Protocol):
    """Called by the loop on every process; no call may change how many batches there are.

    Before `before` is called, torch's seed is set from the run's seed and the update, so that a hook which draws from
    torch's generator draws the same numbers in a resumed run. Weights, the objective and anything else that all
    processes share must be changed in the same way on each.

    Attributes:
        updates: The number of updates whose batches `before` sees together, at most: an epoch's last group may be
            smaller. 0 if the hook does not look at batches.
    """

    updates: int

    def before(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Take this process' next batches, on the CPU, and give as many in their place."""
        ...

    def stepped(self, update: int) -> None:
        """An update of the weights is done; the first is 1."""
        ...

    def validated(self, line: Validation) -> None:
        """A validation is done, and its checkpoint is written."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that later calls depend on: tensors, numbers, strings, and lists or dicts of these."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state, also with the changes that it has made to weights' masks or to the objective."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HookKind:
    """A hook that stage and pipeline files can name.

    Attributes:
        name: Its `type`.
        help: One line about it.
        settings: `module:attribute` of its settings, a frozen dataclass; its fields are the keys of the table.
        build: `module:attribute` of a callable that takes the settings and the `Training`, and gives the `Hook`.
        changes: The parts of a run that it changes.
    """

    name: str
    help: str
    settings: str
    build: str
    changes: tuple[Literal["batches", "weights", "objective"], ...]


HOOKS = Registry("hook", HookKind, group="seqkd.hooks", own={})


def build_hook(record: HookKind, settings: Any, training: Training) -> Hook:
    """The hook of these settings, for one run.

    Raises:
        ExtensionError: The module behind the record cannot be imported.
    """
    hook: Hook = resolve(record.build)(settings, training)
    return hook
