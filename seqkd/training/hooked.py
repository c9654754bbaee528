"""The runner of hooks: it passes them the next batches, and keeps their changes in the state."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from seqkd.objectives.base import Batch, Rivals, RowWeights, SoftTargets
from seqkd.training.hooks import Hook
from seqkd.training.state import Validation

_NAMES = ("origins", "groups")  # arrays of text in a batch


class Hooks:
    """The hooks of a run, each with the batches that it has changed and that are not used yet.

    Args:
        hooks: The hooks in the order of their calls. Each one sees the batches that the hooks before it have changed.
        fabric: The processes.
        seed: Returns the seed for a call of the hook of this number.
    """

    def __init__(self, hooks: Sequence[Hook], fabric: Fabric, seed: Callable[[int], int]) -> None:
        self._hooks = tuple(hooks)
        self._made: tuple[deque[list[Batch]], ...] = tuple(deque() for _ in self._hooks)
        self._fabric, self._seed = fabric, seed

    def __bool__(self) -> bool:
        return bool(self._hooks)

    @property
    def waiting(self) -> int:
        """The number of batches that have been read, but not used."""
        return sum(len(batches) for made in self._made for batches in made)

    def apply(self, updates: Iterable[list[Batch]]) -> Iterator[list[Batch]]:
        """Yield the batches of each update after all hooks. `updates` begins after the waiting batches."""
        stream = iter(updates)
        for number, hook in enumerate(self._hooks):
            if hook.updates:
                stream = self._through(number, stream)
        return stream

    def _through(self, number: int, updates: Iterator[list[Batch]]) -> Iterator[list[Batch]]:
        hook, made = self._hooks[number], self._made[number]
        while True:
            if not made:
                group = list(islice(updates, hook.updates))
                if not group:
                    return
                torch.manual_seed(self._seed(number))
                read = [batch for batches in group for batch in batches]
                given = iter(hook.before(read))
                made.extend([list(islice(given, len(batches))) for batches in group])
                if [len(batches) for batches in made] != [len(batches) for batches in group] or list(given):
                    raise ValueError(f"{type(hook).__name__} has changed the number of batches")
            yield made.popleft()

    def put_back(self, batches: list[Batch]) -> None:
        """Put the batches of the last update back, because they were not used."""
        for hook, made in reversed(tuple(zip(self._hooks, self._made, strict=True))):
            if hook.updates:
                made.appendleft(batches)
                return

    def stepped(self, update: int) -> None:
        """See `Hook.stepped`."""
        for hook in self._hooks:
            hook.stepped(update)

    def validated(self, line: Validation) -> dict[str, float]:
        """See `Hook.validated`; the numbers of all hooks together."""
        found: dict[str, float] = {}
        for hook in self._hooks:
            found |= hook.validated(line) or {}
        return found

    def state(self) -> list[dict[str, Any]]:
        """Return the states of the hooks and the waiting batches for each process. All processes must call it."""
        own = {
            "states": [hook.state_dict() for hook in self._hooks],
            "made": [[[_plain(batch) for batch in batches] for batches in made] for made in self._made],
        }
        if self._fabric.world_size == 1:
            return [own]
        found: list[Any] = [None] * self._fabric.world_size
        torch.distributed.all_gather_object(found, own)
        return found

    def load_state(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Continue from the result of `state`."""
        own = saved[self._fabric.global_rank]
        for hook, state in zip(self._hooks, own["states"], strict=True):
            hook.load_state_dict(state)
        for made, groups in zip(self._made, own["made"], strict=True):
            made.extend([[_batch(values) for values in batches] for batches in groups])


def _plain(batch: Batch) -> dict[str, Any]:
    """Convert a batch to containers of tensors and strings."""
    values = batch._asdict()
    values["ids"] = torch.tensor(batch.ids)
    values["soft"] = None if batch.soft is None else tuple(batch.soft)
    values["weights"] = None if batch.weights is None else tuple(batch.weights)
    values["rivals"] = None if batch.rivals is None else tuple(batch.rivals)
    values |= {name: None if values[name] is None else values[name].tolist() for name in _NAMES}
    return values


def _batch(values: Mapping[str, Any]) -> Batch:
    """Convert the result of `_plain` back to a batch."""
    names = {name: None if values.get(name) is None else np.array(values[name]) for name in _NAMES}
    batch = Batch(**{**values, **names, "ids": values["ids"].numpy()})
    return batch._replace(
        soft=None if batch.soft is None else SoftTargets(*batch.soft),
        weights=None if batch.weights is None else RowWeights(*batch.weights),
        rivals=None if batch.rivals is None else Rivals(*batch.rivals),
    )
