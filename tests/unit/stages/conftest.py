from __future__ import annotations

import pytest

from seqkd.models import registry
from tests.unit.stages.support import Echo


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets model folders name the architecture `echo`."""
    monkeypatch.setitem(registry._ARCHITECTURES, "echo", Echo)
