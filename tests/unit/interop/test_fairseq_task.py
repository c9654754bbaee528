"""The plugin's tasks: rows and dictionaries as fairseq reads them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, CorpusError
from seqkd.stages.prepare import prepare
from seqkd.text.vocabulary import Vocabulary
from tests.unit.stages.support import prepare_config

pytest.importorskip("fairseq", reason="a plugin of fairseq: pip install 'seqkd[fairseq]'")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    prepare.run(prepare_config(folder), folder / "prepared")
    return folder / "prepared"


def task(prepared: Path, *, parallel: bool = False, **more: Any) -> Any:
    from omegaconf import OmegaConf

    from seqkd.interop.fairseq_task import SeqkdTranslationLevTask, SeqkdTranslationTask

    values = {
        "data": str(prepared),
        "train_corpus": "",
        "train_subset": "train",
        "source_lang": None,
        "target_lang": None,
        "left_pad_source": True,
        "left_pad_target": False,
        "num_batch_buckets": 0,
        "required_seq_len_multiple": 1,
        "load_alignments": False,
        "truncate_source": False,
        "upsample_primary": -1,
        "noise": "random_delete",
    }
    kind = SeqkdTranslationLevTask if parallel else SeqkdTranslationTask
    return kind.setup_task(OmegaConf.create(values | more))


@pytest.mark.parametrize("parallel", [False, True])
def test_rows_are_those_of_the_corpus(prepared: Path, parallel: bool) -> None:
    made = task(prepared, parallel=parallel)
    corpus = Corpus.open(prepared / "train")
    assert len(corpus.shards) > 1
    rows = [row for table in corpus.tables(["source_ids", "target_ids"]) for row in table.to_pylist()]
    made.load_dataset("train")
    dataset = made.dataset("train")
    begin = [0] if parallel else []
    assert len(dataset) == len(rows)
    for index, row in enumerate(rows):
        example = dataset[index]
        assert example["source"].tolist() == [*begin, *row["source_ids"], 2]
        assert example["target"].tolist() == [*begin, *row["target_ids"], 2]
        assert dataset.size(index) == (len(example["source"]), len(example["target"]))
    assert example["source"].dtype == torch.int64
    again = pickle.loads(pickle.dumps(dataset.src))  # as a data loader's process gets it
    assert again[0].tolist() == dataset.src[0].tolist()
    assert len(dataset.collater([dataset[0], dataset[1]])["target"]) == 2


@pytest.mark.parametrize("multiple", [1, 8])
def test_every_row_is_in_a_batch(prepared: Path, multiple: int) -> None:
    made = task(prepared)
    for split, rows in (("train", 200), ("valid", 20), ("test", 10)):
        made.load_dataset(split)
        dataset = made.dataset(split)
        batches = dataset.batch_by_size(
            dataset.ordered_indices(), max_tokens=400, required_batch_size_multiple=multiple
        )
        assert sorted(int(row) for batch in batches for row in batch) == list(range(rows))
        assert all(len(batch) % multiple == 0 for batch in batches[:-1])
        assert all(len(batch) * max(dataset.num_tokens(row) for row in batch) <= 400 for batch in batches)


def test_dictionaries_have_the_vocabularys_ids(tmp_path: Path) -> None:
    prepare.run(prepare_config(tmp_path, joint=False, size=30), tmp_path / "prepared")
    made = task(tmp_path / "prepared")
    for dictionary, name in ((made.source_dictionary, "vocab.source.model"), (made.target_dictionary, "vocab.model")):
        vocabulary = Vocabulary.load(tmp_path / "prepared" / name)
        assert [dictionary[index] for index in range(len(dictionary))] == vocabulary.pieces()
        assert (dictionary.bos(), dictionary.pad(), dictionary.eos(), dictionary.unk()) == (0, 1, 2, 3)
    assert made.source_dictionary != made.target_dictionary


def test_another_corpus_to_train_on(prepared: Path, tmp_path: Path) -> None:
    made = task(prepared, train_corpus=str(prepared / "test"))
    made.load_dataset("train")
    made.load_dataset("valid")
    assert (len(made.dataset("train")), len(made.dataset("valid"))) == (10, 20)
    prepare.run(prepare_config(tmp_path, size=38), tmp_path / "prepared")
    with pytest.raises(CorpusError, match="was made with a target vocabulary other than"):
        task(prepared, train_corpus=str(tmp_path / "prepared" / "train")).load_dataset("train")


def test_options_without_a_meaning_here(prepared: Path) -> None:
    with pytest.raises(ConfigError, match="--truncate-source cannot be used"):
        task(prepared, truncate_source=True)
