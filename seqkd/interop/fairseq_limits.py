"""Conversion of fairseq's limits of output length to settings of seqkd's search."""

from __future__ import annotations

import math

# fairseq's own defaults.
MAX_LEN_A, MAX_LEN_B = 0.0, 200


def length_limits(max_len_a: float, max_len_b: int) -> tuple[float, int]:
    """Return `max_length_ratio` and `max_length_extra` for fairseq's `--max-len-a` and `--max-len-b`.

    fairseq allows `int(a * length + b)` tokens. Its source length includes the end of sentence and the padding of the
    batch; seqkd's includes neither. The returned limit is that of fairseq for a source without padding. If `a` is not a
    whole number, it can be one token higher.
    """
    return max_len_a, max(1, max_len_b + math.ceil(max_len_a))


def limits_note(max_len_a: float, max_len_b: int) -> str:
    """Return the same limits as a line that the user can copy into a stage or pipeline file."""
    ratio, extra = length_limits(max_len_a, max_len_b)
    return (
        f"--max-len-a {max_len_a:g} --max-len-b {max_len_b} of fairseq is search = {{ max_length_ratio = {ratio!r}, "
        f"max_length_extra = {extra} }} in seqkd: fairseq's source length includes the end of sentence"
    )
