"""The languages of corpora and of outputs, for targets in several languages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seqkd.config.report import LanguageText, NamedPath
from seqkd.corpus.reader import Corpus
from seqkd.metrics.languages import LanguageMix, count_words, estimate_languages, measure_languages
from seqkd.metrics.results import EvaluationResult
from seqkd.stages.evaluate.comparing import read_outputs
from seqkd.text.reading import read_lines

COUNTED_LINES = 200_000  # the most lines of a language whose words are counted
MEASURED_ROWS = 20_000  # the most rows of a text that are measured
POINTS = 200  # the most sentences of a text that are drawn

Kind = Literal["language", "test language", "corpus", "model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageEntry:
    """A text and the languages in it.

    Attributes:
        name: The name of the language, the corpus or the model.
        kind: "language" for the text of one language, "test language" for its test text; these are the ceilings of
            training corpora and of the outputs of models.
        mix: The numbers.
    """

    name: str
    kind: Kind
    mix: LanguageMix

    def to_json(self) -> dict[str, Any]:
        """Return the entry of report.json, without the points that are drawn."""
        numbers = asdict(self.mix)
        del numbers["points"]
        return {"name": self.name, "kind": self.kind, **numbers}


def measure_texts(
    languages: Sequence[LanguageText],
    corpora: Sequence[tuple[str, Corpus]],
    evaluations: Sequence[NamedPath],
    models: Sequence[EvaluationResult],
) -> Iterator[LanguageEntry]:
    """Measure the texts of the languages, the training corpora, and the outputs of models at their last decode.

    Texts without words are left out.

    Args:
        languages: The texts of the languages; without any, nothing is measured.
        corpora: The training corpora with their names.
        evaluations: The folders of the evaluations.
        models: The evaluated models, in the order of `evaluations`.

    Raises:
        TextError: A text cannot be read.
        CorpusError: The outputs of a model are missing or damaged.
    """
    if not languages:
        return
    texts = {each.name: _read_text(each.text) for each in languages}
    words = estimate_languages({name: count_words(lines) for name, lines in texts.items()})

    def measure(name: str, kind: Kind, lines: Sequence[str], points: int = 0) -> Iterator[LanguageEntry]:
        mix = measure_languages(words, lines, points=points)
        if mix is not None:
            yield LanguageEntry(name=name, kind=kind, mix=mix)

    for name, lines in texts.items():
        yield from measure(name, "language", [lines[place] for place in _pick_places(len(lines))])
    for name, corpus in corpora:
        table = corpus.take(np.array(_pick_places(corpus.rows), dtype=np.int64), ["target"])
        yield from measure(name, "corpus", table.column("target").to_pylist(), POINTS)
    for each in languages:
        if each.test is not None:
            yield from measure(each.name, "test language", _read_text(each.test))
    for named, model in zip(evaluations, models, strict=True):
        file = f"hypotheses.{'' if model.parallel else 'beam'}{model.quality}.txt"
        outputs = read_outputs(named.path / file, model.rows, of=f"model {model.name!r}")
        yield from measure(model.name, "model", outputs, POINTS)


def _read_text(path: Path) -> list[str]:
    """Read the lines of a text that can be read, at most `COUNTED_LINES`."""
    return [row.source for row in islice(read_lines([path]), COUNTED_LINES) if row.source is not None]


def _pick_places(rows: int) -> list[int]:
    """Pick at most `MEASURED_ROWS` of the rows, evenly spread."""
    most = min(rows, MEASURED_ROWS)
    return [place * rows // most for place in range(most)]
