"""The widths of models that the CPU kernels support."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

LANES = 16  # floats in the widest vectors; widths must be multiples of this number
HEAD_VECTORS = (1, 2, 3, 4, 5, 6, 8)  # vectors in an attention head for which the kernels are compiled
_LSTM = 2 * LANES  # each direction of an LSTM encoder has half of its width


def head_fits(width: int) -> bool:
    """Whether the kernels support attention heads of this width."""
    vectors, rest = divmod(width, LANES)
    return not rest and vectors in HEAD_VECTORS


def stack_misfit(settings: Mapping[str, Any]) -> str | None:
    """Explain why the kernels do not support the widths of a model whose encoder or decoder is a Transformer.

    Args:
        settings: The model's settings, with `dim`, `heads` and `ffn_dim`.

    Returns:
        One line that names the nearest supported widths, or None if the kernels support the model.
    """
    dim, heads, ffn_dim = (int(settings[name]) for name in ("dim", "heads", "ffn_dim"))
    wrong, nearest = [], []
    if dim % heads or not head_fits(dim // heads):
        wrong.append(f"dim {dim} with heads {heads} ({dim / heads:g} a head)")
        ways = [f"dim {_around(dim, (heads * LANES * vectors for vectors in HEAD_VECTORS))}"]
        counts = [dim // (LANES * vectors) for vectors in HEAD_VECTORS if not dim % (LANES * vectors)]
        if counts:
            ways.append(f"heads {_around(heads, counts)}")
        nearest.append(" or ".join(ways))
    if ffn_dim % LANES:
        wrong.append(f"ffn_dim {ffn_dim}")
        nearest.append(f"ffn_dim {_multiples(ffn_dim, LANES)}")
    if not wrong:
        return None
    return f"the CPU kernels do not support {' and '.join(wrong)}; nearest: {', '.join(nearest)}"


def lstm_misfit(settings: Mapping[str, Any]) -> str | None:
    """Explain why the kernels do not support the width of an LSTM; see `stack_misfit`.

    Args:
        settings: The model's settings, with `dim`.
    """
    dim = int(settings["dim"])
    if not dim % _LSTM:
        return None
    return f"the CPU kernels do not support dim {dim} of an LSTM; nearest: dim {_multiples(dim, _LSTM)}"


def _multiples(width: int, unit: int) -> str:
    return _around(width, (number for number in (width // unit * unit, width // unit * unit + unit) if number))


def _around(width: int, choices: Iterable[int]) -> str:
    """Name the nearest choice below and the nearest choice above, as in "64 or 128"."""
    found = list(choices)
    below, above = [number for number in found if number < width], [number for number in found if number > width]
    return " or ".join(str(number) for number in ([max(below)] if below else []) + ([min(above)] if above else []))
