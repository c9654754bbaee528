"""External workers in their three roles: a source of k-best lists, a scorer and a filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from seqkd.corpus.row_ids import ranked_ids
from seqkd.interop import sources
from seqkd.interop.asking.answers import REJECTED
from seqkd.interop.asking.desk import current_desk
from seqkd.interop.workers import FilterSettings, ScorerSettings, TeacherSettings
from seqkd.selection.lists import Booleans, Floats, Integers, Lists


class Translator:
    """Gets translations from a worker. A row that the worker refuses has an empty list.

    Args:
        settings: The worker.
        place: Not used: the worker has a device of its own.
    """

    def __init__(self, settings: TeacherSettings, place: sources.Place) -> None:  # noqa: ARG002
        self._asker = current_desk().open("teacher", settings)

    def __call__(self, rows: Sequence[sources.Row]) -> sources.Answer:
        """See `RowTranslator`."""
        answers = self._asker.ask([self._asker.question(row.id, {"source": row.text}) for row in rows])
        refused = Counter(
            f"refused by the worker with {answer[REJECTED].partition(':')[0]}"
            for answer in answers
            if REJECTED in answer
        )
        lists = [[sources.Candidate(**one) for one in answer.get("hypotheses", ())] for answer in answers]
        return sources.Answer(lists=lists, counts=refused)


def build_scorer(settings: ScorerSettings, device: str) -> Callable[[Lists], Floats]:  # noqa: ARG001
    """Return the function that gets the scores of hypotheses `[hypotheses]` from a worker.

    The hypotheses of a row that the worker refuses have the value minus infinity.
    """
    asker = current_desk().open("scorer", settings)

    def score(lists: Lists) -> Floats:
        texts, found = lists.texts.to_pylist(), np.full(len(lists.owners), -np.inf)
        filled = np.flatnonzero(lists.counts).tolist()
        questions = []
        for row in filled:
            first, count = int(lists.firsts[row]), int(lists.counts[row])
            body = {"source": lists.sources[row].as_py(), "hypotheses": texts[first : first + count]}
            if settings.reference:
                body["reference"] = lists.references[row].as_py()
            questions.append(asker.question(int(lists.ids[row]), body))
        for row, answer in zip(filled, asker.ask(questions), strict=True):
            if REJECTED not in answer:
                first = int(lists.firsts[row])
                found[first : first + int(lists.counts[row])] = answer["scores"]
        return found

    return score


def reject_by_worker(lists: Lists, which: Integers, settings: FilterSettings) -> Booleans:
    """Reject the hypotheses that a worker does not keep, or whose pair it refuses `[which]`."""
    asker = current_desk().open("filter", settings)
    owners = lists.owners[which]
    ids = ranked_ids(lists.ids[owners], lists.ranks[which]).tolist()
    sources_, targets = lists.sources.take(owners).to_pylist(), lists.texts.take(which).to_pylist()
    questions = [
        asker.question(row, {"source": source, "target": target})
        for row, source, target in zip(ids, sources_, targets, strict=True)
    ]
    return np.array([not answer.get("keep", False) for answer in asker.ask(questions)], dtype=np.bool_)
