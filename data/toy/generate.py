"""Write the toy corpus: `python data/toy/generate.py --out DIR [--rows N] [--monolingual M] [--lexicons L] [--seed S]`.

Files: train.src/.tgt (N rows), valid.src/.tgt and test.src/.tgt (500 rows each), test.accepted.jsonl, where each
line is the JSON list of all valid translations of that test row, and with M above 0 mono.tgt: M sentences of the target
language alone. No source sentence occurs twice anywhere, those that mono.tgt translates among them. The same arguments
give the same bytes; the number of training rows does not change the validation and test rows. With `--unsegmented` the
targets are written in Chinese characters without blanks.

With `--lexicons L` each source sentence has a translation into each of L languages, in train.tgt1 to train.tgtL and so
on. The languages have one grammar and different words, apart from a few that all of them share. The translations of a
sentence are drawn independently; the accepted ones are those of all languages.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from grammar import Sentence, render, sample_sentence, sample_translation, translations
from lexicon import MOST_LEXICONS, respell

HELD_OUT_ROWS = 500  # rows of the validation text, and of the test text
_FIRST_CHARACTER = 0x4E00


def generate(
    out: Path, rows: int, seed: int, monolingual: int = 0, *, unsegmented: bool = False, lexicons: int = 1
) -> None:
    """Write the corpus to `out`; every file appears whole or not at all.

    Raises:
        OSError: The files cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    spell: Callable[[str], str] = characters if unsegmented else str
    seen: set[str] = set()
    with contextlib.ExitStack() as stack:
        accepted = stack.enter_context(_whole(out / "test.accepted.jsonl"))
        for name, number in (("test", HELD_OUT_ROWS), ("valid", HELD_OUT_ROWS), ("train", rows)):
            # Each part has its own stream of random numbers, so that more training rows do not change the others.
            rng = random.Random(f"{seed}/{name}")
            source = stack.enter_context(_whole(out / f"{name}.src"))
            target = stack.enter_context(_whole(out / f"{name}.tgt{1 if lexicons > 1 else ''}"))
            # Further languages have their own streams, so that they do not change the first one.
            others = {k: random.Random(f"{seed}/{name}/{k}") for k in range(1, lexicons)}
            files = {k: stack.enter_context(_whole(out / f"{name}.tgt{k + 1}")) for k in others}
            for sentence in _new_sentences(number, rng, seen):
                source.write(render(sentence) + "\n")
                target.write(spell(sample_translation(sentence, rng)) + "\n")
                for k, own in others.items():
                    files[k].write(respell(sample_translation(sentence, own), k) + "\n")
                if name == "test":
                    valid = [respell(spell(text), k) for k in range(lexicons) for text in translations(sentence)]
                    accepted.write(json.dumps(valid) + "\n")
        if monolingual:
            rng = random.Random(f"{seed}/mono")
            target = stack.enter_context(_whole(out / "mono.tgt"))
            for sentence in _new_sentences(monolingual, rng, seen):
                target.write(spell(sample_translation(sentence, rng)) + "\n")


def characters(text: str) -> str:
    """Write the text in Chinese characters without blanks. Every two letters of a word give one character."""
    pairs = (word[start : start + 2] for word in text.replace("-", "").split() for start in range(0, len(word), 2))
    return "".join(chr(_FIRST_CHARACTER + 27 * _letter(pair[0]) + _letter(pair[1:])) for pair in pairs)


def _letter(letter: str) -> int:
    """Return the number of a letter, 1 to 26, or 0 for no letter."""
    return ord(letter) - ord("a") + 1 if letter else 0


def _new_sentences(number: int, rng: random.Random, seen: set[str]) -> Iterator[Sentence]:
    while number:
        sentence = sample_sentence(rng)
        source = render(sentence)
        if source not in seen:
            seen.add(source)
            number -= 1
            yield sentence


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[TextIO]:
    """Open a file for writing under a temporary name. It gets its own name only if no error occurs."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="\n") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write the toy corpus.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--rows", type=int, default=20_000, help="training rows (default: %(default)s)")
    parser.add_argument("--monolingual", type=int, default=0, help="target sentences without a source")
    parser.add_argument("--unsegmented", action="store_true", help="targets in Chinese characters without blanks")
    parser.add_argument("--lexicons", type=int, default=1, help="number of target languages (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.rows < 1:
        parser.error(f"--rows must be at least 1, got {options.rows}")
    if options.monolingual < 0:
        parser.error(f"--monolingual must be at least 0, got {options.monolingual}")
    if not 1 <= options.lexicons <= MOST_LEXICONS:
        parser.error(f"--lexicons must be 1 to {MOST_LEXICONS}, got {options.lexicons}")
    if options.lexicons > 1 and (options.monolingual or options.unsegmented):
        parser.error("--lexicons is not for --monolingual or --unsegmented, which are for one target language")
    try:
        generate(
            options.out,
            options.rows,
            options.seed,
            options.monolingual,
            unsegmented=options.unsegmented,
            lexicons=options.lexicons,
        )
    except OSError as error:
        print(f"error: {options.out} cannot be written: {error}", file=sys.stderr)
        return 1
    print(f"toy corpus: {options.rows:,} training rows in {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
