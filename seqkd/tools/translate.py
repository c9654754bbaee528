"""Text lines to translations: what `seqkd translate` does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import BinaryIO

from seqkd.errors import InputError, TextError
from seqkd.models.protocol import ParallelSettings
from seqkd.progress import say
from seqkd.search import BeamSearch, BeamSettings, Hypothesis
from seqkd.search.loading import SearchTeam, parallel_search
from seqkd.search.parallel import ParallelSearch
from seqkd.text.normalize import Normalizer

CHUNK_LINES = 2048  # held and searched together: enough to sort by length, little enough to see output soon


@dataclass(frozen=True, slots=True)
class Translation:
    """One translation of a line: its text, final score, log-probability, and why it ended (eos, max_length)."""

    text: str
    score: float
    logprob: float
    ended: str


class Translator:
    """Models and settings, ready to translate.

    Args:
        team: One model, or several as an ensemble.
        settings: Of beam search; for a model that writes all positions at once `ParallelSettings`.
        batch_tokens: Source tokens that are decoded together.
        prefix: Pieces of the vocabulary that every translation opens with, such as a language tag; for beam search.

    Attributes:
        too_long: Positions, in the last call's texts, of those that are longer than the model's positions: they have no
            translation.
        retried: Likewise of those that were decoded again in float32.

    Raises:
        InputError: The prefix holds what is no piece.
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
                f"the prefix holds {strange[0]!r}, which is no piece of the vocabulary",
                where="--prefix",
                expected="pieces separated by spaces; a piece at the start of a word opens with '\u2581'",
            )
        self.team, self.settings, self.batch_tokens = team, settings, batch_tokens
        self.prefix = [ids[piece] for piece in prefix]
        self.too_long: list[int] = []
        self.retried: list[int] = []
        self._normalizer = Normalizer()

    def __call__(self, texts: Sequence[str], *, first_row: int = 0) -> list[list[Translation]]:
        """Translate texts; each gets its k-best list, best first. A text without words has one empty translation.

        The list of a text in `too_long` is empty.

        Texts are rows `first_row` and on: with the seed, that decides their samples.
        """
        vocabularies = self.team.loaded[0].vocabularies
        sources = vocabularies.source.encode(self._normalizer.many(list(texts)))
        rows = range(first_row, first_row + len(sources))
        found = self._decode(list(zip(rows, sources, strict=True)))
        self.too_long, self.retried = ([row - first_row for row in part] for part in (self.too_long, self.retried))
        results = []
        for index in rows:
            decoded = vocabularies.target.decode([hypothesis.ids for hypothesis in found[index]])
            results.append(
                [
                    Translation(text, hypothesis.score, hypothesis.logprob, hypothesis.ended)
                    for text, hypothesis in zip(decoded, found[index], strict=True)
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


def translate_lines(
    translator: Translator, lines: Iterable[bytes], out: BinaryIO, *, as_json: bool, one_by_one: bool
) -> None:
    """Translate lines in their order.

    With one translation a line, that is what each output line is; with more, `LINE ||| TEXT ||| SCORE` with the line's
    number from 0, as Moses and Marian write k-best lists; with `as_json`, an object for each line. A line that is
    longer than the model's positions is named on stderr. It is answered by an empty line, by no line of a k-best list,
    or by an object without translations.

    Args:
        translator: Does the work.
        lines: UTF-8 with line ends.
        out: Flushed after each chunk of lines.
        as_json: See above.
        one_by_one: Answer each line before the next is read: somebody is typing.

    Raises:
        TextError: A line is not UTF-8.
    """
    number = 0
    for chunk in _chunks(lines, 1 if one_by_one else CHUNK_LINES):
        texts = [_text(line, number + index) for index, line in enumerate(chunk, 1)]
        for index, found in enumerate(translator(texts, first_row=number)):
            out.write(_written(number + index, texts[index], found, translator.settings.nbest, as_json).encode())
        out.flush()
        for index in translator.too_long:
            say(f"translate: line {number + index + 1} is longer than the model's positions and was not translated")
        for index in translator.retried:
            say(f"translate: line {number + index + 1} overflowed in {translator.team.precision}: decoded in float32")
        number += len(chunk)


def _chunks(lines: Iterable[bytes], size: int) -> Iterator[list[bytes]]:
    waiting = iter(lines)
    while chunk := list(islice(waiting, size)):
        yield chunk


def _text(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise TextError(f"not UTF-8: {error.reason}", where=f"stdin, line {number}") from None


def _written(number: int, source: str, found: Sequence[Translation], nbest: int, as_json: bool) -> str:
    if as_json:
        values = {"line": number, "source": source, "translations": [asdict(translation) for translation in found]}
        return json.dumps(values, ensure_ascii=False) + "\n"
    if nbest == 1:
        return _one_line(found[0].text if found else "") + "\n"
    return "".join(f"{number} ||| {_one_line(best.text)} ||| {best.score:.6f}\n" for best in found)


def _one_line(text: str) -> str:
    """Byte pieces can spell a line end; it must not shift the lines after it."""
    return text.replace("\r", " ").replace("\n", " ")
