"""The library CTranslate2 (the extra `ctranslate2`). Importing this module without it is an error."""

from __future__ import annotations

from seqkd.errors import ModelError

try:
    import ctranslate2
    from ctranslate2.specs import Activation, TransformerSpec
except ImportError as error:
    raise ModelError(
        f"this needs CTranslate2, which cannot be imported: {error}", hint='pip install "seqkd[ctranslate2]"'
    ) from None

__all__ = ["Activation", "TransformerSpec", "ctranslate2"]
