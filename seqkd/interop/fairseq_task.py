"""Tasks for `fairseq-train` that read seqkd's Arrow corpora; `fairseq_plugin` registers them.

`seqkd_translation` and `seqkd_translation_lev` are fairseq's tasks `translation` and `translation_lev` with other
sources of dictionaries and rows. The `data` argument is a folder of `seqkd prepare`, and ids are those of its
vocabulary.
"""

# There is no `from __future__ import annotations`, because fairseq needs the types of the fields, not their names.

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, CorpusError
from seqkd.interop.fairseq_library import (
    Dictionary,
    LanguagePairDataset,
    TranslationConfig,
    TranslationLevenshteinConfig,
    TranslationLevenshteinTask,
    TranslationTask,
    register_task,
)
from seqkd.text.vocabularies import TextVocabulary, Vocabularies

_CORPUS_HELP = "the corpus to train on, such as a distilled one; by default `train` in the data folder"
# Options of fairseq's tasks that have no meaning for these corpora, and their defaults.
_WITHOUT = {"load_alignments": False, "truncate_source": False, "upsample_primary": -1}


@dataclass
class SeqkdTranslationConfig(TranslationConfig):  # type: ignore[misc]
    """The options of `translation`, and the corpus."""

    train_corpus: str = field(default="", metadata={"help": _CORPUS_HELP})


@dataclass
class SeqkdTranslationLevConfig(TranslationLevenshteinConfig):  # type: ignore[misc]
    """The options of `translation_lev`, and the corpus."""

    train_corpus: str = field(default="", metadata={"help": _CORPUS_HELP})


# fairseq only accepts tasks that inherit from its own.
@register_task("seqkd_translation", dataclass=SeqkdTranslationConfig)
class SeqkdTranslationTask(TranslationTask):  # type: ignore[misc]
    """Translation with models that write left to right."""

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "SeqkdTranslationTask":  # noqa: ARG003
        """Make the task. fairseq calls this method with the options."""
        return cls(cfg, *_dictionaries(cfg))

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:  # noqa: ARG002
        """Load a split. fairseq calls this method for `train`, `valid` and `test`."""
        self.datasets[split] = _dataset(self, split, begin=False)


@register_task("seqkd_translation_lev", dataclass=SeqkdTranslationLevConfig)
class SeqkdTranslationLevTask(TranslationLevenshteinTask):  # type: ignore[misc]
    """Translation with the models of `fairseq.models.nat`, which also read a beginning of sentence."""

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "SeqkdTranslationLevTask":  # noqa: ARG003
        """Make the task. fairseq calls this method with the options."""
        return cls(cfg, *_dictionaries(cfg))

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:  # noqa: ARG002
        """Load a split. fairseq calls this method for `train`, `valid` and `test`."""
        self.datasets[split] = _dataset(self, split, begin=True)


class CorpusSide:
    """One side of a corpus as a data set of fairseq, which reads one row at a time from the mapped files.

    Args:
        corpus: A gold or distilled corpus.
        column: source_ids or target_ids.
        sizes: `[rows]`, numbers of tokens in the column.
        begin: Ids before each row: a beginning of sentence, or nothing.
        end: Ids after each row: the end of sentence.

    Attributes:
        sizes: `[rows]`, numbers of tokens including `begin` and `end`.
    """

    def __init__(
        self, corpus: Corpus, column: str, sizes: npt.NDArray[np.int32], *, begin: list[int], end: list[int]
    ) -> None:
        self.corpus, self.column, self.begin, self.end = corpus, column, begin, end
        self.sizes = sizes + len(begin) + len(end)
        self._starts = np.cumsum([0, *(shard.rows for shard in corpus.shards)])

    def __len__(self) -> int:
        return len(self.sizes)

    def __getitem__(self, index: int) -> Tensor:
        """Return the ids of a row, `[length]` int64."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        rows = self.corpus.read_shard(shard, [self.column]).column(0)
        ids = rows[int(index - self._starts[shard])].values.to_numpy()
        return torch.from_numpy(np.concatenate([self.begin, ids, self.end]).astype(np.int64))


# The class inherits from fairseq's, because fairseq uses a dozen other methods of its data sets.
class CorpusPairs(LanguagePairDataset):  # type: ignore[misc]
    """Sentence pairs, each of which is in one batch."""

    def batch_by_size(
        self,
        indices: npt.NDArray[np.int64],
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[npt.NDArray[np.int64]]:
        """Split the rows into batches, which are slices of `indices`. fairseq calls this method with ordered rows.

        fairseq 0.12.3 silently drops the last batch if its number of rows is not a multiple of the required number (8
        by default). These rows are the longest, and decoding needs a translation of each of them.
        """
        batches: list[npt.NDArray[np.int64]] = super().batch_by_size(
            indices, max_tokens, max_sentences, required_batch_size_multiple
        )
        rest = indices[sum(len(batch) for batch in batches) :]
        return [*batches, rest] if len(rest) and self.get_batch_shapes() is None else batches


def _dictionaries(cfg: Any) -> tuple[Any, Any]:
    """Return the source and target vocabularies of the prepared folder as dictionaries with the same ids."""
    if wrong := [f"--{name.replace('_', '-')}" for name, default in _WITHOUT.items() if cfg[name] != default]:
        raise ConfigError(
            f"{', '.join(wrong)} cannot be used with seqkd's corpora", expected="a command without these options"
        )
    cfg.source_lang, cfg.target_lang = cfg.source_lang or "source", cfg.target_lang or "target"
    vocabularies = Vocabularies.load(Path(cfg.data))
    return _dictionary(vocabularies.source), _dictionary(vocabularies.target)


def _dictionary(vocabulary: TextVocabulary) -> Any:
    dictionary = Dictionary()
    for piece in vocabulary.pieces()[len(dictionary) :]:
        dictionary.add_symbol(piece)
    return dictionary


def _dataset(task: Any, split: str, *, begin: bool) -> Any:
    cfg = task.cfg
    own = split == cfg.train_subset and cfg.train_corpus
    corpus = Corpus.open(Path(cfg.train_corpus) if own else Path(cfg.data, split), "corpus")
    corpus.check_vocabularies(
        Vocabularies.load(Path(cfg.data)),
        f"that of {cfg.data}",
        hint="give the `prepared` folder that this corpus comes from",
    )
    if "weight" in corpus.schema.names:
        raise CorpusError(
            "its rows have weights, which fairseq's criteria ignore",
            where=str(corpus.path),
            expected='a corpus of another rule than "all", with keep = 1',
        )
    _, source_sizes, target_sizes = corpus.lengths()
    ends = {"begin": [task.target_dictionary.bos()] if begin else [], "end": [task.target_dictionary.eos()]}
    source = CorpusSide(corpus, "source_ids", source_sizes, **ends)
    target = CorpusSide(corpus, "target_ids", target_sizes, **ends)
    return CorpusPairs(
        source,
        source.sizes,
        task.source_dictionary,
        target,
        target.sizes,
        task.target_dictionary,
        left_pad_source=cfg.left_pad_source,
        left_pad_target=cfg.left_pad_target,
        num_buckets=cfg.num_batch_buckets,
        shuffle=split != "test",
        pad_to_multiple=cfg.required_seq_len_multiple,
    )
