"""The words of the toy languages: simple English on the source side, an invented language on the target side.

Every noun, verb and adjective has one to three translations. The translations of one noun differ in gender, those of
one verb in the particle and object marker that they ask for, so that a word chosen early binds words far from it.
"""

from __future__ import annotations

from typing import NamedTuple

GENDERS = 3


def _words(text: str) -> list[str]:
    return text.split()


PERSONS = _words(
    "farmer baker teacher doctor sailor painter singer judge child neighbour king queen "
    "soldier hunter miller tailor student driver nurse thief poet monk dancer clerk"
)
THINGS = _words(
    "house horse apple book lamp boat knife letter coat ring chair bread garden bell hat cart door dog "
    "cat song picture key stone flower basket clock drum mirror shoe table window rope cup map flag wheel"
)
PLACES = _words("river forest market bridge church harbour hill school tower mill castle road field shore square inn")
VERBS = _words(
    "sees buys sells paints finds takes likes hides carries mends brings wants "
    "keeps breaks shows cleans draws loses seeks praises steals forgets lifts guards"
)
ADJECTIVES = _words(
    "old young red green small large happy sad poor rich quiet heavy "
    "new strange clever broken dark bright cold warm tall round soft proud"
)
DETERMINERS = ("the", "a", "this", "every")
PREPOSITIONS = ("near", "behind", "in", "before", "beside", "above")
TIMES = _words("today often sometimes always now soon daily tonight usually again")
CONJUNCTIONS = ("and", "but", "because")

_ARTICLES = (("lo", "la", "li"), ("uno", "una", "uni"), ("sto", "sta", "sti"), ("omno", "omna", "omni"))
ENDINGS = ("o", "a", "i")  # endings of adjectives and verbs, by gender
RELATIVES = ("quo", "qua", "qui")  # relative pronouns, by the gender of their noun
SUBJECT_PRONOUNS = ("lom", "lam", "lim")
OBJECT_PRONOUNS = ("ton", "tan", "tin")
CLOSINGS = ("do", "da", "di")  # words that end a clause that begins with its object, by the gender of the subject
OPENING = "ke"  # the word that begins a sentence whose verbs come last
BOTH = "tan-ke"  # the word that begins a sentence whose two clauses have a strong conjunction
MARKERS = ("es", "ut")  # words before an object; each verb requires one
PARTICLES = ("sor", "vit", "nul", "pek")  # words of which each verb has one
_SIMPLE = ("et", "med", "por")
_STRONG = ("etan", "medan", "poran")  # the conjunctions after BOTH


class Noun(NamedTuple):
    """A target noun and its gender, 0 to 2."""

    word: str
    gender: int


class Verb(NamedTuple):
    """A target verb's stem, its particle and the marker of its object."""

    stem: str
    particle: str
    marker: str


class Adjective(NamedTuple):
    """A target adjective's stem, and whether it stands after its noun."""

    stem: str
    after: bool


_ONSETS = _words("p b t d k g m n f v s z r l h")
_VOWELS = _words("a e i o u")
_CODAS = _words("n r l s t m")
_STEMS = len(_ONSETS) * len(_VOWELS) * len(_ONSETS) * len(_VOWELS) * len(_CODAS)
_STRIDE = 7919  # shares no factor with _STEMS: the walk meets every stem once, in scattered order


def _stem(number: int) -> str:
    rest = (number + 1) * _STRIDE % _STEMS
    letters = []
    for table in (_CODAS, _VOWELS, _ONSETS, _VOWELS, _ONSETS):
        rest, index = divmod(rest, len(table))
        letters.append(table[index])
    return "".join(reversed(letters))


def _nouns(words: list[str], first: int) -> dict[str, tuple[Noun, ...]]:
    return {
        word: tuple(
            Noun(_stem(first + 3 * index + synonym), (index * 7 // 4 + synonym) % GENDERS)
            for synonym in range((2, 3, 2, 1)[index % 4])
        )
        for index, word in enumerate(words)
    }


NOUNS = _nouns([*PERSONS, *THINGS, *PLACES], 0)

VERB_FORMS = {
    word: tuple(
        Verb(_stem(400 + 3 * index + synonym), PARTICLES[(index + synonym) % 4], MARKERS[(index // 4 + synonym) % 2])
        for synonym in range((2, 1, 3, 2)[index % 4])
    )
    for index, word in enumerate(VERBS)
}

ADJECTIVE_FORMS = {
    word: tuple(
        Adjective(_stem(600 + 2 * index + synonym), after=(index + synonym) % 2 == 1)
        for synonym in range((1, 2)[index % 2])
    )
    for index, word in enumerate(ADJECTIVES)
}

ARTICLES = dict(zip(DETERMINERS, _ARTICLES, strict=True))
PREPOSITION_FORMS = {
    word: tuple(_stem(700 + 2 * index + synonym)[:3] for synonym in range((1, 2)[index % 2]))
    for index, word in enumerate(PREPOSITIONS)
}
TIME_FORMS = {word: _stem(750 + index) for index, word in enumerate(TIMES)}
CONJUNCTION_FORMS = {word: (_SIMPLE[index], _STRONG[index]) for index, word in enumerate(CONJUNCTIONS)}

# Further target languages spell every word with other vowels and consonants. Each word has a vowel, so no word of one
# language is a word of another, except those that all languages share.
_ACCENTED = ("aeiou", "áéíóú", "äëïöü")
_CONSONANTS = "pbtdkgmnfvszrlhq"
_TURN = 5
MOST_LEXICONS = len(_ACCENTED)
SHARED = frozenset(TIME_FORMS[word] for word in TIMES[: len(TIMES) // 2])


def _spelling(number: int) -> dict[int, str]:
    turned = _CONSONANTS[_TURN * number :] + _CONSONANTS[: _TURN * number]
    return str.maketrans(_ACCENTED[0] + _CONSONANTS, _ACCENTED[number] + turned)


_SPELLINGS = [_spelling(number) for number in range(MOST_LEXICONS)]


def respell(text: str, number: int) -> str:
    """Write a target text in the words of another language; `number` counts the languages from 0, the first one."""
    return " ".join(word if word in SHARED else word.translate(_SPELLINGS[number]) for word in text.split(" "))
