"""The desk of a stage: it opens the askers of the workers that the stage's settings name, and closes them at its end.

Sources, scorers and filters are built from their settings alone. They find the desk of the running stage with
`current_desk`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from seqkd.corpus.files import atomic_write
from seqkd.corpus.fingerprints import canonical_json
from seqkd.corpus.locks import Part
from seqkd.errors import SeqkdError
from seqkd.interop.asking.answers import Answer, Question, make_question
from seqkd.interop.asking.asker import Asker, Notes, name_folder, request_size
from seqkd.interop.asking.cache import Cache, Spent
from seqkd.interop.asking.limits import compute_cost
from seqkd.interop.workers import Role, TeacherSettings, WorkerSettings, identify_answers
from seqkd.progress import say

ANSWERS = ".answers"  # the folder of the caches, beside the output folder
_CURRENT: ContextVar[Desk | None] = ContextVar("desk", default=None)


class Asks(Protocol):
    """Answers questions: an `Asker`, or a `Tally` in a dry run."""

    def question(self, row: int, body: Mapping[str, Any]) -> Question:
        """See `Asker.question`."""
        ...

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """See `Asker.ask`."""
        ...


class Tally:
    """Counts what a run would ask, without asking. Its answers are placeholders.

    Args:
        settings: The worker.
        role: Its role.
        folder: The folder of the caches.
        part: The part of the work that this machine does, or None.
    """

    def __init__(self, settings: WorkerSettings, role: Role, folder: Path, part: Part | None) -> None:
        self.settings, self._role = settings, role
        identity = identify_answers(role, settings)
        self._identity = canonical_json(identity)
        self._cache = Cache(folder / name_folder(settings, self._identity), identity, part)
        self._seen: set[str] = set()
        self._known, self._spent, self._again = 0, Spent(), Spent()

    def question(self, row: int, body: Mapping[str, Any]) -> Question:
        """See `Asker.question`."""
        return make_question(self._identity, row, body)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Count the questions that no earlier answer covers."""
        fresh = []
        for question in questions:
            if question.key not in self._seen:
                if len(self._seen) < self.settings.canary:
                    self._again += Spent(1, question.characters)
                self._seen.add(question.key)
                if self._cache.find(question.key) is None:
                    fresh.append(question)
                else:
                    self._known += 1
        characters = sum(question.characters for question in fresh)
        self._spent += Spent(-(-len(fresh) // request_size(self.settings)), characters)
        return [_placeholder(self._role, question) for question in questions]

    def describe(self) -> str:
        """Say what a run would ask and cost."""
        settings = self.settings
        again = self._again.requests
        spent = self._spent + Spent(-(-again // request_size(settings)), self._again.characters)
        asked = len(self._seen) - self._known
        more = f", {again:,} of them once more at the end" if again else ""
        samples = (
            f" of {settings.samples} samples" if isinstance(settings, TeacherSettings) and settings.samples > 1 else ""
        )
        cost = compute_cost(settings, spent)
        price = f", at a cost of {cost:,.2f}" if settings.price_per_request or settings.price_per_million else ""
        return (
            f"{self._role} {settings.label}: would be asked {asked:,} different rows{more}: {spent.requests:,} requests"
            f"{samples}, {spent.characters:,} characters{price}; {self._known:,} rows are answered already"
        )

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()


def _placeholder(role: Role, question: Question) -> Answer:
    if role == "scorer":
        return {"scores": [0.0] * len(question.body["hypotheses"])}
    return {"hypotheses": []} if role == "teacher" else {"keep": True}


class Desk:
    """The workers of one run of a stage.

    Args:
        out: The output folder of the stage.
        part: The part of the work that this machine does, or None.
        dry: Whether to count the questions and not to ask them.
        halted: Whether the user wants the run to end.

    Attributes:
        out: The output folder of the stage.
    """

    def __init__(
        self, out: Path, *, part: Part | None = None, dry: bool = False, halted: Callable[[], bool] = lambda: False
    ) -> None:
        self.out, self._part, self._dry, self._halted = out, part, dry, halted
        self._askers: dict[tuple[Role, str], Asker] = {}
        self._tallies: dict[tuple[Role, str], Tally] = {}

    def open(self, role: Role, settings: WorkerSettings) -> Asks:
        """Return the asker of a worker. It lives as long as the desk.

        Raises:
            WorkError: The answers of earlier runs cannot be read.
        """
        folder = settings.cache or self.out.parent / ANSWERS
        name = (role, settings.label)
        if self._dry:
            if name not in self._tallies:
                self._tallies[name] = Tally(settings, role, folder, self._part)
            return self._tallies[name]
        if name not in self._askers:
            asker = Asker(settings, role, folder, part=self._part, halted=self._halted)
            self._askers[name] = asker
            if settings.canary and (rows := self._canary_path("rows", role)).exists():
                asker.firsts = [asker.question(row, body) for row, body in json.loads(rows.read_text())]
        return self._askers[name]

    def take_notes(self) -> dict[Role, dict[str, Any]]:
        """Return the notes about the answers since the last call, by role, and write down the rows of the canary."""
        found: dict[Role, dict[str, Any]] = {}
        for (role, _), asker in self._askers.items():
            found[role] = asdict(asker.notes)
            asker.notes = Notes()
            if asker.firsts:
                rows = [[question.id, question.body] for question in asker.firsts]
                atomic_write(self._canary_path("rows", role), json.dumps(rows).encode())
        return found

    def finish(self, roles: Mapping[Role, WorkerSettings]) -> None:
        """Ask the canary rows once more at the end of the run, and write down how many answers differ."""
        for role, settings in roles.items():
            path = self._canary_path("found", role)
            if not settings.canary or path.exists() or not self._canary_path("rows", role).exists():
                continue
            self.open(role, settings)
            asker = self._askers[(role, settings.label)]
            try:
                different = asker.count_changed(asker.firsts)
            except SeqkdError as error:
                say(f"worker {settings.label}: the canary rows are not asked again: {error.what}")
                continue
            if different:
                say(
                    f"worker {settings.label}: answers {different:,} of the {len(asker.firsts):,} rows that it was "
                    "asked first in another way now; it may have changed, or it draws its answers at random"
                )
            found = {"asked": len(asker.firsts), "different": different}
            atomic_write(path, json.dumps(found).encode())

    def describe(self) -> list[str]:
        """Say what a run would ask and cost, one line for each worker."""
        return [tally.describe() for tally in self._tallies.values()]

    def close(self) -> None:
        """End all workers."""
        for asker in self._askers.values():
            asker.close()
        for tally in self._tallies.values():
            tally.close()

    def _canary_path(self, what: str, role: Role) -> Path:
        part = self._part or Part(1, 1)
        return self.out / f"canary-{what}-{role}-{part.index}-of-{part.count}.json"


@contextmanager
def use_desk(desk: Desk) -> Iterator[Desk]:
    """Make a desk the current one, and close it at the end."""
    token = _CURRENT.set(desk)
    try:
        yield desk
    finally:
        _CURRENT.reset(token)
        desk.close()


def find_desk() -> Desk | None:
    """Return the desk of the running stage, or None if the stage asks no worker."""
    return _CURRENT.get()


def current_desk() -> Desk:
    """Return the desk of the running stage.

    Raises:
        LookupError: No stage has opened a desk in this process.
    """
    desk = find_desk()
    if desk is None:
        raise LookupError("a worker is asked only while a stage has a desk in this process; see `use_desk`")
    return desk
