"""A little bitext for the stages' tests, and a model that writes all positions at once."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from seqkd.config.stages import BitextConfig, PrepareConfig, VocabularyConfig
from seqkd.models.checkpoint import save_model
from seqkd.models.protocol import Output, ParallelSettings
from seqkd.text.vocabulary import Vocabulary

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


def few_config(folder: Path) -> PrepareConfig:
    """Write 20 sentence pairs into `folder`, the same for training, validation and test, and say how to prepare them.

    All sources have five pieces, no two are the same, and no word comes twice in one: the length says nothing.
    """
    generator = random.Random(1)
    letters = dict(zip("abcdefgh", "ijklmnop", strict=True))
    sentences = [generator.sample(list(letters), k=5) for _ in range(20)]
    assert len({tuple(words) for words in sentences}) == len(sentences)
    (folder / "few.source").write_text("".join(" ".join(words) + "\n" for words in sentences))
    lines = (" ".join(letters[word] for word in words) + "\n" for words in sentences)
    (folder / "few.target").write_text("".join(lines))
    few = BitextConfig(source=folder / "few.source", target=folder / "few.target")
    vocabulary = VocabularyConfig(size=37, byte_fallback=False)
    return PrepareConfig(train=few, valid=few, test=few, vocabulary=vocabulary)


def knows_by_heart(history: Path) -> bool:
    """Whether a model has learnt the sentences of `few_config`, by the history of its training.

    A model that does not read its source can at best say that each of the 20 sentences is as likely as the others. That
    is log(20) nats for each, or log(20) / 6 for each token, end of sentence counted.
    """
    last = json.loads(history.read_text())[-1]
    return bool(last["valid_nll"] < 0.5 * math.log(20) / 6 and last["valid_bleu"] > 90)


@dataclass(frozen=True)
class EchoSettings:
    """It has none."""


class Echo(nn.Module):
    """Writes all positions at once: its n-th candidate is the source without its first n tokens, worse by n."""

    pad_id, eos_id, unk_id, start_id, max_positions = 1, 2, 3, 2, 32

    def __init__(self, _: EchoSettings, *, source_vocab: int, target_vocab: int) -> None:
        super().__init__()
        self.source_vocab, self.target_vocab = source_vocab, target_vocab
        self.weight = nn.Parameter(torch.zeros(3))

    def strategies(self) -> tuple[str, ...]:
        """One way only."""
        return ("greedy",)

    def translate(self, source: Tensor, settings: ParallelSettings) -> list[list[Output]]:
        """See `ParallelModel.translate`."""
        rows = [[token for token in row if token not in (self.pad_id, self.eos_id)] for row in source.tolist()]
        found = [[Output(ids[index:], -index, -index) for index in range(settings.candidates)] for ids in rows]
        return [outputs[: settings.nbest] for outputs in found]


def write_echo(folder: Path, vocabulary: Path) -> Path:
    """A model folder with `Echo`; loading it needs the fixture `echo`."""
    folder.mkdir()
    size = Vocabulary.load(vocabulary).size
    save_model(
        folder, Echo(EchoSettings(), source_vocab=size, target_vocab=size), arch="echo", settings={}, vocab=vocabulary
    )
    return folder
