"""A little bitext for the stages' tests."""

from __future__ import annotations

import random
from pathlib import Path

from seqkd.config import BitextConfig, PrepareConfig, VocabularyConfig

WORDS = {
    "der": "the",
    "hund": "dog",
    "katze": "cat",
    "schläft": "sleeps",
    "jagt": "chases",
    "heute": "today",
    "rot": "red",
    "alle": "all",
    "vogel": "bird",
    "singt": "sings",
}


def prepare_config(folder: Path, *, size: int = 40, joint: bool = True) -> PrepareConfig:
    """Write word-by-word translations of random words into `folder` and say how to prepare them."""
    generator = random.Random(1)
    parts = {}
    for name, rows in (("train", 200), ("valid", 20), ("test", 10)):
        sentences = [generator.choices(list(WORDS), k=generator.randint(4, 8)) for _ in range(rows)]
        parts[name] = BitextConfig(source=folder / f"{name}.de", target=folder / f"{name}.en")
        (folder / f"{name}.de").write_text("".join(" ".join(words) + "\n" for words in sentences))
        lines = (" ".join(WORDS[word] for word in words) + "\n" for words in sentences)
        (folder / f"{name}.en").write_text("".join(lines))
    vocabulary = VocabularyConfig(size=size, joint=joint, byte_fallback=False)
    return PrepareConfig(
        train=parts["train"], valid=parts["valid"], test=parts["test"], vocabulary=vocabulary, shard_rows=80
    )
