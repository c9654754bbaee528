"""Text lines to translations: what `seqkd translate` does."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

from seqkd.errors import InputError, TextError
from seqkd.progress import say
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.loading import Precision, SearchTeam, load_team
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
    """Models and settings, ready to translate. Open with `Translator.load`.

    Attributes:
        truncated: Positions, in the last call's texts, of those that were longer than the model takes and were cut.
    """

    def __init__(self, team: SearchTeam, settings: BeamSettings, batch_tokens: int, prefix: Sequence[int]) -> None:
        self.team, self.settings, self.batch_tokens, self.prefix = team, settings, batch_tokens, prefix
        self.truncated: list[int] = []
        self._normalizer = Normalizer()

    @classmethod
    def load(
        cls,
        models: Sequence[Path],
        settings: BeamSettings,
        *,
        prefix: Sequence[str] = (),
        device: str,
        precision: Literal["auto"] | Precision,
        batch_tokens: int,
    ) -> Translator:
        """Load one model, or several as an ensemble.

        Args:
            models: Model folders.
            settings: Of the search.
            prefix: Pieces of the vocabulary that every translation opens with, such as a language tag.
            device: auto, cpu, cuda or cuda:N.
            precision: Of the weights.
            batch_tokens: Source tokens that are decoded together.

        Raises:
            InputError: The prefix holds what is no piece, or there is no such device.
            ModelError: A folder is no model, or the models' vocabularies differ.
        """
        team = load_team(models, device=device, precision=precision)
        ids = {piece: index for index, piece in enumerate(team.loaded[0].vocabulary.pieces())} if prefix else {}
        strange = [piece for piece in prefix if piece not in ids]
        if strange:
            raise InputError(
                f"the prefix holds {strange[0]!r}, which is no piece of the vocabulary",
                where=str(models[0]),
                expected="pieces separated by spaces; a piece at the start of a word opens with '\u2581'",
            )
        return cls(team, settings, batch_tokens, [ids[piece] for piece in prefix])

    def __call__(self, texts: Sequence[str], *, first_row: int = 0) -> list[list[Translation]]:
        """Translate texts; each gets its k-best list, best first. A text without words has one empty translation.

        Texts are rows `first_row` and on: with the seed, that decides their samples.
        """
        first = self.team.loaded[0]
        encoder = first.source_vocabulary or first.vocabulary
        sources = encoder.encode(self._normalizer.many(list(texts)))
        search = BeamSearch(self.team.engines, self.settings, fallback=self.team.fallback)
        rows = range(first_row, first_row + len(sources))
        decoding = search.decode(zip(rows, sources, strict=True), batch_tokens=self.batch_tokens, prefix=self.prefix)
        found = dict(decoding)
        self.truncated = sorted(row - first_row for row in search.truncated)
        results = []
        for index in rows:
            decoded = first.vocabulary.decode([hypothesis.ids for hypothesis in found[index]])
            results.append(
                [
                    Translation(text, hypothesis.score, hypothesis.logprob, hypothesis.ended)
                    for text, hypothesis in zip(decoded, found[index], strict=True)
                ]
            )
        return results


def translate_lines(
    translator: Translator, lines: Iterable[bytes], out: BinaryIO, *, as_json: bool, one_by_one: bool
) -> None:
    """Translate lines in their order.

    With one translation a line, that is what each output line is; with more, `LINE ||| TEXT ||| SCORE` with the line's
    number from 0, as Moses and Marian write k-best lists; with `as_json`, an object for each line.

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
        for index in translator.truncated:
            say(f"translate: line {number + index + 1} is longer than the model takes: only its start was translated")
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
        return _one_line(found[0].text) + "\n"
    return "".join(f"{number} ||| {_one_line(best.text)} ||| {best.score:.6f}\n" for best in found)


def _one_line(text: str) -> str:
    """Byte pieces can spell a line end; it must not shift the lines after it."""
    return text.replace("\r", " ").replace("\n", " ")
