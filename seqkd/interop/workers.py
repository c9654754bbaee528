"""External workers: commands and endpoints as teachers, scorers and filters, with their settings.

A worker gets rows as JSON with ids and answers with texts, numbers or verdicts; docs/workers.md has the protocol. The
settings of the three roles share all fields except those that only one role needs. `seqkd.interop.asking` asks.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import Field

from seqkd.errors import InputError

Role = Literal["teacher", "scorer", "filter"]

# The fields of a question besides the id, by role. Templates of prompts use the same names.
FIELDS: dict[str, tuple[str, ...]] = {
    "teacher": ("source",),
    "scorer": ("source", "reference", "hypotheses"),
    "filter": ("source", "target"),
}
_SCHEMES = ("http://", "https://")

# Words of a command that are replaced: by the Python that runs seqkd, and by the folder of the model that it runs.
PYTHON, MODEL = "{python}", "{model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """An external worker. Answers depend on its name, its version, `form`, `prompt` and `options` alone."""

    command: Annotated[
        tuple[str, ...],
        Field(description="a program and its arguments; the word {python} means the Python that runs seqkd"),
    ] = ()
    endpoint: Annotated[str, Field(description="the URL of a service, in place of `command`")] = ""
    name: Annotated[str, Field(description="its name; left out: the command or the URL")] = ""
    version: Annotated[str, Field(description="its version; a new one is asked again, and makes results anew")] = ""
    form: Annotated[
        Literal["rows", "chat"],
        Field(description="of requests to an endpoint. rows: JSON rows; chat: chat/completions as of OpenAI"),
    ] = "rows"
    prompt: Annotated[str, Field(description="form chat: the message, with {source} and the other fields")] = ""
    options: Annotated[dict[str, Any], Field(description="further keys in the body of requests to an endpoint")] = (
        field(default_factory=dict)
    )
    key: Annotated[str, Field(description="the environment variable that holds the API key of an endpoint")] = ""
    batch: Annotated[int, Field(ge=1, le=10_000, description="rows of a request; form chat: always one")] = 16
    parallel: Annotated[int, Field(ge=1, le=256, description="requests, or copies of a command, at a time")] = 1
    timeout: Annotated[float, Field(gt=0.0, description="seconds to wait for the answer to a request")] = 300.0
    retries: Annotated[int, Field(ge=0, description="further attempts at a request to an endpoint")] = 6
    rate: Annotated[float | None, Field(gt=0.0, description="requests per second")] = None
    max_requests: Annotated[int | None, Field(ge=1, description="the run stops before more requests")] = None
    max_characters: Annotated[int | None, Field(ge=1, description="the run stops before more characters are sent")] = (
        None
    )
    max_cost: Annotated[float | None, Field(gt=0.0, description="the run stops before it costs more")] = None
    price_per_request: Annotated[float, Field(ge=0.0, description="cost of a request")] = 0.0
    price_per_million: Annotated[float, Field(ge=0.0, description="cost of a million characters that are sent")] = 0.0
    canary: Annotated[int, Field(ge=0, description="rows that are asked first, and once more at the end")] = 0
    cache: Annotated[
        Path | None, Field(description="folder of the answers; left out: `.answers` beside the output folder")
    ] = None

    def __post_init__(self) -> None:
        if bool(self.command) == bool(self.endpoint):
            raise ValueError("give either `command`, a list, or `endpoint`, a URL")
        if self.command and not all(self.command):
            raise ValueError("command: holds an empty text; leave it out")
        if self.endpoint and not self.endpoint.startswith(_SCHEMES):
            raise ValueError(f"endpoint: {self.endpoint!r} is not a URL; it begins with http:// or https://")
        if "@" in self.endpoint.partition("://")[2].partition("/")[0]:
            raise ValueError("endpoint: contains a password, which files must not hold; name a variable with `key`")
        only_endpoint = ("form", "prompt", "options", "key")
        if self.command and (given := [name for name in only_endpoint if getattr(self, name) not in ("", "rows", {})]):
            raise ValueError(f"{', '.join(given)}: is for an endpoint; give a command its options as arguments")
        if (self.form == "chat") != bool(self.prompt):
            raise ValueError('`form = "chat"` and `prompt` go together')
        try:
            json.dumps(self.options, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"options: cannot be written as JSON: {error}") from None
        if self.max_cost is not None and not (self.price_per_request or self.price_per_million):
            raise ValueError("max_cost: needs `price_per_request` or `price_per_million`")

    @property
    def label(self) -> str:
        """The name in messages, in the manifest and in the keys of answers."""
        return self.name or self.endpoint or " ".join(self.command)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings(WorkerSettings):
    """An external worker that translates."""

    samples: Annotated[int, Field(ge=1, le=128, description="form chat: translations of each row")] = 1
    model: Annotated[
        Path | None,
        Field(
            description="a model folder in place of the word {model} of `command`; in a pipeline also the name of a "
            "teacher or a student"
        ),
    ] = None

    def __post_init__(self) -> None:
        WorkerSettings.__post_init__(self)
        _check_prompt(self, "teacher")
        if (self.model is not None) != (MODEL in self.command):
            raise ValueError(f"`model` and a `command` with the word {MODEL} go together")
        if self.samples > 1 and self.form != "chat":
            raise ValueError('samples: is for `form = "chat"`; other workers decide how many translations they give')


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings(WorkerSettings):
    """An external worker that scores hypotheses; higher is better."""

    reference: Annotated[bool, Field(description="whether it gets the reference of each row, too")] = False

    def __post_init__(self) -> None:
        WorkerSettings.__post_init__(self)
        _check_prompt(self, "scorer")
        if "reference" in _fields_of(self.prompt) and not self.reference:
            raise ValueError("prompt: contains {reference}; set `reference = true`")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterSettings(WorkerSettings):
    """An external worker that keeps or rejects pairs of source and target."""

    def __post_init__(self) -> None:
        WorkerSettings.__post_init__(self)
        _check_prompt(self, "filter")


def _fields_of(prompt: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(prompt) if name is not None]


def _check_prompt(settings: WorkerSettings, role: Role) -> None:
    """Check that a template has fields of its role only.

    Raises:
        ValueError: A field is unknown, or the template contains no field.
    """
    if not settings.prompt:
        return
    try:
        named = _fields_of(settings.prompt)
    except ValueError as error:
        raise ValueError(f"prompt: {error}; write a brace that is no field twice") from None
    expected = ", ".join(f"{{{name}}}" for name in FIELDS[role])
    if unknown := [name for name in named if name not in FIELDS[role]]:
        raise ValueError(f"prompt: {{{unknown[0]}}} is unknown; a {role} has {expected}; write other braces twice")
    if not named:
        raise ValueError(f"prompt: contains none of {expected}, so all rows would get one answer")


def fill_in_command(settings: WorkerSettings) -> tuple[str, ...]:
    """Return the words of the command with which it is started."""
    words = {PYTHON: sys.executable}
    if isinstance(settings, TeacherSettings) and settings.model is not None:
        words[MODEL] = str(settings.model)
    return tuple(words.get(word, word) for word in settings.command)


def list_inputs(settings: WorkerSettings) -> dict[str, str]:
    """Return the digest of the model that a command runs, for fingerprints; {} if the settings name none.

    Raises:
        ModelError: There is no model.
    """
    if not isinstance(settings, TeacherSettings) or settings.model is None:
        return {}
    from seqkd.models.checkpoint import model_digest  # torch is not loaded for other workers

    return {"model": model_digest(settings.model)}


def identify_answers(role: Role, settings: WorkerSettings) -> dict[str, Any]:
    """Return the values that answers depend on, for the keys of cached answers."""
    return {"role": role, **identify(settings), **list_inputs(settings)}


def gives_texts_alone(settings: TeacherSettings) -> bool:
    """Whether the translations of a worker never have scores: the messages of a chat are texts."""
    return settings.form == "chat"


def identify(settings: WorkerSettings) -> dict[str, Any]:
    """Return the settings that answers depend on, for fingerprints. `list_inputs` returns the model of a command."""
    found: dict[str, Any] = {
        "name": settings.label,
        "version": settings.version,
        "form": settings.form,
        "prompt": settings.prompt,
        "options": settings.options,
    }
    if isinstance(settings, TeacherSettings):
        found["samples"] = settings.samples
    if isinstance(settings, ScorerSettings):
        found["reference"] = settings.reference
    return found


def check_worker(settings: WorkerSettings) -> None:
    """Check that a worker can be asked from here. The worker itself is not started and not asked.

    Raises:
        InputError: The command is not executable, the API key is not set, or a package is missing.
    """
    if settings.command:
        program = fill_in_command(settings)[0]
        if shutil.which(program) is None:
            raise InputError(
                "is not executable" if Path(program).exists() else "no such program",
                where=f"command {program!r}",
                expected="a program on the PATH, or the path of an executable file",
                hint="make the file executable (chmod +x), or name its interpreter first, as in "
                '["python", "worker.py"]',
            )
        return
    missing = [name for name in ("httpx2", "tenacity") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"the package {' and '.join(missing)} is not installed, which endpoints need",
            where=f"endpoint {settings.endpoint}",
            hint="install the extra: pip install 'seqkd[worker]'",
        )
    if settings.key and not os.environ.get(settings.key):
        raise InputError(
            f"the environment variable {settings.key} is not set, which `key` names",
            where=f"endpoint {settings.endpoint}",
            expected="the API key of the service in this variable",
            hint=f"export {settings.key}=... before the run; leave `key` out for a service without keys",
        )
