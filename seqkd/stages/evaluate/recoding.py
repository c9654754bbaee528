"""Decoding of a test corpus by a model with a vocabulary other than that of the corpus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from seqkd.metrics.speed import DecoderFactory
from seqkd.search import Hypothesis
from seqkd.search.parallel import Decoder

Recoded = Mapping[tuple[int, ...], list[int]]  # by the source's ids in the vocabulary of the corpus: those of a model


class RecodedDecoder:
    """Gives a decoder the sources in its own vocabulary. They are encoded before, so that they cost no time.

    Args:
        decoder: The decoder.
        recoded: The sources.
    """

    def __init__(self, decoder: Decoder, recoded: Recoded) -> None:
        self._decoder, self._recoded = decoder, recoded
        self.too_long = decoder.too_long
        self.unjudged = decoder.unjudged
        self.retried = decoder.retried

    def decode(
        self, sources: Iterable[tuple[int, list[int]]], *, batch_tokens: int
    ) -> Iterator[tuple[int, list[Hypothesis]]]:
        """See `Decoder.decode`."""
        rows = ((row, self._recoded[tuple(ids)]) for row, ids in sources)
        return self._decoder.decode(rows, batch_tokens=batch_tokens)


def recode_sources(
    sources: Sequence[list[int]], texts: Sequence[str], encode: Callable[[list[str]], list[list[int]]]
) -> Recoded:
    """Encode the sources of a test corpus for a model.

    Args:
        sources: The ids of the sources in the vocabulary of the corpus.
        texts: Their texts.
        encode: A function from texts to the ids of the model.
    """
    return dict(zip(map(tuple, sources), encode(list(texts)), strict=True))


def open_recoded(open_decoder: DecoderFactory, recoded: Recoded | None) -> DecoderFactory:
    """Return a function that opens a decoder for recoded sources; the same function if there are none."""
    if recoded is None:
        return open_decoder
    return lambda: RecodedDecoder(open_decoder(), recoded)
