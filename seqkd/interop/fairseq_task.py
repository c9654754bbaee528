"""Tasks for `fairseq-train` that read seqkd's Arrow corpora; `fairseq_plugin` registers them.

`seqkd_translation` is fairseq's task `translation` and `seqkd_translation_lev` its `translation_lev`, but for where
dictionaries and rows come from. The `data` argument is a folder of `seqkd prepare`; ids are those of its vocabulary.
"""

# No `from __future__ import annotations`: fairseq makes options of the fields' types, and cannot read strings.

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
from seqkd.text.vocabularies import Vocabularies
from seqkd.text.vocabulary import Vocabulary

_CORPUS_HELP = "the corpus to train on, such as a distilled one; by default `train` in the data folder"
# Options of fairseq's tasks that have no meaning for these corpora, and their defaults.
_WITHOUT = {"load_alignments": False, "truncate_source": False, "upsample_primary": -1}


@dataclass
class SeqkdTranslationConfig(TranslationConfig):  # type: ignore[misc]
    """Options of `seqkd_translation`: those of `translation`, and the corpus."""

    train_corpus: str = field(default="", metadata={"help": _CORPUS_HELP})


@dataclass
class SeqkdTranslationLevConfig(TranslationLevenshteinConfig):  # type: ignore[misc]
    """Options of `seqkd_translation_lev`: those of `translation_lev`, and the corpus."""

    train_corpus: str = field(default="", metadata={"help": _CORPUS_HELP})


# fairseq takes tasks that inherit from its own, and no others.
@register_task("seqkd_translation", dataclass=SeqkdTranslationConfig)
class SeqkdTranslationTask(TranslationTask):  # type: ignore[misc]
    """Translation with models that write left to right."""

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "SeqkdTranslationTask":  # noqa: ARG003
        """Called by fairseq with the options."""
        return cls(cfg, *_dictionaries(cfg))

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:  # noqa: ARG002
        """Called by fairseq for `train`, `valid` and `test`."""
        self.datasets[split] = _dataset(self, split, begin=False)


@register_task("seqkd_translation_lev", dataclass=SeqkdTranslationLevConfig)
class SeqkdTranslationLevTask(TranslationLevenshteinTask):  # type: ignore[misc]
    """Translation with the models of `fairseq.models.nat`, which also read a beginning of sentence."""

    @classmethod
    def setup_task(cls, cfg: Any, **kwargs: Any) -> "SeqkdTranslationLevTask":  # noqa: ARG003
        """Called by fairseq with the options."""
        return cls(cfg, *_dictionaries(cfg))

    def load_dataset(self, split: str, epoch: int = 1, combine: bool = False, **kwargs: Any) -> None:  # noqa: ARG002
        """Called by fairseq for `train`, `valid` and `test`."""
        self.datasets[split] = _dataset(self, split, begin=True)


class CorpusSide:
    """One side of a corpus as fairseq reads data: a row at a time, from the mapped files.

    Args:
        corpus: Gold or distilled.
        column: source_ids or target_ids.
        sizes: `[rows]` tokens of the column.
        begin: What stands before each row: a beginning of sentence, or nothing.
        end: What stands after each row: the end of sentence.

    Attributes:
        sizes: `[rows]` tokens with what stands before and after.
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
        """`[length]` int64."""
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        rows = self.corpus.read_shard(shard, [self.column]).column(0)
        ids = rows[int(index - self._starts[shard])].values.to_numpy()
        return torch.from_numpy(np.concatenate([self.begin, ids, self.end]).astype(np.int64))


# As with tasks: fairseq asks its datasets for a dozen things beside the batches.
class CorpusPairs(LanguagePairDataset):  # type: ignore[misc]
    """Sentence pairs, all of them in some batch."""

    def batch_by_size(
        self,
        indices: npt.NDArray[np.int64],
        max_tokens: int | None = None,
        max_sentences: int | None = None,
        required_batch_size_multiple: int = 1,
    ) -> list[npt.NDArray[np.int64]]:
        """Called by fairseq with the rows in order; what it gives are slices of them.

        fairseq 0.12.3 throws the last one away, without a word, where its rows are no multiple of the required number
        (8 by default). They are the longest, and whoever decodes wants a translation of each.
        """
        batches: list[npt.NDArray[np.int64]] = super().batch_by_size(
            indices, max_tokens, max_sentences, required_batch_size_multiple
        )
        rest = indices[sum(len(batch) for batch in batches) :]
        return [*batches, rest] if len(rest) and self.get_batch_shapes() is None else batches


def _dictionaries(cfg: Any) -> tuple[Any, Any]:
    """The prepared folder's vocabularies as dictionaries with the same ids, of the source and the target."""
    if wrong := [f"--{name.replace('_', '-')}" for name, default in _WITHOUT.items() if cfg[name] != default]:
        raise ConfigError(f"{', '.join(wrong)} cannot be used with seqkd's corpora", expected="these options left out")
    cfg.source_lang, cfg.target_lang = cfg.source_lang or "source", cfg.target_lang or "target"
    vocabularies = Vocabularies.load(Path(cfg.data))
    return _dictionary(vocabularies.source), _dictionary(vocabularies.target)


def _dictionary(vocabulary: Vocabulary) -> Any:
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
            "its rows have weights, which fairseq's criteria do not count",
            where=str(corpus.path),
            expected='a corpus of another rule than "all"',
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
