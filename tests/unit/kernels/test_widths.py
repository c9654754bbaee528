"""Which widths the kernels fit, and the nearest ones."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.kernels.widths import HEAD_VECTORS, lstm_misfit, stack_misfit


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"dim": 96, "heads": 4, "ffn_dim": 192},
            "dim 96 with heads 4 (24 a head); nearest: dim 64 or 128 or heads 3 or 6",
        ),
        (
            {"dim": 112, "heads": 1, "ffn_dim": 16},
            "dim 112 with heads 1 (112 a head); nearest: dim 96 or 128 or heads 7",
        ),
        ({"dim": 64, "heads": 4, "ffn_dim": 100}, "ffn_dim 100; nearest: ffn_dim 96 or 112"),
        ({"dim": 64, "heads": 4, "ffn_dim": 8}, "ffn_dim 8; nearest: ffn_dim 16"),
        (
            {"dim": 40, "heads": 4, "ffn_dim": 40},
            "dim 40 with heads 4 (10 a head) and ffn_dim 40; nearest: dim 64, ffn_dim 32 or 48",
        ),
    ],
)
def test_the_nearest_widths_are_named(settings: dict[str, int], said: str) -> None:
    assert stack_misfit(settings) == f"the CPU kernels do not support {said}"


def fits(dim: int, heads: int, ffn_dim: int) -> bool:
    vectors = [dim == heads * 16 * count for count in HEAD_VECTORS]
    return any(vectors) and ffn_dim % 16 == 0


@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 300))
def test_every_width_that_is_named_fits(dim: int, heads: int, ffn_dim: int) -> None:
    dim *= heads  # as settings must be
    said = stack_misfit({"dim": dim, "heads": heads, "ffn_dim": ffn_dim})
    assert (said is None) == fits(dim, heads, ffn_dim)
    if said is None:
        return
    near = said.partition("nearest: ")[2]
    found = {name: re.search(rf"\b{name} (\d+)(?: or (\d+))?", near) for name in ("dim", "heads", "ffn_dim")}
    found["dim"] = re.search(r"(?<!ffn_)dim (\d+)(?: or (\d+))?", near)
    numbers = {name: [int(text) for text in match.groups() if text] for name, match in found.items() if match}
    for one in numbers.get("ffn_dim", [ffn_dim]):
        assert all(fits(other, heads, one) for other in numbers.get("dim", [dim]))
        assert all(fits(dim, other, one) for other in numbers.get("heads", []))


@given(st.integers(1, 2000))
def test_the_nearest_widths_of_an_lstm_fit(dim: int) -> None:
    said = lstm_misfit({"dim": dim})
    assert (said is None) == (dim % 32 == 0)
    if said is not None:
        assert said.startswith(f"the CPU kernels do not support dim {dim} of an LSTM; nearest: dim ")
        assert all(int(number) % 32 == 0 for number in re.findall(r"\d+", said.partition("nearest")[2]))
