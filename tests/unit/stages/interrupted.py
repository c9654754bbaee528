"""Stop a training run the way a user does."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from seqkd.stages.train import train


def stop_at(patch: pytest.MonkeyPatch, update: int) -> None:
    """Make every run of the stage ask itself to stop after this update, which it must report."""
    trained = train._Observer.trained

    def stop(self: Any, at: int, values: dict[str, float]) -> None:
        trained(self, at, values)
        if at == update:
            os.kill(os.getpid(), signal.SIGTERM)

    patch.setattr(train._Observer, "trained", stop)
