"""Write the toy corpus: `python data/toy/generate.py --out DIR [--rows N] [--monolingual M] [--seed S]`.

Files: train.src/.tgt (N rows), valid.src/.tgt and test.src/.tgt (500 rows each), test.accepted.jsonl, where each
line is the JSON list of all valid translations of that test row, and with M above 0 mono.tgt: M sentences of the target
language alone. No source sentence occurs twice anywhere, those that mono.tgt translates among them. The same arguments
give the same bytes; the number of training rows does not change the validation and test rows. With `--unsegmented` the
targets are written in Chinese characters without blanks.
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

HELD_OUT_ROWS = 500  # rows of the validation text, and of the test text
_FIRST_CHARACTER = 0x4E00


def generate(out: Path, rows: int, seed: int, monolingual: int = 0, *, unsegmented: bool = False) -> None:
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
            target = stack.enter_context(_whole(out / f"{name}.tgt"))
            for sentence in _new_sentences(number, rng, seen):
                source.write(render(sentence) + "\n")
                target.write(spell(sample_translation(sentence, rng)) + "\n")
                if name == "test":
                    accepted.write(json.dumps([spell(text) for text in translations(sentence)]) + "\n")
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
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.rows < 1:
        parser.error(f"--rows must be at least 1, got {options.rows}")
    if options.monolingual < 0:
        parser.error(f"--monolingual must be at least 0, got {options.monolingual}")
    try:
        generate(options.out, options.rows, options.seed, options.monolingual, unsegmented=options.unsegmented)
    except OSError as error:
        print(f"error: {options.out} cannot be written: {error}", file=sys.stderr)
        return 1
    print(f"toy corpus: {options.rows:,} training rows in {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
