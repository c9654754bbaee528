"""The installed transformers (the extra `hf`). Importing this module without transformers is an error."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from seqkd.errors import ModelError


def _replace_broken(name: str) -> None:
    """Put an empty module in the place of an installed package that cannot be imported.

    transformers imports torchaudio with any model if it is installed. A build of torchaudio for another build of torch
    cannot be loaded, and no model of text needs it.
    """
    if name in sys.modules or importlib.util.find_spec(name) is None:
        return
    try:
        importlib.import_module(name)
    except Exception:  # the class of the error depends on what is missing
        empty = ModuleType(name)
        empty.__spec__ = ModuleSpec(name, None)
        sys.modules[name] = empty


_replace_broken("torchaudio")
try:
    import transformers
except ImportError as error:
    raise ModelError(
        f"this needs transformers, which cannot be imported: {error}", hint='pip install "seqkd[hf]"'
    ) from None

__all__ = ["transformers"]
