"""Training and validation text with several targets for each source: each pair of a line is a row.

The pairs of a line are rows side by side, in the order of the target files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from seqkd.config.stages import BitextConfig
from seqkd.text.reading import BitextFacts, RawPair, check_bitext, read_bitext
from seqkd.text.screening import find_kept

TARGETS = "targets"  # in the manifest of training text: the number of targets of a source; absent for one


def count_targets(bitext: BitextConfig) -> int:
    """Count the targets of a source."""
    return max(len(bitext.references), 1)


def check_pairs(bitext: BitextConfig) -> BitextFacts:
    """Check a text, and return the number of pairs and the digests of its files.

    Raises:
        TextError: A file cannot be used, or the numbers of lines differ.
    """
    found = [check_bitext(bitext.source, target) for target in bitext.references or (None,)]
    digests = (*found[0].digests, *(facts.digests[1] for facts in found[1:]))
    return BitextFacts(rows=found[0].rows * len(found), digests=digests)


def read_pairs(bitext: BitextConfig) -> Iterator[RawPair]:
    """Read the pairs, numbered from 1 in the place of lines.

    Raises:
        TextError: A file cannot be read, or the numbers of lines differ.
    """
    streams = [read_bitext(bitext.source, target) for target in bitext.references or (None,)]
    number = 0
    for pairs in zip(*streams, strict=True):
        for pair in pairs:
            number += 1
            yield pair._replace(line=number)


def split_targets(texts: Iterable[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Yield a pair for each target of rows that hold a source and its targets."""
    for source, *targets in texts:
        yield from ((source, target) for target in targets)


def find_source_rows(verdicts: Path, targets: int) -> npt.NDArray[np.int64]:
    """Find the id of the first kept row of the same line, for each kept row.

    Args:
        verdicts: The verdicts on all pairs; see `seqkd.text.screening`.
        targets: The number of targets of a source.
    """
    _, firsts, owners = np.unique(find_kept(verdicts) // targets, return_index=True, return_inverse=True)
    found: npt.NDArray[np.int64] = firsts[owners].astype(np.int64)
    return found
