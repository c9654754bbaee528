"""Fingerprints: everything that makes an output what it is, as plain values that can be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from seqkd.corpus.revisions import REVISIONS, earlier, marks

_DIGEST = re.compile(r'^"[0-9a-f]{64}"$')
_ABSENT = "(absent)"
# Format 1 wrote the precision and the device that had worked among the settings of these stages.
_RESOLVED = ("distill", "soft_targets", "evaluate")


def canonical(value: Any) -> bytes:
    """One spelling for equal JSON values: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """What makes an output what it is, as manifests hold it.

    Args:
        stage: The stage's name.
        config: Its settings as JSON values; no paths, which differ between machines that compute the same thing.
        inputs: Digest of each input by its role, e.g. {"corpus": manifest.digest()}.

    Raises:
        TypeError: A value is not JSON, e.g. a Path.
        ValueError: A number is NaN or infinite.
    """
    values = {"stage": stage, "config": dict(config), "inputs": dict(inputs)}
    plain: dict[str, Any] = json.loads(canonical(values))  # tuples become lists, as they will when read again
    return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """What a stage makes a folder from, compared with the fingerprint of what lies there.

    An option that has its neutral value is left out of the fingerprint, so an option that is added later changes no
    fingerprint as long as it is not used. A fingerprint that holds neutral values, as format 1 wrote them, is equal to
    one that does not.

    Attributes:
        stage: The stage's name.
        settings: All its settings as JSON values, as they are written in the stage file: `auto` stays `auto`.
        inputs: Digest of each input by its role.
        neutral: By dotted name, the values of options that leave no mark; see `seqkd.config.written.neutral`.
        worked: What this machine makes of the settings: device, precision, engine, tokens in a batch. It has no part
            in the fingerprint; an unfinished folder is continued only if it is the same.
        revisions: The revisions of the results that the folder holds, by name; see `seqkd.corpus.revisions`.
        resumes: Whether the stage continues an unfinished folder. A stage that does all its work again instead cannot
            mix what two machines made.
        formerly: Inputs of which earlier versions recorded a larger whole: by the role of the whole, the role that
            replaces it and the digest of the whole. A fingerprint that holds the whole is compared by it.
        optional: Inputs that a fingerprint need not hold to be equal; one that it holds is compared.
        unused: Dotted names of settings that earlier versions recorded although the output does not depend on them.
    """

    stage: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, str]
    neutral: Mapping[str, Any] = field(default_factory=dict)
    worked: Mapping[str, Any] = field(default_factory=dict)
    revisions: Mapping[str, int] = field(default_factory=dict)
    resumes: bool = True
    formerly: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    optional: Collection[str] = ()
    unused: Collection[str] = ()

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What the manifest holds: the settings without neutral values, and the inputs."""
        return fingerprint(self.stage, _pruned(dict(self.settings), "", _texts(self.neutral)), self.inputs)

    @property
    def extra(self) -> dict[str, Any]:
        """What the manifest's `extra` and the note of a stage under way record of the machine and the revisions."""
        return {**self.worked, **marks(self.revisions)}

    def differences(self, kind: str, found_kind: str, found: Mapping[str, Any]) -> list[str]:
        """Name the differences from the fingerprint `found`, a line each: `config.search.beam: 5 -> 4`.

        Args:
            kind: The kind of folder that the stage writes.
            found_kind: The kind of folder that is there.
            found: Its fingerprint, in whatever format it was written.
        """
        neutral = {f"config.{name}": text for name, text in _texts(self.neutral).items()}
        own = fingerprint(self.stage, self.settings, self._inputs_as_in(found))
        unused = {f"config.{name}" for name in self.unused}
        before = {**_flat(self._as_written(found)), "kind": json.dumps(found_kind)}
        after = {**_flat(own), "kind": json.dumps(kind)}
        lines = []
        for key in sorted((before.keys() | after.keys()) - unused):
            was, now = before.get(key, neutral.get(key, _ABSENT)), after.get(key, _ABSENT)
            if was != now:
                lines.append(f"{key}: {_short(was)} -> {_short(now)}")
        return lines

    def at_work(self, begun: Mapping[str, Any], noted: Mapping[str, Any]) -> list[str]:
        """Name the differences between the machine that began an unfinished folder and this one, a line each.

        Args:
            begun: The fingerprint that it was begun with.
            noted: The `extra` that was noted beside it; empty in format 1.
        """
        if not self.resumes:
            return []
        config = begun.get("config", {})
        resolved = {name: config[name] for name in ("precision", "device") if self._resolved(begun)}
        old = {**resolved, **noted}
        lines = [
            f"{name}: {old[name]} -> {value}" for name, value in self.worked.items() if old.get(name, value) != value
        ]
        before = old.get(REVISIONS, {})
        lines += [
            f"revision of {name}: {before.get(name, 1)} -> {number}"
            for name, number in self.revisions.items()
            if before.get(name, 1) != number
        ]
        return lines

    def outdated(self, extra: Mapping[str, Any]) -> str:
        """In words, which revisions a finished folder with this `extra` was made by if they are earlier ones; or ""."""
        return earlier(extra, self.revisions)

    def _inputs_as_in(self, found: Mapping[str, Any]) -> Mapping[str, str]:
        """The inputs as far as a fingerprint must hold them, with the wholes that an earlier version recorded."""
        held, inputs = found.get("inputs"), dict(self.inputs)
        for role in self.optional:
            if not isinstance(held, Mapping) or role not in held:
                inputs.pop(role, None)
        for whole, (part, digest) in self.formerly.items():
            if isinstance(held, Mapping) and whole in held:
                del inputs[part]
                inputs[whole] = digest
        return inputs

    def _resolved(self, found: Mapping[str, Any]) -> bool:
        config = found.get("config")
        return found.get("stage") in _RESOLVED and isinstance(config, Mapping) and {"device", "precision"} <= {*config}

    def _as_written(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fingerprint without what a machine had made of `auto`, which nobody wrote in a stage file."""
        if not self._resolved(found):
            return found
        config = {name: value for name, value in found["config"].items() if name != "device"}
        own = self.settings.get("precision")
        if own == "auto" or config["precision"] in (own, self.worked.get("precision")):
            config["precision"] = own
        return {**found, "config": config}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}


def _short(text: str) -> str:
    return f"{text[1:13]}..." if _DIGEST.match(text) else text


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a table, or of a list of tables, by name; nothing for a plain value."""
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif _tables(value):
        yield from ((str(index), item) for index, item in enumerate(value))


def _tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value)


def _outside(value: Any) -> str:
    """A value's own text: of a table or a list of tables, without what is in it."""
    if isinstance(value, Mapping):
        return "{}"
    return json.dumps([{}] * len(value) if _tables(value) else value, ensure_ascii=False)


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    flat = {prefix: _outside(value)} if prefix else {}
    for name, item in _inside(value):
        flat |= _flat(item, f"{prefix}.{name}" if prefix else name)
    return flat


def _pruned(value: Any, prefix: str, neutral: Mapping[str, str]) -> Any:
    """`value` without the parts that are neutral; a table stays if it is not there by default."""
    if _tables(value):
        return [_pruned(item, f"{prefix}{index}.", neutral) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    left = {name: _pruned(item, f"{prefix}{name}.", neutral) for name, item in value.items()}
    return {
        name: item
        for name, item in left.items()
        if neutral.get(f"{prefix}{name}") != _outside(value[name]) or (isinstance(value[name], Mapping) and item)
    }
