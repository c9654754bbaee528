from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from seqkd.errors import ModelError, WorkError
from seqkd.training.state import (
    TrainState,
    Validation,
    average_checkpoints,
    averaged_updates,
    checkpoint_path,
    load_state,
    needed_updates,
    save_checkpoint,
    save_state,
)


def history(losses: list[float]) -> list[Validation]:
    return [
        Validation(
            update=10 * (index + 1),
            epoch=0,
            train_loss=1.0,
            valid_nll=loss,
            valid_bleu=None,
            tokens_per_second=1.0,
            learning_rate=1.0,
        )
        for index, loss in enumerate(losses)
    ]


def test_state_round_trip(tmp_path: Path) -> None:
    state = TrainState(world=2, precision="bf16", update=7, epoch=1, step=3, loss=1.5, history=history([2.0]))
    save_state(tmp_path, state, {"model": {"a": torch.arange(3.0)}, "optimizer": {}, "scaler": {}})
    found = load_state(tmp_path, world=2, precision="bf16")
    assert found is not None
    assert found[0] == state
    assert found[1]["model"]["a"].tolist() == [0.0, 1.0, 2.0]


def test_no_state(tmp_path: Path) -> None:
    assert load_state(tmp_path, world=1, precision="float32") is None


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    save_state(tmp_path, TrainState(world=1, precision="float32"), {"model": {"a": torch.zeros(100)}})
    path = tmp_path / "last.pt"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(WorkError, match=r"last\.pt: is not a usable training state"):
        load_state(tmp_path, world=1, precision="float32")


def test_a_pickle_in_the_state_is_not_run(tmp_path: Path) -> None:
    torch.save({"format": 1, "state": Path("x")}, tmp_path / "last.pt")
    with pytest.raises(WorkError, match="is not a usable training state"):
        load_state(tmp_path, world=1, precision="float32")


def test_average(tmp_path: Path) -> None:
    for update, value in ((1, 1.0), (2, 2.0), (3, 6.0)):
        save_checkpoint(tmp_path, update, {"a": torch.full((2,), value), "b": torch.tensor([1.0])})
    mean = average_checkpoints(checkpoint_path(tmp_path, update) for update in (1, 2, 3))
    assert mean["a"].tolist() == [3.0, 3.0]
    assert mean["a"].dtype == torch.float32
    with pytest.raises(ModelError, match="no such file"):
        average_checkpoints([checkpoint_path(tmp_path, 9)])


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12), st.integers(1, 5))
def test_checkpoints_are_kept_as_long_as_they_may_be_needed(losses: list[float], average: int) -> None:
    """Whatever the losses turn out to be, those of the final average have never been pruned on the way."""
    lines = history(losses)
    kept: set[int] = set()
    for count in range(1, len(lines) + 1):
        needed = needed_updates(lines[:count], "nll", average)
        kept = (kept | {lines[count - 1].update}) & needed
        assert kept == needed
    assert set(averaged_updates(lines, "nll", average)) <= kept
    assert len(kept) <= 2 * average
