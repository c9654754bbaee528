"""Fingerprints: everything that makes an output what it is, as plain values that can be compared."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_DIGEST = re.compile(r'^"[0-9a-f]{64}"$')


def canonical(value: Any) -> bytes:
    """One spelling for equal JSON values: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    """What makes an output what it is. Stages compare fingerprints to tell whether there is work to do.

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


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Where two fingerprints differ, a line each: `config.search.beam: 5 -> 4`."""
    before, after = _flat(old), _flat(new)
    absent = "(absent)"
    lines = []
    for key in sorted(before.keys() | after.keys()):
        was, now = before.get(key, absent), after.get(key, absent)
        if was != now:
            lines.append(f"{key}: {_short(was)} -> {_short(now)}")
    return lines


def _short(text: str) -> str:
    return f"{text[1:13]}..." if _DIGEST.match(text) else text


def _flat(value: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {prefix: json.dumps(value, ensure_ascii=False)}
    if not items:
        return {prefix: "(empty)"} if prefix else {}
    flat: dict[str, str] = {}
    for key, item in items:
        flat.update(_flat(item, f"{prefix}.{key}" if prefix else key))
    return flat
