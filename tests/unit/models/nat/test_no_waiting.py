"""The host reads from the device before the first pass or after the last one, however many passes there are."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from seqkd.models.nat.dag import Dag
from seqkd.models.protocol import ParallelSettings
from tests.device_stub import Device, values
from tests.unit.models.nat.ctc_dag import ctc_model, dag_model
from tests.unit.models.nat.support import cmlm, nat, padded, sentences

SOURCE_TOKENS, LENGTHS, OUTPUTS = "__int__", "cpu", "tolist"


@pytest.mark.parametrize(
    ("make", "settings", "waits"),
    [
        (nat, {"candidates": 3}, [LENGTHS, *3 * [OUTPUTS]]),
        (lambda: nat(copy_from="fertility"), {}, [LENGTHS, *3 * [OUTPUTS]]),
        (cmlm, {"iterations": 2, "candidates": 2, "nbest": 2}, [LENGTHS, *3 * [OUTPUTS]]),
        (cmlm, {"iterations": 6}, [LENGTHS, *3 * [OUTPUTS]]),
        (ctc_model, {}, [SOURCE_TOKENS, *3 * [OUTPUTS]]),
        (dag_model, {}, [SOURCE_TOKENS, *4 * [OUTPUTS]]),
    ],
    ids=["uniform", "fertility", "cmlm-2", "cmlm-6", "ctc", "dag"],
)
def test_no_pass_waits_for_the_device(make: Any, settings: dict[str, Any], waits: list[str]) -> None:
    source, chosen = padded(sentences(5, longest=6)).clamp(max=19), ParallelSettings(**settings)
    with torch.inference_mode():
        expected = make().translate(source, chosen)
        with Device() as device:
            model = device.move(make())
            if isinstance(model, Dag):
                # torch has no autocast for this device, which the transitions turn off.
                here, there = make().transitions, device.put
                model.transitions = lambda features, real: there(here(values(features), values(real)))  # type: ignore[method-assign]
            found = model.translate(device.put(source), chosen)
    assert device.waits == waits
    assert found == expected


def test_the_beam_of_ctc_waits_only_for_its_results() -> None:
    chosen = ParallelSettings(candidates=3)
    counts = []
    with torch.inference_mode():
        for longest in (3, 9):
            source = padded(sentences(4, longest=longest)).clamp(max=19)
            with Device() as device:
                found = device.move(ctc_model()).translate(device.put(source), chosen)
            assert found == ctc_model().translate(source, chosen)
            counts.append(len(device.waits))
    assert counts[0] == counts[1]
