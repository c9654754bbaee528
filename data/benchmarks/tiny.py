"""Made English and German rows that take the place of a benchmark's text where a run only has to work."""

from __future__ import annotations

import random
from collections.abc import Iterator

# English and German; a noun with its articles as subject and as object.
NOUNS = (
    ("dog", "der Hund", "den Hund"),
    ("cat", "die Katze", "die Katze"),
    ("child", "das Kind", "das Kind"),
    ("teacher", "der Lehrer", "den Lehrer"),
    ("farmer", "der Bauer", "den Bauern"),
    ("horse", "das Pferd", "das Pferd"),
    ("nurse", "die Pflegerin", "die Pflegerin"),
    ("bird", "der Vogel", "den Vogel"),
    ("painter", "die Malerin", "die Malerin"),
    ("minister", "der Minister", "den Minister"),
    ("judge", "die Richterin", "die Richterin"),
    ("company", "das Unternehmen", "das Unternehmen"),
    ("committee", "der Ausschuss", "den Ausschuss"),
    ("member state", "der Mitgliedstaat", "den Mitgliedstaat"),
    ("government", "die Regierung", "die Regierung"),
    ("neighbour", "der Nachbar", "den Nachbarn"),
    ("student", "die Studentin", "die Studentin"),
    ("physician", "der Arzt", "den Arzt"),
    ("journalist", "die Journalistin", "die Journalistin"),
    ("parliament", "das Parlament", "das Parlament"),
    ("customer", "der Kunde", "den Kunden"),
    ("council", "der Rat", "den Rat"),
    ("citizen", "die Bürgerin", "die Bürgerin"),
    ("president", "der Präsident", "den Präsidenten"),
)
VERBS = (
    ("sees", "sieht"),
    ("follows", "verfolgt"),
    ("knows", "kennt"),
    ("hears", "hört"),
    ("misses", "vermisst"),
    ("paints", "malt"),
    ("supports", "unterstützt"),
    ("welcomes", "begrüßt"),
    ("questions", "befragt"),
    ("reminds", "erinnert"),
    ("congratulates", "beglückwünscht"),
    ("visits", "besucht"),
    ("protects", "schützt"),
    ("replaces", "ersetzt"),
)
TIMES = (
    ("", ""),
    ("today ", "heute "),
    ("tomorrow ", "morgen "),
    ("in the evening ", "am Abend "),
    ("in winter ", "im Winter "),
    ("two years later ", "zwei Jahre später "),
    ("every Thursday ", "jeden Donnerstag "),
    ("after the debate ", "nach der Aussprache "),
)
PLACES = (
    ("", ""),
    (" in the garden", " im Garten"),
    (" behind the house", " hinter dem Haus"),
    (" at the market", " auf dem Markt"),
    (" near the old bridge", " bei der alten Brücke"),
    (" in front of the town hall", " vor dem Rathaus"),
    (" on the way to work", " auf dem Weg zur Arbeit"),
    (" with great pleasure", " mit großer Freude"),
    (" without any reason", " ohne jeden Grund"),
)


def pairs(count: int) -> Iterator[tuple[str, str]]:
    """`count` different rows, English and German, in an order that looks random and is always the same."""
    sizes = (len(NOUNS), len(VERBS), len(NOUNS), len(TIMES), len(PLACES))
    total = 1
    for size in sizes:
        total *= size
    for number in random.Random(1).sample(range(total), count):
        places, rest = [], number
        for size in sizes:
            rest, place = divmod(rest, size)
            places.append(place)
        yield _pair(*places)


def _pair(subject: int, verb: int, thing: int, time: int, place: int) -> tuple[str, str]:
    who, wer, _ = NOUNS[subject]
    whom, _, wen = NOUNS[thing]
    english = f"{TIMES[time][0]}the {who} {VERBS[verb][0]} the {whom}{PLACES[place][0]}."
    # A German sentence has its verb in the second place.
    order = f"{VERBS[verb][1]} {wer}" if TIMES[time][1] else f"{wer} {VERBS[verb][1]}"
    german = f"{TIMES[time][1]}{order} {wen}{PLACES[place][1]}."
    return _capital(english), _capital(german)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
