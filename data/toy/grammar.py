"""A bilingual grammar in which every source sentence has a known, finite set of valid translations.

A translation is a list of free choices: which synonym for each word, one of three word orders for the sentence, where
the time word stands, how two clauses are joined. Each choice binds other words, often far away: an article, an
adjective, a verb and a pronoun agree with the noun that was chosen; the sentence's first word fixes the form and the
place of every verb. A translation that mixes choices is therefore not in the set, and the share of a model's outputs
that are in it tells how well the model keeps to one mode.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import lexicon as lex

MOST_TRANSLATIONS = 480

PLAIN, VERB_LAST, OBJECT_FIRST = 0, 1, 2  # the word orders
_FORM = {PLAIN: "an", VERB_LAST: "ek", OBJECT_FIRST: "il"}  # the suffix of a verb, by word order
_RELATIVE_FORM = "un"

# The frequencies with which a writer of each style takes the first, second or third option. Most writers have the first
# style.
_FIRST_STYLE = 0.6
_STYLES = ({2: (0.75, 0.25), 3: (0.6, 0.25, 0.15)}, {2: (0.35, 0.65), 3: (0.2, 0.5, 0.3)})


@dataclass(frozen=True)
class NounPhrase:
    """A determiner, up to two adjectives and a noun, as source words."""

    determiner: str
    adjectives: tuple[str, ...]
    noun: str

    def words(self) -> list[str]:
        """The source words."""
        return [self.determiner, *self.adjectives, self.noun]


@dataclass(frozen=True)
class Relative:
    """The relative clause of the object of the main clause, `that SUBJECT VERB`."""

    subject: NounPhrase
    verb: str


@dataclass(frozen=True)
class Second:
    """A second clause, `CONJUNCTION they VERB OBJECT`. Without an object phrase the object is `it`."""

    conjunction: str
    verb: str
    object: NounPhrase | None


@dataclass(frozen=True)
class Sentence:
    """A source sentence: `[TIME] SUBJECT VERB OBJECT [that ...] [PREPOSITION PLACE] [CONJUNCTION they ...]`."""

    time: str | None
    subject: NounPhrase
    verb: str
    object: NounPhrase
    relative: Relative | None
    place: tuple[str, NounPhrase] | None
    second: Second | None


Choice = dict[str, int]


def render(sentence: Sentence) -> str:
    """The source text."""
    words = [sentence.time] if sentence.time else []
    words += [*sentence.subject.words(), sentence.verb, *sentence.object.words()]
    if sentence.relative:
        words += ["that", *sentence.relative.subject.words(), sentence.relative.verb]
    if sentence.place:
        words += [sentence.place[0], *sentence.place[1].words()]
    if sentence.second:
        words += [sentence.second.conjunction, "they", sentence.second.verb]
        words += sentence.second.object.words() if sentence.second.object else ["it"]
    return " ".join(words)


def options(sentence: Sentence) -> dict[str, int]:
    """The free choices that a translation makes, each with its number of options."""
    found = {"order": 3}
    if sentence.time:
        found["time"] = 2
    _phrase_options(found, "subject", sentence.subject)
    found["verb"] = len(lex.VERB_FORMS[sentence.verb])
    _phrase_options(found, "object", sentence.object)
    if sentence.relative:
        _phrase_options(found, "relative.subject", sentence.relative.subject)
        found["relative.verb"] = len(lex.VERB_FORMS[sentence.relative.verb])
    if sentence.place:
        found["preposition"] = len(lex.PREPOSITION_FORMS[sentence.place[0]])
        _phrase_options(found, "place", sentence.place[1])
    if sentence.second:
        found["joined"] = 2
        found["second.verb"] = len(lex.VERB_FORMS[sentence.second.verb])
        if sentence.second.object:
            _phrase_options(found, "second.object", sentence.second.object)
    return found


def _phrase_options(found: dict[str, int], name: str, phrase: NounPhrase) -> None:
    found[f"{name}.noun"] = len(lex.NOUNS[phrase.noun])
    for index, adjective in enumerate(phrase.adjectives):
        found[f"{name}.adjective{index}"] = len(lex.ADJECTIVE_FORMS[adjective])


def count(sentence: Sentence) -> int:
    """The number of valid translations."""
    total = 1
    for number in options(sentence).values():
        total *= number
    return total


def translate(sentence: Sentence, choice: Choice) -> str:
    """Return the translation that makes these choices."""
    order = choice["order"]
    subject, subject_gender = _phrase(sentence.subject, "subject", choice)
    target, object_gender = _phrase(sentence.object, "object", choice)
    verb = lex.VERB_FORMS[sentence.verb][choice["verb"]]
    if sentence.relative:
        target += _relative(sentence.relative, object_gender, choice)
    place: list[str] = []
    if sentence.place:
        place = [lex.PREPOSITION_FORMS[sentence.place[0]][choice["preposition"]]]
        place += _phrase(sentence.place[1], "place", choice)[0]
    time = [lex.TIME_FORMS[sentence.time]] if sentence.time else []
    early, late = (time, []) if choice.get("time") == 0 else ([], time)
    words = _clause(order, early, subject, subject_gender, verb, target, object_gender, [*place, *late])
    if order == VERB_LAST:
        words.insert(0, lex.OPENING)
    if sentence.second:
        strong = choice["joined"]
        words = [lex.BOTH] * strong + words + [lex.CONJUNCTION_FORMS[sentence.second.conjunction][strong]]
        words += _second(sentence.second, order, subject_gender, object_gender, choice)
    return " ".join(words)


def _second(second: Second, order: int, subject_gender: int, object_gender: int, choice: Choice) -> list[str]:
    verb = lex.VERB_FORMS[second.verb][choice["second.verb"]]
    if second.object:
        target, target_gender = _phrase(second.object, "second.object", choice)
    else:
        target, target_gender = [lex.OBJECT_PRONOUNS[object_gender]], object_gender
    pronoun = [lex.SUBJECT_PRONOUNS[subject_gender]]
    return _clause(order, [], pronoun, subject_gender, verb, target, target_gender, [])


def _clause(
    order: int,
    early: list[str],
    subject: list[str],
    subject_gender: int,
    verb: lex.Verb,
    target: list[str],
    target_gender: int,
    rest: list[str],
) -> list[str]:
    """Put the parts of a clause in order. The verb gets its form from the order and its ending from a noun."""
    target = [verb.marker, *target]
    stem = verb.stem + _FORM[order]
    if order == PLAIN:
        finite = [stem + lex.ENDINGS[subject_gender]]
        # A time word in front swaps the subject and the verb.
        front = [*finite, *subject] if early else [*subject, *finite]
        return [*early, *front, *target, *rest, verb.particle]
    if order == VERB_LAST:
        return [*early, *subject, *target, *rest, verb.particle + stem + lex.ENDINGS[subject_gender]]
    finite = [stem + lex.ENDINGS[target_gender], verb.particle]
    return [*early, *target, *finite, *subject, *rest, lex.CLOSINGS[subject_gender]]


def _relative(relative: Relative, gender: int, choice: Choice) -> list[str]:
    subject, _ = _phrase(relative.subject, "relative.subject", choice)
    verb = lex.VERB_FORMS[relative.verb][choice["relative.verb"]]
    return [lex.RELATIVES[gender], *subject, verb.particle + verb.stem + _RELATIVE_FORM + lex.ENDINGS[gender]]


def _phrase(phrase: NounPhrase, name: str, choice: Choice) -> tuple[list[str], int]:
    noun = lex.NOUNS[phrase.noun][choice[f"{name}.noun"]]
    before = [lex.ARTICLES[phrase.determiner][noun.gender]]
    after: list[str] = []
    for index, word in enumerate(phrase.adjectives):
        adjective = lex.ADJECTIVE_FORMS[word][choice[f"{name}.adjective{index}"]]
        (after if adjective.after else before).append(adjective.stem + lex.ENDINGS[noun.gender])
    return [*before, noun.word, *after], noun.gender


def translations(sentence: Sentence) -> Iterator[str]:
    """List all valid translations, at most `MOST_TRANSLATIONS` for a sentence of `sample_sentence`."""
    found = options(sentence)
    for picks in product(*(range(number) for number in found.values())):
        yield translate(sentence, dict(zip(found, picks, strict=True)))


def sample_translation(sentence: Sentence, rng: random.Random) -> str:
    """Sample a valid translation, as one writer would make it.

    The writer's style makes some options likelier in the whole sentence; beyond that each choice is drawn on its own.
    """
    style = _STYLES[0] if rng.random() < _FIRST_STYLE else _STYLES[1]
    choice = {}
    for name, number in options(sentence).items():
        choice[name] = 0 if number == 1 else _weighted(style[number], rng)
    return translate(sentence, choice)


def _weighted(weights: tuple[float, ...], rng: random.Random) -> int:
    left = rng.random()
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return len(weights) - 1


def sample_sentence(rng: random.Random) -> Sentence:
    """Sample a source sentence with at most `MOST_TRANSLATIONS` translations."""
    while True:
        sentence = Sentence(
            time=_pick(lex.TIMES, rng) if rng.random() < 0.5 else None,
            subject=_sample_phrase(lex.PERSONS, rng, 0.5),
            verb=_pick(lex.VERBS, rng),
            object=_sample_phrase(lex.THINGS, rng, 0.5),
            relative=Relative(_sample_phrase(lex.PERSONS, rng, 0.0), _pick(lex.VERBS, rng))
            if rng.random() < 0.3
            else None,
            place=(_pick(lex.PREPOSITIONS, rng), _sample_phrase(lex.PLACES, rng, 0.2)) if rng.random() < 0.4 else None,
            second=Second(
                _pick(lex.CONJUNCTIONS, rng),
                _pick(lex.VERBS, rng),
                _sample_phrase(lex.THINGS, rng, 0.2) if rng.random() < 0.4 else None,
            )
            if rng.random() < 0.3
            else None,
        )
        if count(sentence) <= MOST_TRANSLATIONS:
            return sentence


def _sample_phrase(nouns: list[str], rng: random.Random, adjective: float) -> NounPhrase:
    adjectives: list[str] = []
    while len(adjectives) < 2 and rng.random() < adjective:
        word = _pick(lex.ADJECTIVES, rng)
        if word not in adjectives:
            adjectives.append(word)
    return NounPhrase(_pick(lex.DETERMINERS, rng), tuple(adjectives), _pick(nouns, rng))


def _pick(words: list[str] | tuple[str, ...], rng: random.Random) -> str:
    return words[int(rng.random() * len(words))]


def parse(source: str) -> Sentence | None:
    """Parse a source text; None if it is not a sentence of the grammar."""
    reader = _Reader(source.split(" "))
    try:
        sentence = _parse_sentence(reader)
    except ValueError:
        return None
    return sentence if not reader.words else None


class _Reader:
    """Source words from left to right."""

    def __init__(self, words: list[str]) -> None:
        self.words = words[::-1]

    def take(self, allowed: list[str] | tuple[str, ...]) -> str:
        """Take the next word, which must be one of these."""
        word = self.take_if(allowed)
        if word is None:
            raise ValueError
        return word

    def take_if(self, allowed: list[str] | tuple[str, ...]) -> str | None:
        """Take the next word if it is one of these."""
        return self.words.pop() if self.words and self.words[-1] in allowed else None


def _parse_sentence(reader: _Reader) -> Sentence:
    time = reader.take_if(lex.TIMES)
    subject = _parse_phrase(reader, lex.PERSONS)
    verb = reader.take(lex.VERBS)
    target = _parse_phrase(reader, lex.THINGS)
    relative = None
    if reader.take_if(("that",)):
        relative = Relative(_parse_phrase(reader, lex.PERSONS), reader.take(lex.VERBS))
    preposition = reader.take_if(lex.PREPOSITIONS)
    place = (preposition, _parse_phrase(reader, lex.PLACES)) if preposition else None
    second = None
    conjunction = reader.take_if(lex.CONJUNCTIONS)
    if conjunction:
        reader.take(("they",))
        second_verb = reader.take(lex.VERBS)
        second_object = None if reader.take_if(("it",)) else _parse_phrase(reader, lex.THINGS)
        second = Second(conjunction, second_verb, second_object)
    return Sentence(time, subject, verb, target, relative, place, second)


def _parse_phrase(reader: _Reader, nouns: list[str]) -> NounPhrase:
    determiner = reader.take(lex.DETERMINERS)
    adjectives: list[str] = []
    while word := reader.take_if(lex.ADJECTIVES):
        adjectives.append(word)
    return NounPhrase(determiner, tuple(adjectives), reader.take(nouns))


def is_valid(source: str, target: str) -> bool:
    """Whether `target` is one of the valid translations of `source`."""
    sentence = parse(source)
    return sentence is not None and any(target == text for text in translations(sentence))
