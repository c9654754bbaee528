"""Hugging Face model folders as a format of `seqkd import`. torch is imported only when a folder is read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from seqkd.errors import ModelError
from seqkd.interop.formats import ImportReport

CONFIG = "config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
MODEL_TYPE = "model_type"  # the key of config.json that a configuration of seqkd does not have
CODE = "auto_map"  # the key of a configuration that names Python code in the folder


@dataclass(frozen=True, slots=True, kw_only=True)
class HuggingfaceFiles:
    """The languages of a model that translates between several, and the revision of a model on the hub."""

    source_language: Annotated[
        str | None, Field(description="the source language, as the tokenizer names it: eng_Latn, en_XX, en")
    ] = None
    target_language: Annotated[
        str | None, Field(description="the target language, as the tokenizer names it: deu_Latn, de_DE, de, deu")
    ] = None
    revision: Annotated[str | None, Field(description="the revision of a model on the hub; by default its newest")] = (
        None
    )


def sniff(path: Path) -> bool:
    """Whether a folder has a configuration of a Hugging Face model."""
    try:
        values = json.loads((path / CONFIG).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and isinstance(values.get(MODEL_TYPE), str)


def read(path: Path, out: Path, settings: HuggingfaceFiles, *, overwrite: bool) -> ImportReport:
    """Convert a folder, or a model on the hub, to a model folder; see `import_model`."""
    from seqkd.interop.huggingface import import_model

    return import_model(path, out, settings, overwrite=overwrite)


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Read a file of a Hugging Face folder that holds a JSON object.

    Args:
        path: The file.
        optional: Whether the file may be missing, which gives an empty object.

    Raises:
        ModelError: The file is missing, is no JSON object, or names code that would have to run.
    """
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        if optional:
            return {}
        raise ModelError(
            "no such file", where=str(path), expected="a Hugging Face model folder", hint="check the path"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot be read: {error}", where=str(path), hint="download or copy the file again") from None
    if not isinstance(values, dict):
        raise ModelError("is not a JSON object", where=str(path), hint="download or copy the file again")
    if values.get(CODE):
        raise ModelError(
            f"the model needs Python code of its own ({CODE}), which seqkd does not run",
            where=str(path),
            expected="an architecture of transformers itself",
            hint="run the model in an environment of its own, as a command that answers with translations",
        )
    return values
