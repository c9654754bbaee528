"""Being asked to stop."""

from __future__ import annotations

import os
import signal

import pytest

from seqkd.errors import WorkError
from seqkd.stopping import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_one_is_noted_and_the_second_is_not_held_back(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        stop.check("nowhere")
        assert not stop.made
        os.kill(os.getpid(), number)
        assert stop.made
        assert signal.getsignal(number) == before
        with pytest.raises(WorkError, match="stopped after 3 of 7 shards") as raised:
            stop.check("after 3 of 7 shards")
    assert "same command" in raised.value.hint
    assert "press Ctrl-C again to end at once" in capfd.readouterr().err


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
