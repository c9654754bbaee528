"""fairseq's limits of output length in the terms of seqkd's search."""

from __future__ import annotations

import math

# fairseq's own defaults.
MAX_LEN_A, MAX_LEN_B = 0.0, 200


def length_limits(max_len_a: float, max_len_b: int) -> tuple[float, int]:
    """`max_length_ratio` and `max_length_extra` for fairseq's `--max-len-a` and `--max-len-b`.

    fairseq allows `int(a * length + b)` tokens, and its length of a source counts the end of sentence and the padding
    of the batch; seqkd's counts neither. The limit that is returned is fairseq's for a source without padding. If `a`
    is not a whole number, it can be one token above that.
    """
    return max_len_a, max(1, max_len_b + math.ceil(max_len_a))


def limits_note(max_len_a: float, max_len_b: int) -> str:
    """The same as a line for a person to copy into a stage or pipeline file."""
    ratio, extra = length_limits(max_len_a, max_len_b)
    return (
        f"--max-len-a {max_len_a:g} --max-len-b {max_len_b} of fairseq is search = {{ max_length_ratio = {ratio!r}, "
        f"max_length_extra = {extra} }} here: fairseq counts the end of sentence in a source's length"
    )
