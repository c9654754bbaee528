"""`seqkd translate`: the translation of lines of text."""

from __future__ import annotations

import codecs
import json
import os
import select
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO

from seqkd.errors import InputError, TextError
from seqkd.models.protocol import ParallelSettings
from seqkd.progress import say
from seqkd.search import BeamSearch, BeamSettings, Hypothesis
from seqkd.search.loading import SearchTeam, parallel_search
from seqkd.search.parallel import ParallelSearch
from seqkd.text.opening import detect_compression

CHUNK_LINES = 2048  # lines translated together: enough to sort by length, few enough for early output
PAUSE = 0.05  # seconds without input after which the lines read so far are translated
LONGEST_WAIT = 1.0  # the longest time in seconds that a line waits for further lines
BLOCK = 1 << 16  # bytes read at a time, the capacity of a pipe

SEPARATOR = "|||"  # between the fields of a line of a k-best list
ESCAPED = SEPARATOR.replace("|", "&#124;")


@dataclass(frozen=True, slots=True)
class Translation:
    """One translation of a line: text, final score, log-probability, and the reason why it ended (eos, max_length)."""

    text: str
    score: float
    logprob: float
    ended: str


class Translator:
    """Models and settings, ready to translate.

    Args:
        team: One model, or several as an ensemble.
        settings: The settings of beam search or, for a model that writes all positions at once, `ParallelSettings`.
        batch_tokens: Source tokens that are decoded together.
        prefix: Pieces of the vocabulary that every translation starts with, such as a language tag; for beam search.
            Without any, that of the model.

    Attributes:
        too_long: Indices, in the last call, of texts without a translation: they exceed the model's positions.
        retried: Indices, in the last call, of texts that were decoded again in float32.

    Raises:
        InputError: The prefix contains a text that is not a piece.
    """

    def __init__(
        self,
        team: SearchTeam,
        settings: BeamSettings | ParallelSettings,
        *,
        batch_tokens: int,
        prefix: Sequence[str] = (),
    ) -> None:
        pieces = team.loaded[0].vocabularies.target.pieces() if prefix else []
        ids = {piece: index for index, piece in enumerate(pieces)}
        strange = [piece for piece in prefix if piece not in ids]
        if strange:
            raise InputError(
                f"the prefix contains {strange[0]!r}, which is not a piece of the vocabulary",
                where="--prefix",
                expected="pieces separated by spaces; a piece at the start of a word starts with '\u2581'",
            )
        self.team, self.settings, self.batch_tokens = team, settings, batch_tokens
        self.prefix = [ids[piece] for piece in prefix] or team.prefix
        self.too_long: list[int] = []
        self.retried: list[int] = []

    def __call__(self, texts: Sequence[str], *, first_row: int = 0) -> list[list[Translation]]:
        """Translate texts into k-best lists, best first. A text without words gets k empty translations.

        The list of a text in `too_long` is empty.

        The first text is row `first_row`. Together with the seed, the row determines the samples of a text.
        """
        vocabularies = self.team.loaded[0].vocabularies
        opening = len(vocabularies.source.prefix)
        encoded = vocabularies.source.encode(vocabularies.source.normalize(list(texts)))
        sources = [source if len(source) > opening else [] for source in encoded]
        rows = range(first_row, first_row + len(sources))
        found = self._decode(list(zip(rows, sources, strict=True)))
        self.too_long, self.retried = ([row - first_row for row in part] for part in (self.too_long, self.retried))
        results = []
        for index, source in zip(rows, sources, strict=True):
            hypotheses = found[index] if source else found[index] * self.settings.nbest
            decoded = vocabularies.target.decode([hypothesis.ids for hypothesis in hypotheses])
            results.append(
                [
                    Translation(text, hypothesis.score, hypothesis.logprob, hypothesis.ended)
                    for text, hypothesis in zip(decoded, hypotheses, strict=True)
                ]
            )
        return results

    def _decode(self, sources: list[tuple[int, list[int]]]) -> dict[int, list[Hypothesis]]:
        decoder: ParallelSearch | BeamSearch
        if isinstance(self.settings, ParallelSettings):
            decoder = parallel_search(self.team, self.settings)
            found = dict(decoder.decode(sources, batch_tokens=self.batch_tokens))
        else:
            decoder = BeamSearch(self.team.engines, self.settings, fallback=self.team.fallback)
            found = dict(decoder.decode(sources, batch_tokens=self.batch_tokens, prefix=self.prefix))
        self.too_long, self.retried = sorted(decoder.too_long), sorted(decoder.retried)
        return found


def read_chunks(
    descriptor: int,
    *,
    lines_at_most: int = CHUNK_LINES,
    pause: float = PAUSE,
    longest_wait: float = LONGEST_WAIT,
    block_bytes: int = BLOCK,
) -> Iterator[list[bytes]]:
    """Read the lines of a stream in chunks: full chunks while lines arrive, and smaller ones when the stream pauses.

    A program that writes a line and waits for its translation therefore gets it, and a stream without pauses is read
    in chunks of `lines_at_most`. A slower stream that never pauses for `pause` seconds is read in chunks of
    `longest_wait` seconds.

    Args:
        descriptor: The file descriptor to read from. Nothing else may read from it.
        lines_at_most: The size of a full chunk.
        pause: Seconds without input after which the lines read so far are yielded.
        longest_wait: The longest time in seconds that a line waits for further lines.
        block_bytes: Bytes that are read at a time.

    Yields:
        One to `lines_at_most` lines without their line feeds.
    """
    lines: list[bytes] = []
    start: list[bytes] = []  # parts of a line whose end has not arrived yet
    due = 0.0  # the time at which waiting lines must be yielded
    while True:
        patience = max(0.0, min(pause, due - time.monotonic())) if lines else None
        if select.select([descriptor], [], [], patience)[0]:
            block = os.read(descriptor, block_bytes)
            if not block:
                break
            if b"\n" not in block:
                start.append(block)
                continue
            *whole, rest = b"".join([*start, block]).split(b"\n")
            if not lines:
                due = time.monotonic() + longest_wait
            lines += whole
            start = [rest]
            while len(lines) >= lines_at_most:
                yield lines[:lines_at_most]
                del lines[:lines_at_most]
                due = time.monotonic() + longest_wait
        else:
            yield lines
            lines = []
    if any(start):
        lines.append(b"".join(start))
    if lines:
        yield lines


def translate_lines(translator: Translator, chunks: Iterable[list[bytes]], out: BinaryIO, *, as_json: bool) -> None:
    """Translate lines in their order.

    With one translation per line, each output line is a translation. With more, it is `LINE ||| TEXT ||| SCORE` with
    the number of the line from 0, as Moses and Marian write k-best lists; `|||` within a text is escaped as by Moses.
    With `as_json`, each output line is an object. A line that is longer than the model's positions is reported on
    stderr. Its output is an empty line, no line of a k-best list, or an object without translations.

    Args:
        translator: The models and their settings.
        chunks: Lines that are translated together: UTF-8 without line feeds.
        out: The output stream, which is flushed after each chunk.
        as_json: Whether to write objects.

    Raises:
        TextError: A line is not UTF-8, or the input is compressed.
    """
    number, escaped = 0, 0
    for chunk in chunks:
        if number == 0:
            _check_plain(chunk[0])
        texts = [_decode_line(line, number + index) for index, line in enumerate(chunk, 1)]
        for index, found in enumerate(translator(texts, first_row=number)):
            if as_json:
                written = _write_object(number + index, texts[index], found)
            elif translator.settings.nbest == 1:
                written = _replace_line_ends(found[0].text if found else "") + "\n"
            else:
                written = _write_entries(number + index, found)
                escaped += sum(SEPARATOR in translation.text for translation in found)
            out.write(written.encode())
        out.flush()
        for index in translator.too_long:
            say(f"translate: line {number + index + 1} is longer than the model's positions and was not translated")
        for index in translator.retried:
            say(f"translate: line {number + index + 1} overflowed in {translator.team.precision}: decoded in float32")
        number += len(chunk)
    if escaped:
        say(f"translate: {SEPARATOR} within {escaped:,} translations is written {ESCAPED}; --json leaves it as it is")


def _check_plain(line: bytes) -> None:
    """Refuse compressed input by its first line, with the format's name."""
    name = detect_compression(line)
    if name is not None:
        what, hint = f"holds {name} data", "decompress it first, for example with `zcat` or `zstdcat`"
        raise TextError(what, where="stdin", expected="text in UTF-8", hint=hint)


def _decode_line(line: bytes, number: int) -> str:
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise TextError(f"not UTF-8: {error.reason}", where=f"stdin, line {number}") from None


def _write_object(number: int, source: str, found: Sequence[Translation]) -> str:
    values = {"line": number, "source": source, "translations": [asdict(translation) for translation in found]}
    return json.dumps(values, ensure_ascii=False) + "\n"


def _write_entries(number: int, found: Sequence[Translation]) -> str:
    texts = [_replace_line_ends(translation.text).replace(SEPARATOR, ESCAPED) for translation in found]
    return "".join(
        f"{number} {SEPARATOR} {text} {SEPARATOR} {translation.score:.6f}\n"
        for text, translation in zip(texts, found, strict=True)
    )


def _replace_line_ends(text: str) -> str:
    """Replace line ends, which byte pieces can spell, so that the lines after them are not shifted."""
    return text.replace("\r", " ").replace("\n", " ")
