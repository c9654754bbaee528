"""Every failure that seqkd expects.

One root, `SeqkdError`. The command line prints a child of it as one message and exits with its `exit_code`;
anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class SeqkdError(Exception):
    """Root of the expected failures.

    Args:
        what: What is wrong, in one sentence.
        where: File, field, row id or line, where there is one.
        expected: What was expected instead.
        hint: What to do.
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
    """Something the user handed in cannot be used: exit code 2."""

    exit_code = 2


class ConfigError(InputError):
    """A stage or pipeline file is wrong; the message lists all its problems."""


class TextError(InputError):
    """A text file cannot be read as the bitext that it should be."""


class CorpusError(InputError):
    """An Arrow corpus, k-best list or manifest is missing, damaged or of another kind."""


class ModelError(InputError):
    """A model folder is missing, damaged, or does not fit the vocabulary or the request."""


class ConflictError(InputError):
    """The output folder was made with other settings."""


class UnfinishedError(ConflictError):
    """The output folder was begun on another kind of machine, or by another revision, and only that can finish it."""


class ExtensionError(InputError):
    """An installed package registers something that cannot be used."""


class WorkError(SeqkdError):
    """A failure at work: full disk, loss that is not finite, logits that are NaN: exit code 1."""
