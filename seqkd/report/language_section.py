"""The section of the page on the languages of texts."""

from __future__ import annotations

from collections.abc import Sequence

from seqkd.report.language_plots import MOST_PANELS, plot_profile, plot_sentences
from seqkd.report.languages import LanguageEntry
from seqkd.report.plots import pick_colour
from seqkd.report.tables import Cell, Head, Table, format_number, make_table

_NOTES = {
    "language": "language",
    "test language": "language, test text",
    "corpus": "corpus",
    "model": "model",
}


def show_languages(entries: Sequence[LanguageEntry]) -> dict[str, object] | None:
    """Return table, legend and plots of the languages of texts."""
    drawn = [entry for entry in entries if entry.kind in ("corpus", "model")]
    if not drawn:
        return None
    left_out = f" Texts after the first {MOST_PANELS} are left out." if len(drawn) > MOST_PANELS else ""
    return {
        "table": make_languages_table(entries),
        "legend": [(entry.name, pick_colour(index)) for index, entry in enumerate(drawn)],
        "sentences": (
            "Sentences between the languages",
            plot_sentences(drawn),
            "p(language | sentence) of some sentences of each text. A sentence in one language lies near its corner or "
            f"end, and a sentence that mixes languages lies between them.{left_out}",
        ),
        "profiles": [
            (
                "Own language, by position",
                plot_profile(drawn, what="majority"),
                "The mean probability that a word is in the likeliest language of its sentence, by the relative "
                "position of the word.",
            ),
            (
                "Entropy of words, by position",
                plot_profile(drawn, what="entropy"),
                "The mean entropy of p(language | word), by the relative position of the word.",
            ),
        ],
    }


def make_languages_table(entries: Sequence[LanguageEntry]) -> Table:
    """Make the table of the languages of texts."""
    mixes = [entry.mix for entry in entries]
    colours = _list_series(entries)
    return make_table(
        [
            (
                Head(name="Text", number=False),
                [Cell(text=e.name, sort=e.name, series=colours.get(id(e), ""), note=_NOTES[e.kind]) for e in entries],
            ),
            (Head(name="Pure", unit="% of sentences"), [format_number(100.0 * mix.purity, 1) for mix in mixes]),
            (Head(name="Entropy", unit="nats, of a sentence"), [format_number(mix.entropy, 3) for mix in mixes]),
            (Head(name="Switches", unit="% of neighbours"), [format_number(100.0 * mix.switches, 1) for mix in mixes]),
            *(
                (Head(name=name, unit="%"), [format_number(100.0 * mix.shares[name], 1) for mix in mixes])
                for name in (mixes[0].shares if mixes else ())
            ),
            (Head(name="Unknown", unit="% of words"), [format_number(100.0 * mix.unknown, 1) for mix in mixes]),
            (Head(name="Sentences"), [format_number(mix.sentences, 0) for mix in mixes]),
            (Head(name="Empty", unit="sentences"), [format_number(mix.empty, 0) for mix in mixes]),
        ]
    )


def _list_series(entries: Sequence[LanguageEntry]) -> dict[int, str]:
    """Return the colours of corpora and models, by the identity of the entry. Ceilings have none."""
    drawn = [entry for entry in entries if entry.kind in ("corpus", "model")]
    return {id(entry): pick_colour(index) for index, entry in enumerate(drawn)}
