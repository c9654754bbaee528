"""Questions to workers, and the check of their answers."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from seqkd.corpus.fingerprints import canonical_json
from seqkd.errors import WorkError
from seqkd.interop.workers import Role

Answer = dict[str, Any]  # a checked answer without its id, as it is cached

REJECTED = "rejected"  # the only key of the answer to a row that an endpoint has refused; its value is the reason
ENDED = ("eos", "max_length", "unknown")
_SHOWN = 200  # characters of a worker's words in a message
_LARGEST = 3e38  # a score is stored in float32


@dataclass(frozen=True, slots=True)
class Question:
    """A row for a worker.

    Attributes:
        id: The id by which the answer is joined. It is unique in a request.
        body: The other fields; see `seqkd.interop.workers.FIELDS`.
        key: The digest of the worker's identity and of `body`. Questions with equal keys are asked once.
    """

    id: int
    body: Mapping[str, Any]
    key: str

    @property
    def characters(self) -> int:
        """The number of characters in all texts of the question."""
        texts = [text for value in self.body.values() for text in ([value] if isinstance(value, str) else value)]
        return sum(map(len, texts))


def make_question(identity: bytes, row: int, body: Mapping[str, Any]) -> Question:
    """Make a question to the worker with this identity."""
    return Question(row, body, hashlib.sha256(identity + canonical_json(body)).hexdigest())


class UnusableError(Exception):
    """A worker's answer cannot be used.

    Args:
        what: The problem, with the id of the row.
        answers: The answers of the same reply that can be used, by id.
    """

    def __init__(self, what: str, answers: Mapping[int, Answer] | None = None) -> None:
        super().__init__(what)
        self.what, self.answers = what, dict(answers or {})

    def as_error(self, worker: str) -> WorkError:
        """Return the error for the user."""
        return WorkError(
            self.what,
            where=f"worker {worker}",
            expected="one answer for each row, in the form that docs/workers.md describes",
            hint="repair the worker and run the same command again, which continues after the answered rows",
        )


def parse_json(text: str | bytes, what: str, row: int) -> Any:
    """Read a worker's words.

    Args:
        text: The words.
        what: A noun for them, such as "a line of its standard output".
        row: The id of a row that waits for the answer.

    Raises:
        UnusableError: They are not JSON.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        shown = text.decode(errors="replace") if isinstance(text, bytes) else text
        raise UnusableError(f"row {row}: {what} is not JSON: {shorten(shown) or '(empty)'!r}") from None


def shorten(text: str) -> str:
    """Return the beginning of a text in one line."""
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def match_answers(role: Role, asked: Sequence[Question], given: Sequence[Any]) -> dict[int, Answer]:
    """Join the answers of a reply with the rows that were asked, by id, in any order.

    Returns:
        The checked answers by id, one for each row.

    Raises:
        UnusableError: An id is missing, doubled or unknown, or an answer has another form.
    """
    rows = {question.id: question for question in asked}
    found: dict[int, Answer] = {}
    for values in given:
        row = values.get("id") if isinstance(values, dict) else None
        if not isinstance(row, int) or isinstance(row, bool):
            raise UnusableError(
                f"row {asked[0].id}: an answer in its reply has no integer `id`: {shorten(json.dumps(values))}"
            )
        if row not in rows:
            raise UnusableError(f"row {row}: was answered, but not asked in this request (rows {_name(list(rows))})")
        if row in found:
            raise UnusableError(f"row {row}: was answered twice")
        found[row] = check_answer(role, rows[row], values)
    if missing := [row for row in rows if row not in found]:
        raise UnusableError(f"row {_name(missing)}: was not answered", found)
    return found


def _name(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")


def check_answer(role: Role, question: Question, values: Mapping[str, Any]) -> Answer:
    """Check the form of an answer and return it without further keys.

    Raises:
        UnusableError: The answer has another form.
    """
    row = question.id
    if role == "teacher":
        return {"hypotheses": _check_hypotheses(row, values)}
    if role == "scorer":
        return {"scores": _check_scores(row, len(question.body["hypotheses"]), values)}
    keep, reason = values.get("keep"), values.get("reason")
    if not isinstance(keep, bool):
        raise _wrong(row, values, '{"keep": true or false}')
    if reason is not None and not isinstance(reason, str):
        raise _wrong(row, values, "a text as `reason`")
    return {"keep": keep} if reason is None else {"keep": keep, "reason": shorten(reason)}


def _wrong(row: int, values: Mapping[str, Any], expected: str) -> UnusableError:
    return UnusableError(f"row {row}: expected {expected}, found {shorten(json.dumps(values))}")


def _check_hypotheses(row: int, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = values.get("hypotheses")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise _wrong(row, values, '{"hypotheses": [{"text": ...}]}')
    found = []
    for one in listed:
        numbers = {name: one.get(name) for name in ("score", "logprob")}
        if any(number is not None and not _is_number(number) for number in numbers.values()):
            raise _wrong(row, values, "finite numbers or null as `score` and `logprob`")
        if not isinstance(one.get("text"), str) or not _is_unicode(one["text"]):
            raise _wrong(row, values, "a text in Unicode as `text`")
        if one.get("ended") not in (None, *ENDED):
            raise _wrong(row, values, f"one of {', '.join(ENDED)} as `ended`")
        # Corpora have one sentence a line.
        text = " ".join(one["text"].splitlines()).strip()
        found.append({"text": text, **numbers, "ended": one.get("ended") or "unknown"})
    if all(one["score"] is not None for one in found):
        found.sort(key=lambda one: -one["score"])
    return found


def _check_scores(row: int, expected: int, values: Mapping[str, Any]) -> list[float]:
    scores = values.get("scores")
    if not isinstance(scores, list) or not all(map(_is_number, scores)):
        raise _wrong(row, values, '{"scores": [...]} with finite numbers')
    if len(scores) != expected:
        raise UnusableError(f"row {row}: has {len(scores)} scores for {expected} hypotheses")
    return [float(score) for score in scores]


def _is_number(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and abs(value) <= _LARGEST


def _is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8. JSON can hold halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
