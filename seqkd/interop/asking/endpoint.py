"""Endpoints as workers: JSON rows over HTTP, or the chat/completions form of OpenAI."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import tenacity

from seqkd.errors import InputError, WorkError
from seqkd.interop.asking.answers import (
    REJECTED,
    Answer,
    Question,
    UnusableError,
    check_answer,
    match_answers,
    parse_json,
    shorten,
)
from seqkd.interop.workers import Role, TeacherSettings, WorkerSettings

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between attempts, without Retry-After
LONGEST_WAIT = 600.0  # seconds that a Retry-After may ask for
_AGAIN = frozenset({408, 425, 429})  # and all from 500 on
_STOP = frozenset({401, 402, 403, 404, 405, 407, 410})  # no row of this service would be answered
_ENDED = {"stop": "eos", "length": "max_length"}


class _AgainError(Exception):
    """A request failed in a way that may pass.

    Args:
        what: The failure.
        after: Seconds after which the service wants to be asked again, or None.
    """

    def __init__(self, what: str, after: float | None = None) -> None:
        super().__init__(what)
        self.after = after


class _RefusedError(Exception):
    """The service refuses a row."""


class Endpoint:
    """A service at a URL. Several threads may ask it.

    Args:
        settings: The URL, the form of requests, the key and the retries.
        role: The role of the worker.
        sleep: Waits for so many seconds between attempts.
    """

    def __init__(self, settings: WorkerSettings, role: Role, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings, self._role = settings, role
        self._key = os.environ.get(settings.key, "") if settings.key else ""
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=settings.parallel)
        self._client = httpx2.Client(timeout=settings.timeout, headers=headers, limits=limits)
        self._retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(settings.retries + 1),
            wait=_choose_pause,
            retry=tenacity.retry_if_exception_type(_AgainError),
            sleep=sleep,
            reraise=True,
        )

    def ask(self, questions: Sequence[Question], admit: Callable[[int], None]) -> dict[int, Answer]:
        """Ask rows; see `Command.ask`. A row that the service refuses is rejected with the reason.

        Raises:
            UnusableError: An answer cannot be used.
            InputError: The service refuses the key or does not know the URL.
            WorkError: All attempts failed, or `admit` raised it.
        """
        if self._settings.form == "chat":
            return {question.id: self._ask_in_chat(question, admit) for question in questions}
        body = {"rows": [{"id": question.id, **question.body} for question in questions]}
        try:
            reply = self._post(questions, {**self._settings.options, **body}, admit)
        except _RefusedError as refusal:
            if len(questions) > 1:  # one of them is at fault
                return {row: answer for one in questions for row, answer in self.ask([one], admit).items()}
            return {questions[0].id: {REJECTED: str(refusal)}}
        given = reply.get("rows") if isinstance(reply, dict) else None
        if not isinstance(given, list):
            raise UnusableError(
                f'row {questions[0].id}: the reply is not {{"rows": [...]}}: {shorten(json.dumps(reply))}'
            )
        return match_answers(self._role, questions, given)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def _ask_in_chat(self, question: Question, admit: Callable[[int], None]) -> Answer:
        settings = self._settings
        texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in question.body.items()}
        message = {"role": "user", "content": settings.prompt.format(**texts)}
        samples = settings.samples if isinstance(settings, TeacherSettings) else 1
        found: list[dict[str, Any]] = []
        while len(found) < samples:  # some services give one choice whatever `n` asks for
            wanted = samples - len(found)
            body = {**settings.options, "messages": [message], **({"n": wanted} if wanted > 1 else {})}
            try:
                choices = _read_choices(question.id, self._post([question], body, admit))
            except _RefusedError as refusal:
                return {REJECTED: str(refusal)}
            found += choices[:wanted]
        if self._role == "teacher":
            return check_answer(self._role, question, {"hypotheses": found})
        values = parse_json(found[0]["text"], "the message", question.id)
        if not isinstance(values, dict):
            raise UnusableError(f"row {question.id}: the message is no JSON object: {shorten(found[0]['text'])!r}")
        return check_answer(self._role, question, values)

    def _post(self, questions: Sequence[Question], body: Any, admit: Callable[[int], None]) -> Any:
        """Send a request, as often as needed, and return the JSON of the reply."""
        characters = sum(question.characters for question in questions)
        try:
            reply = self._retrying(self._post_once, body, characters, admit)
        except _AgainError as failure:
            attempts = self._settings.retries + 1
            raise WorkError(
                f"row {questions[0].id}: no answer after {attempts} attempts; the last one: {failure}",
                where=f"worker {self._settings.label}",
                hint="run the same command again, which continues after the answered rows; more `retries` or a longer "
                "`timeout` give the service more time",
            ) from None
        return parse_json(reply, "the reply", questions[0].id)

    def _post_once(self, body: Any, characters: int, admit: Callable[[int], None]) -> bytes:
        admit(characters)
        try:
            response = self._client.post(self._settings.endpoint, json=body)
            status, content = response.status_code, response.content
        except httpx2.InvalidURL as error:
            raise InputError(f"is not a URL: {error}", where=f"endpoint {self._settings.endpoint}") from None
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise _AgainError(f"{type(error).__name__}: {error}".rstrip(": ")) from None
        if 200 <= status < 300:
            return content
        said = shorten(content.decode(errors="replace"))
        said = f"HTTP {status}: {said.replace(self._key, '***') if self._key else said}".rstrip(": ")
        if status in _AGAIN or status >= 500:
            raise _AgainError(said, self._read_retry_after(response.headers.get("Retry-After", "")))
        if status in _STOP or status < 400:
            raise InputError(
                said,
                where=f"endpoint {self._settings.endpoint}",
                expected="a service at this URL that accepts the key",
                hint="check the URL, and the variable that `key` names",
            )
        raise _RefusedError(said)

    def _read_retry_after(self, value: str) -> float | None:
        """Read the header Retry-After: seconds or a date.

        Raises:
            WorkError: The wait would be too long.
        """
        try:
            after = float(value)
        except ValueError:
            try:
                after = (parsedate_to_datetime(value) - datetime.now(timezone.utc)).total_seconds()
            except (ValueError, TypeError):
                return None
        if not 0.0 <= after <= LONGEST_WAIT:
            if after > LONGEST_WAIT:
                raise WorkError(
                    f"asks for a pause of {after:,.0f} seconds",
                    where=f"worker {self._settings.label}",
                    hint="run the same command again after that time; it continues after the answered rows",
                )
            return 0.0
        return after


_backoff = tenacity.wait_random_exponential(multiplier=FIRST_PAUSE, max=LONGEST_PAUSE)


def _choose_pause(state: tenacity.RetryCallState) -> float:
    """Wait as long as the service says, otherwise exponentially longer with full jitter."""
    failure = None if state.outcome is None else state.outcome.exception()
    after = getattr(failure, "after", None)
    return _backoff(state) if after is None else float(after)


def _read_choices(row: int, reply: Any) -> list[dict[str, Any]]:
    choices = reply.get("choices") if isinstance(reply, dict) else None
    found = []
    for choice in choices if isinstance(choices, list) else []:
        message = choice.get("message") if isinstance(choice, dict) else None
        text = message.get("content") if isinstance(message, dict) else None
        if not isinstance(text, str):
            raise UnusableError(f"row {row}: a choice has no text as message.content: {shorten(json.dumps(choice))}")
        found.append({"text": text, "ended": _ENDED.get(str(choice.get("finish_reason")), "unknown")})
    if not found:
        raise UnusableError(f"row {row}: the reply has no `choices`: {shorten(json.dumps(reply))}")
    return found
