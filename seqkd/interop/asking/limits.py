"""The budget and the rate of requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from seqkd.errors import WorkError
from seqkd.interop.asking.cache import Spent
from seqkd.interop.workers import WorkerSettings


def compute_cost(settings: WorkerSettings, spent: Spent) -> float:
    """Compute the cost of requests, in the currency of the prices."""
    return settings.price_per_request * spent.requests + settings.price_per_million * spent.characters / 1e6


class Limits:
    """Admits requests one by one. The limits hold for all machines together; each one gets an equal share.

    Args:
        settings: The limits.
        share: The number of machines.
        own: The spending of earlier runs of this machine's part.
        others: The spending of earlier runs that divided the work otherwise. It is subtracted before the division.
        now: A clock in seconds.
        sleep: Waits for so many seconds.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        share: int,
        *,
        own: Spent,
        others: Spent,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings, self._share, self._own, self._others = settings, share, own, others
        self._now, self._sleep = now, sleep
        self._lock = threading.Lock()
        self._unnoted = Spent()
        self._next = now()
        self._rate = None if settings.rate is None else settings.rate / share

    def admit(self, characters: int) -> None:
        """Count a request, and wait until the rate allows it.

        Raises:
            WorkError: The request would exceed the budget.
        """
        with self._lock:
            wanted = self._own + Spent(1, characters)
            self._check("max_requests", self._settings.max_requests, lambda spent: spent.requests, wanted)
            self._check("max_characters", self._settings.max_characters, lambda spent: spent.characters, wanted)
            self._check("max_cost", self._settings.max_cost, lambda spent: compute_cost(self._settings, spent), wanted)
            self._own, self._unnoted = wanted, self._unnoted + Spent(1, characters)
            pause = 0.0
            if self._rate is not None:
                at = max(self._next, self._now())
                self._next, pause = at + 1 / self._rate, at - self._now()
        if pause > 0:
            self._sleep(pause)

    def take_unnoted(self) -> Spent:
        """Return the spending since the last call, which the caller writes down."""
        with self._lock:
            spent, self._unnoted = self._unnoted, Spent()
            return spent

    def _check(self, name: str, limit: float | None, measure: Callable[[Spent], float], wanted: Spent) -> None:
        if limit is None:
            return
        allowed = (limit - measure(self._others)) / self._share
        if measure(wanted) > allowed * (1 + 1e-9):
            mine = "" if self._share == 1 else f", of which this machine may use {max(allowed, 0.0):,.6g}"
            raise WorkError(
                f"the budget is used up: {name} is {limit:,.6g}{mine}, and the next request would make it "
                f"{measure(wanted):,.6g}",
                where=f"worker {self._settings.label}",
                hint=f"raise {name} and run the same command again, which does not ask answered rows again",
            )
