"""The character n-gram F-score of texts to several references at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from seqkd.selection.lists import Floats, Integers

ORDER = 6  # characters of the longest n-grams
_FACTOR = 4  # the square of beta, the weight of recall


def compute_chrf(texts: Sequence[str], references: Sequence[str]) -> Floats:
    """Compute chrF2 (Popović 2015) of each text to each reference, as `sacrebleu.sentence_chrf` does.

    The n-grams of a text are counted once, and a matrix product counts those that texts and references share. For lists
    of 32 hypotheses this takes about a sixtieth of the time of sacrebleu, which counts the n-grams of both texts for
    each pair.

    Args:
        texts: The texts.
        references: The references.

    Returns:
        `[references, texts]`, 0 to 100. Each number is equal to that of sacrebleu, bit for bit.
    """
    shape = (len(references), len(texts))
    precision, recall, orders = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for owners, items in _list_items([*texts, *references]):
        counts = np.bincount(owners, minlength=sum(shape))
        marks = np.zeros((sum(shape), int(items.max(initial=-1)) + 1), dtype=np.float32)
        marks[owners, items] = 1.0
        shared = (marks[len(texts) :] @ marks[: len(texts)].T).astype(np.float64)  # exact, being small integers
        ours, theirs = counts[None, : len(texts)], counts[len(texts) :, None]
        both = (ours > 0) & (theirs > 0)
        precision += np.divide(shared, ours, out=np.zeros(shape), where=both)
        recall += np.divide(shared, theirs, out=np.zeros(shape), where=both)
        orders += both
    used = np.maximum(orders, 1)
    precision, recall = precision / used, recall / used
    bottom = _FACTOR * precision + recall
    found: Floats = 100 * np.divide((1 + _FACTOR) * precision * recall, bottom, out=np.zeros(shape), where=bottom > 0)
    return found


def _list_items(texts: Sequence[str]) -> Iterator[tuple[Integers, Integers]]:
    """List the n-grams of texts without white space, for each order from 1.

    Yields:
        The text of each n-gram `[n-grams]` and its item `[n-grams]`. The items of two n-grams are equal if the n-grams
        are equal and as many equal n-grams stand before each of them in its text.
    """
    plain = ["".join(text.split()) for text in texts]
    characters = np.frombuffer("".join(plain).encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
    lengths = np.array([len(text) for text in plain], dtype=np.int64)
    left = np.arange(int(lengths.sum()))  # the places at which an n-gram begins
    owners = np.repeat(np.arange(len(plain)), lengths)
    ends = np.cumsum(lengths)
    grams = np.zeros(len(left), dtype=np.int64)
    for order in range(1, ORDER + 1):
        fits = left + order <= ends[owners]
        left, owners, grams = left[fits], owners[fits], grams[fits]
        grams = _number(grams * (0x110000) + characters[left + order - 1])
        alike = np.lexsort((grams, owners))
        keys = owners[alike] * (len(left) + 1) + grams[alike]
        firsts = np.searchsorted(keys, keys)
        before = np.empty(len(left), dtype=np.int64)
        before[alike] = np.arange(len(left)) - firsts
        yield owners, _number(grams * (len(left) + 1) + before)


def _number(keys: Integers) -> Integers:
    """Number keys from 0, equal keys alike."""
    return np.unique(keys, return_inverse=True)[1].reshape(-1)
