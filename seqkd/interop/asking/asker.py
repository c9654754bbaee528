"""The asker: the one way in which rows are asked, whatever the role and the transport of a worker."""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from seqkd.corpus.fingerprints import canonical_json
from seqkd.corpus.locks import Part
from seqkd.errors import WorkError
from seqkd.interop.asking.answers import REJECTED, Answer, Question, UnusableError, make_question
from seqkd.interop.asking.cache import Cache, Spent, Stored
from seqkd.interop.asking.command import Command
from seqkd.interop.asking.limits import Limits
from seqkd.interop.workers import Role, WorkerSettings, identify_answers
from seqkd.progress import say

SAY_SECONDS = 30.0  # between two lines about a shard that is being asked


class Transport(Protocol):
    """Carries a request to a worker and the answers back."""

    def ask(self, questions: Sequence[Question], admit: Callable[[int], None]) -> dict[int, Answer]:
        """See `Command.ask`."""
        ...

    def close(self) -> None:
        """End the worker, or the connections to it."""
        ...


@dataclass(slots=True)
class Notes:
    """Facts about the answers that were used since the last look.

    Attributes:
        first: The time of the oldest answer, or "" if no answer has been received.
        last: The time of the newest answer.
        answers: The number of answers, with those of repeated rows.
        rejected: The reason of each row that the worker refused, by id.
        reasons: The number of pairs by the reason that a filter gives.
    """

    first: str = ""
    last: str = ""
    answers: int = 0
    rejected: dict[int, str] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)

    def add(self, question: Question, stored: Stored) -> None:
        """Note an answer."""
        self.first = min(self.first or stored.time, stored.time)
        self.last = max(self.last, stored.time)
        self.answers += 1
        if REJECTED in stored.answer:
            self.rejected[question.id] = stored.answer[REJECTED]
        elif stored.answer.get("keep") is False:
            reason = stored.answer.get("reason", "")
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


class Asker:
    """Asks one worker.

    Equal questions are asked once. An answer is on the disk before it counts, so that no answered row is asked again.

    Args:
        settings: The worker.
        role: Its role.
        folder: The folder that holds a folder of answers for each worker.
        part: The part of the work that this machine does, or None.
        halted: Whether the user wants the run to end.
        sleep: Waits for so many seconds.

    Attributes:
        notes: See `Notes`; the caller takes them.
        firsts: The first rows that were asked, up to `settings.canary`.

    Raises:
        WorkError: The answers of earlier runs cannot be read.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        role: Role,
        folder: Path,
        *,
        part: Part | None = None,
        halted: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.settings, self.role, self._halted = settings, role, halted
        identity = identify_answers(role, settings)
        self._identity = canonical_json(identity)
        self._cache = Cache(folder / name_folder(settings, self._identity), identity, part)
        self._stopped = threading.Event()
        share = 1 if part is None else part.count
        self._sleep = sleep or self._pause
        self._limits = Limits(settings, share, own=self._cache.own, others=self._cache.others, sleep=self._sleep)
        self._free: queue.LifoQueue[Transport] = queue.LifoQueue()
        self._failure: BaseException | None = None  # the first one, which stops the others
        self._opened: list[Transport] = []
        self._opening = threading.Lock()
        self._said = time.monotonic()
        self.notes = Notes()
        self.firsts: list[Question] = []

    def question(self, row: int, body: Mapping[str, Any]) -> Question:
        """Make a question to this worker."""
        return make_question(self._identity, row, body)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return the answer to each question, from the disk or from the worker.

        Args:
            questions: Rows with unique ids.

        Raises:
            WorkError: The worker failed, the budget is used up, the disk is full, or the run was stopped.
            InputError: The worker cannot be started or refuses the key.
        """
        self._remember(questions)
        found: dict[str, Stored] = {}
        missing: dict[str, Question] = {}
        for question in questions:
            if question.key in found or question.key in missing:
                continue
            stored = self._cache.find(question.key)
            if stored is None:
                missing[question.key] = question
            else:
                found[question.key] = stored
        for received in self._ask_worker(list(missing.values()), store=True):
            found.update(received)
        for question in questions:
            self.notes.add(question, found[question.key])
        return [found[question.key].answer for question in questions]

    def count_changed(self, questions: Sequence[Question]) -> int:
        """Ask rows that were answered before once more, and count the answers that differ from the first ones."""
        again: dict[str, Stored] = {}
        for stored in self._ask_worker(questions, store=False):
            again.update(stored)
        before = {question.key: self._cache.find(question.key) for question in questions}
        return sum(old is not None and old.answer != again[key].answer for key, old in before.items())

    def close(self) -> None:
        """End the worker and close the files of answers."""
        self._stopped.set()
        for transport in self._opened:
            transport.close()
        spent = self._limits.take_unnoted()
        if spent != Spent():
            self._cache.add({}, spent)
        self._cache.close()

    def _remember(self, questions: Iterable[Question]) -> None:
        known = {question.key for question in self.firsts}
        for question in questions:
            if len(self.firsts) >= self.settings.canary:
                return
            if question.key not in known:
                known.add(question.key)
                self.firsts.append(question)

    def _ask_worker(self, questions: Sequence[Question], *, store: bool) -> Iterator[dict[str, Stored]]:
        """Ask rows in requests, several at a time, and yield the answers of each request by key."""
        if not questions:
            return
        size = request_size(self.settings)
        requests = [questions[start : start + size] for start in range(0, len(questions), size)]
        done = 0
        with ThreadPoolExecutor(min(self.settings.parallel, len(requests))) as pool:
            waiting = [pool.submit(self._ask_once, request, store) for request in requests]
            try:
                for future in as_completed(waiting):
                    stored = future.result()
                    done += len(stored)
                    self._say(done, len(questions))
                    yield stored
            except BaseException as error:
                for future in waiting:  # requests in flight still come to an end, and their answers to the disk
                    future.cancel()
                raise self._fail(error) from None

    def _ask_once(self, questions: Sequence[Question], store: bool) -> dict[str, Stored]:
        keys = {question.id: question.key for question in questions}
        with self._borrowed() as transport:
            try:
                answers = transport.ask(questions, self._admit)
            except UnusableError as error:
                self._fail(error.as_error(self.settings.label))
                if store:
                    self._store(keys, error.answers)
                raise error.as_error(self.settings.label) from None
            except BaseException as error:
                self._fail(error)
                raise
        if not store:
            return {keys[row]: Stored(answer, "") for row, answer in answers.items()}
        return self._store(keys, answers)

    def _fail(self, error: BaseException) -> BaseException:
        """Stop all requests, and return the first failure."""
        with self._opening:
            self._failure = self._failure or error
            self._stopped.set()
            return self._failure

    def _store(self, keys: Mapping[int, str], answers: Mapping[int, Answer]) -> dict[str, Stored]:
        return self._cache.add({keys[row]: answer for row, answer in answers.items()}, self._limits.take_unnoted())

    def _admit(self, characters: int) -> None:
        if self._stopped.is_set() or self._halted():
            raise WorkError(
                "stopped between two requests",
                where=f"worker {self.settings.label}",
                hint="run the same command again, which continues after the answered rows",
            )
        self._limits.admit(characters)

    @contextmanager
    def _borrowed(self) -> Iterator[Transport]:
        """Lend a transport to one request. At most `parallel` exist."""
        try:
            transport = self._free.get_nowait()
        except queue.Empty:
            transport = self._open()
        try:
            yield transport
        finally:
            self._free.put(transport)

    def _open(self) -> Transport:
        with self._opening:
            transport: Transport
            if self.settings.command:
                transport = Command(self.settings, self.role)
            elif self._opened:
                return self._opened[0]  # several threads may ask one endpoint
            else:
                from seqkd.interop.asking.endpoint import Endpoint  # its packages are an extra

                transport = Endpoint(self.settings, self.role, sleep=self._sleep)
            self._opened.append(transport)
            return transport

    def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until another request has failed."""
        self._stopped.wait(seconds)

    def _say(self, done: int, total: int) -> None:
        if time.monotonic() - self._said >= SAY_SECONDS:
            self._said = time.monotonic()
            say(f"worker {self.settings.label}: {done:,} of {total:,} rows at hand are answered")


def request_size(settings: WorkerSettings) -> int:
    """Return the number of rows in a request."""
    return 1 if settings.form == "chat" else settings.batch


def name_folder(settings: WorkerSettings, identity: bytes) -> str:
    """Return the name of the folder of a worker's answers, which begins with the worker's name."""
    readable = "".join(letter if letter.isalnum() else "-" for letter in settings.label.lower())[:40].strip("-")
    return f"{readable}-{hashlib.sha256(identity).hexdigest()[:12]}"
