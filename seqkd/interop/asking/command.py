"""Commands as workers: JSON lines on the standard input and output of a program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Any

from seqkd.errors import InputError
from seqkd.interop.asking.answers import Answer, Question, UnusableError, match_answers, parse_json
from seqkd.interop.workers import Role, WorkerSettings, fill_in_command


class Command:
    """A running copy of a command, which is started at the first request and again after a failure.

    Its standard error is that of this process. It ends when its standard input is closed.

    Args:
        settings: The command.
        role: The role of the worker.
    """

    def __init__(self, settings: WorkerSettings, role: Role) -> None:
        self._settings, self._role = settings, role
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, questions: Sequence[Question], admit: Callable[[int], None]) -> dict[int, Answer]:
        """Ask rows and wait for all answers, which may come in any order.

        Each row says in `left` how many rows of the request follow, so that the command can process them together.

        Args:
            questions: The rows, with unique ids.
            admit: Called with the number of characters before they are sent.

        Returns:
            The answers by id.

        Raises:
            UnusableError: The command ended, took too long, or gave an answer that cannot be used.
            InputError: The command cannot be started.
            WorkError: `admit` raised it.
        """
        admit(sum(question.characters for question in questions))
        process = self._start()
        expired = threading.Event()

        def expire() -> None:
            expired.set()
            _kill(process)

        timer = threading.Timer(self._settings.timeout, expire)
        writer = threading.Thread(target=_send, args=(process, questions), daemon=True)
        timer.start()
        writer.start()
        try:
            given = self._read(process, questions, expired)
            return match_answers(self._role, questions, given)
        except BaseException:
            self.close()  # the answers that follow would be taken for those of other rows
            raise
        finally:
            timer.cancel()
            writer.join()

    def close(self) -> None:
        """End the command."""
        process, self._process = self._process, None
        if process is not None:
            _kill(process)
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):  # rows that it has not read
                        stream.close()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            try:
                self._process = subprocess.Popen(
                    fill_in_command(self._settings),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C stops this process, which then ends the command
                )
            except OSError as error:
                raise InputError(
                    f"cannot be started: {error.strerror}",
                    where=f"command {self._settings.command[0]!r}",
                    expected="an executable program, or a script whose first line names its interpreter",
                    hint='name the interpreter first, as in ["python", "worker.py"]',
                ) from None
        return self._process

    def _read(
        self, process: subprocess.Popen[bytes], questions: Sequence[Question], expired: threading.Event
    ) -> list[Any]:
        """Read as many lines as there are rows."""
        assert process.stdout is not None
        given: list[Any] = []
        while len(given) < len(questions):
            answered = {values.get("id") for values in given if isinstance(values, dict)}
            waiting = next((question.id for question in questions if question.id not in answered), questions[0].id)
            line = process.stdout.readline()
            if not line.endswith(b"\n"):
                found = _match_some(self._role, questions, given)
                if expired.is_set():
                    raise UnusableError(f"row {waiting}: no answer within {self._settings.timeout:g} seconds", found)
                code = process.wait()
                raise UnusableError(f"row {waiting}: the command ended with exit code {code} before it answered", found)
            if line.strip():
                try:
                    given.append(parse_json(line, "a line of its standard output", waiting))
                except UnusableError as error:
                    more = "; messages belong on the standard error"
                    raise UnusableError(error.what + more, _match_some(self._role, questions, given)) from None
        return given


def _match_some(role: Role, questions: Sequence[Question], given: Sequence[Any]) -> dict[int, Answer]:
    """Join the answers that came before a failure; none if one of them cannot be used."""
    try:
        return match_answers(role, questions, given)
    except UnusableError as error:
        return error.answers


def _send(process: subprocess.Popen[bytes], questions: Sequence[Question]) -> None:
    assert process.stdin is not None
    last = len(questions) - 1
    lines = [
        json.dumps({"id": question.id, **question.body, "left": last - place}, ensure_ascii=False) + "\n"
        for place, question in enumerate(questions)
    ]
    with contextlib.suppress(OSError, ValueError):  # it has ended, which its reader notices
        process.stdin.write("".join(lines).encode())
        process.stdin.flush()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the command and the processes that it has started."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
