"""Recognition of languages without blanks between words, from a language code or from the text itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

LANGUAGE = r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*$"  # codes such as zh, pt-BR, zh_Hant and zho_Hans

# Chinese languages, Japanese, Thai, Lao, Khmer, Burmese, Shan, Tibetan and Dzongkha, in ISO 639-1, -2 and -3.
_LANGUAGES = re.compile(
    "zh|zho|chi|cmn|yue|wuu|nan|hak|gan|lzh|ja|jpn|th|tha|lo|lao|km|khm|my|mya|bur|shn|bo|bod|tib|dz|dzo"
)
_SCRIPTS = re.compile("hans|hant|hani|jpan|hira|kana|hrkt|thai|laoo|khmr|mymr|tibt")
_MISTAKEN = {"cn": "zh", "jp": "ja"}  # country codes that are not language codes

# Thai, Lao, Tibetan, Myanmar (with Shan and its extensions), Khmer, kana, bopomofo and Han.
_WITHOUT_BLANKS = (
    "\u0e01-\u0e5b\u0e81-\u0edf\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9fe\uaa60-\uaa7f"
    "\u3005-\u3007\u3041-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9d"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
_CHARACTER = re.compile(f"[{_WITHOUT_BLANKS}]")
# A run of letters between blanks, or one character of a script without blanks, with its marks and punctuation.
_WORD = re.compile(f"[{_WITHOUT_BLANKS}]|[^\\s{_WITHOUT_BLANKS}]+")


def base_language(language: str) -> str:
    """Return the first part of a language code in lower case: `zh` for `zh-TW`."""
    return re.split("[-_]", language, maxsplit=1)[0].lower()


def suggest_language(language: str) -> str:
    """Return the language code that is meant by a country code such as `jp`; "" for any other code."""
    return _MISTAKEN.get(base_language(language), "")


def has_blanks(language: str) -> bool:
    """Whether a language puts blanks between words. If the code names a script (`zh-Latn`), the script decides."""
    scripts = [part.lower() for part in re.split("[-_]", language)[1:] if len(part) == 4 and part.isalpha()]
    named = _SCRIPTS.fullmatch(scripts[0]) if scripts else _LANGUAGES.fullmatch(base_language(language))
    return named is None


def looks_blankless(texts: Iterable[str]) -> bool:
    """Whether more than half of the letters belong to scripts without blanks between words."""
    without = letters = 0
    for text in texts:
        here = len(_CHARACTER.findall(text))
        without += here
        letters += here + sum(map(str.isalpha, _CHARACTER.sub("", text))) if here else sum(map(str.isalpha, text))
    return without > letters / 2


def word_spans(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each word. In scripts without blanks each character is a word."""
    return [found.span() for found in _WORD.finditer(text)]
