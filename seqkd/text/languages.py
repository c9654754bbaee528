"""Which languages put no blanks between words, from a language's code or from the text itself."""

from __future__ import annotations

import re
from collections.abc import Iterable

LANGUAGE = r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*$"  # codes such as zh, pt-BR, zh_Hant and zho_Hans

# Chinese languages, Japanese, Thai, Lao, Khmer, Burmese, Shan, Tibetan and Dzongkha, in ISO 639-1, -2 and -3.
_LANGUAGES = re.compile(
    "zh|zho|chi|cmn|yue|wuu|nan|hak|gan|lzh|ja|jpn|th|tha|lo|lao|km|khm|my|mya|bur|shn|bo|bod|tib|dz|dzo"
)
_SCRIPTS = re.compile("hans|hant|hani|jpan|hira|kana|hrkt|thai|laoo|khmr|mymr|tibt")
_MISTAKEN = {"cn": "zh", "jp": "ja"}  # codes of countries that are no language's

# Thai, Lao, Tibetan, Myanmar (with Shan and its extensions), Khmer, kana, bopomofo and Han.
_WITHOUT_BLANKS = (
    "\u0e01-\u0e5b\u0e81-\u0edf\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\ua9e0-\ua9fe\uaa60-\uaa7f"
    "\u3005-\u3007\u3041-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff\uff66-\uff9d"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
_CHARACTER = re.compile(f"[{_WITHOUT_BLANKS}]")
# A run of letters with blanks around it, or one character of a script without, with its marks and punctuation.
_WORD = re.compile(f"[{_WITHOUT_BLANKS}]|[^\\s{_WITHOUT_BLANKS}]+")


def base(language: str) -> str:
    """A code's first part in lower case: `zh` of `zh-TW`."""
    return re.split("[-_]", language, maxsplit=1)[0].lower()


def mistaken(language: str) -> str:
    """The code that somebody means who writes a country's in its place; "" for any other."""
    return _MISTAKEN.get(base(language), "")


def has_blanks(language: str) -> bool:
    """Whether a language puts blanks between words; a script that the code names (`zh-Latn`) decides."""
    scripts = [part.lower() for part in re.split("[-_]", language)[1:] if len(part) == 4 and part.isalpha()]
    named = _SCRIPTS.fullmatch(scripts[0]) if scripts else _LANGUAGES.fullmatch(base(language))
    return named is None


def looks_blankless(texts: Iterable[str]) -> bool:
    """Whether more than half of the letters are of scripts that put no blanks between words."""
    without = letters = 0
    for text in texts:
        here = len(_CHARACTER.findall(text))
        without += here
        letters += here + sum(map(str.isalpha, _CHARACTER.sub("", text))) if here else sum(map(str.isalpha, text))
    return without > letters / 2


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where words begin and end; in scripts that put no blanks between words each character is one."""
    return [found.span() for found in _WORD.finditer(text)]
