"""Fingerprints: all settings and inputs on which an output depends, as plain values that can be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from seqkd.corpus.revisions import REVISIONS, name_earlier_revisions, recorded_revisions

_DIGEST = re.compile(r'^"[0-9a-f]{64}"$')
_ABSENT = "(absent)"
# Format 1 wrote the precision and the device that were used among the settings of these stages.
_RESOLVED = ("distill", "soft_targets", "evaluate")


def canonical_json(value: Any) -> bytes:
    """Serialise a JSON value so that equal values give equal bytes: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def build_fingerprint(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """Build the fingerprint of an output as manifests store it.

    Args:
        stage: The name of the stage.
        config: The settings as JSON values, without paths, which differ between machines that compute the same output.
        inputs: Digest of each input by its role, such as {"corpus": manifest.digest()}.

    Raises:
        TypeError: A value is not a JSON value, such as a Path.
        ValueError: A number is NaN or infinite.
    """
    values = {"stage": stage, "config": dict(config), "inputs": dict(inputs)}
    plain: dict[str, Any] = json.loads(canonical_json(values))  # tuples become lists, as they will when read again
    return plain


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The settings and inputs of a folder to be made, for comparison with the fingerprint of an existing folder.

    An option with its neutral value is left out of the fingerprint. An option that is added later therefore changes no
    fingerprint as long as it is not used. A fingerprint with neutral values, as format 1 wrote them, equals one
    without them.

    Attributes:
        stage: The name of the stage.
        settings: All settings of the stage as JSON values, as written in the stage file: `auto` stays `auto`.
        inputs: Digest of each input by its role.
        neutral: The neutral values of options by dotted name; see `seqkd.config.written.neutral`.
        worked: The device, precision, engine and batch size that this machine uses for the settings. They are no part
            of the fingerprint, but an unfinished folder is continued only if they are the same.
        revisions: The revisions of the results in the folder, by name; see `seqkd.corpus.revisions`.
        resumes: Whether the stage continues an unfinished folder. A stage that repeats all its work instead cannot mix
            results of two machines.
        formerly: Inputs for which earlier versions recorded a larger whole: by the role of the whole, the role that
            replaces it and the digest of the whole. A fingerprint that contains the whole is compared by its digest.
        optional: Inputs that an equal fingerprint may lack. If the fingerprint has one, it is compared.
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
        """Return the fingerprint for the manifest: the settings without neutral values, and the inputs."""
        return build_fingerprint(self.stage, _prune(dict(self.settings), "", _texts(self.neutral)), self.inputs)

    @property
    def extra(self) -> dict[str, Any]:
        """Return the facts about the machine and the revisions for a manifest's `extra` and a running stage's note."""
        return {**self.worked, **recorded_revisions(self.revisions)}

    def differences(self, kind: str, found_kind: str, found: Mapping[str, Any]) -> list[str]:
        """List the differences from the fingerprint `found`, one line each: `config.search.beam: 5 -> 4`.

        Args:
            kind: The kind of folder that the stage writes.
            found_kind: The kind of the existing folder.
            found: The fingerprint of the existing folder, in any format.
        """
        neutral = {f"config.{name}": text for name, text in _texts(self.neutral).items()}
        own = build_fingerprint(self.stage, self.settings, self._inputs_as_in(found))
        unused = {f"config.{name}" for name in self.unused}
        before = {**_flatten(self._as_written(found)), "kind": json.dumps(found_kind)}
        after = {**_flatten(own), "kind": json.dumps(kind)}
        lines = []
        for key in sorted((before.keys() | after.keys()) - unused):
            was, now = before.get(key, neutral.get(key, _ABSENT)), after.get(key, _ABSENT)
            if was != now:
                lines.append(f"{key}: {_short(was)} -> {_short(now)}")
        return lines

    def machine_differences(self, begun: Mapping[str, Any], noted: Mapping[str, Any]) -> list[str]:
        """List the differences between this machine and the machine that began an unfinished folder, one line each.

        Args:
            begun: The fingerprint with which the folder was begun.
            noted: The `extra` that was noted with the fingerprint; empty in format 1.
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

    def describe_outdated(self, extra: Mapping[str, Any]) -> str:
        """Name the earlier revisions by which a finished folder with this `extra` was made; "" if there are none."""
        return name_earlier_revisions(extra, self.revisions)

    def _inputs_as_in(self, found: Mapping[str, Any]) -> Mapping[str, str]:
        """Return the inputs that a fingerprint must hold, with the wholes that an earlier version recorded."""
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
        """Return the fingerprint with `auto` in place of the values into which a machine had resolved it."""
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
    """Yield the parts of a table, or of a list of tables, by name; nothing for a plain value."""
    if isinstance(value, Mapping):
        yield from ((str(key), item) for key, item in value.items())
    elif _tables(value):
        yield from ((str(index), item) for index, item in enumerate(value))


def _tables(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and any(isinstance(item, Mapping) for item in value)


def _outside(value: Any) -> str:
    """Return the text of a value. The text of a table or a list of tables leaves out its contents."""
    if isinstance(value, Mapping):
        return "{}"
    return json.dumps([{}] * len(value) if _tables(value) else value, ensure_ascii=False)


def _flatten(value: Any, prefix: str = "") -> dict[str, str]:
    flat = {prefix: _outside(value)} if prefix else {}
    for name, item in _inside(value):
        flat |= _flatten(item, f"{prefix}.{name}" if prefix else name)
    return flat


def _prune(value: Any, prefix: str, neutral: Mapping[str, str]) -> Any:
    """Return `value` without its neutral parts. A table stays if it does not exist by default."""
    if _tables(value):
        return [_prune(item, f"{prefix}{index}.", neutral) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    left = {name: _prune(item, f"{prefix}{name}.", neutral) for name, item in value.items()}
    return {
        name: item
        for name, item in left.items()
        if neutral.get(f"{prefix}{name}") != _outside(value[name]) or (isinstance(value[name], Mapping) and item)
    }
