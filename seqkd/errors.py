"""All failures that seqkd expects.

They derive from `SeqkdError`. The command line prints such an error as one message and exits with its `exit_code`.
Any other exception is a bug.
"""

from __future__ import annotations


class SeqkdError(Exception):
    """The base class of all expected failures.

    Args:
        what: The problem, in one sentence.
        where: The file, field, row id or line, if there is one.
        expected: The expected value or state.
        hint: The action that solves the problem.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", hint: str = "") -> None:
        self.what = what
        self.where = where
        self.expected = expected
        self.hint = hint
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.what}" if self.where else self.what]
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.hint:
            parts.append(f"to do: {self.hint}")
        return "\n  ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the parts when an error crosses a process boundary."""
        return (_rebuild, (type(self), self.what, self.where, self.expected, self.hint))


def _rebuild(kind: type[SeqkdError], what: str, where: str, expected: str, hint: str) -> SeqkdError:
    return kind(what, where=where, expected=expected, hint=hint)


class InputError(SeqkdError):
    """An input or an argument of the user cannot be used (exit code 2)."""

    exit_code = 2


class ConfigError(InputError):
    """A stage or pipeline file is invalid. The message lists all its problems."""


class TextError(InputError):
    """A text file or bitext cannot be read."""


class CorpusError(InputError):
    """A folder of rows (a corpus, k-best lists or soft targets) is missing, damaged or of the wrong kind."""


class ModelError(InputError):
    """A model folder is missing, damaged, or does not fit the vocabulary or the request."""


class ConflictError(InputError):
    """The output folder was made with other settings, or another process is using it."""


class UnfinishedError(ConflictError):
    """The output folder was begun on another kind of machine or by another revision, which alone can finish it."""


class ExtensionError(InputError):
    """An installed package registers something that cannot be used."""


class WorkError(SeqkdError):
    """A failure during work, such as a full disk or a loss that is not finite (exit code 1)."""
