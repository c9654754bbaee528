"""CTranslate2's model folders as a format of `seqkd export`, and the names of their files.

The library is imported only when a folder is written.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from seqkd.errors import ModelError

MODEL = "model.bin"
CONFIG = "config.json"
SOURCE_SENTENCEPIECE, TARGET_SENTENCEPIECE = "source.spm", "target.spm"

Quantization = Literal["float32", "float16", "int8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CTranslate2Export:
    """The settings of an export."""

    quantization: Annotated[Quantization, Field(description="the type in which weights are stored")] = "float32"


def sniff(path: Path) -> bool:
    """Whether a folder contains a model of CTranslate2."""
    return path.is_dir() and (path / MODEL).is_file() and (path / CONFIG).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """Read the configuration of a model folder of CTranslate2.

    Raises:
        ModelError: The folder does not exist, lacks a file, or has a configuration that cannot be read.
    """
    expected = f"a model folder of CTranslate2 with {MODEL} and {CONFIG}"
    hint = "check the path; the converters of CTranslate2 and `seqkd export ctranslate2` write such folders"
    if not folder.is_dir():
        raise ModelError("no such folder", where=str(folder), expected=expected, hint=hint)
    if missing := [name for name in (MODEL, CONFIG) if not (folder / name).is_file()]:
        raise ModelError(f"{' and '.join(missing)}: no such file", where=str(folder), expected=expected, hint=hint)
    path = folder / CONFIG
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"cannot be read: {error}", where=str(path), expected=expected, hint=hint) from None
    if not isinstance(values, dict):
        raise ModelError("is not a table", where=str(path), expected=expected, hint=hint)
    return values


def write(model_dir: Path, out: Path, settings: CTranslate2Export, *, overwrite: bool) -> None:
    """Write a model folder for CTranslate2; see `export_model`."""
    from seqkd.interop.ctranslate2_export import export_model

    export_model(model_dir, out, quantization=settings.quantization, overwrite=overwrite)
