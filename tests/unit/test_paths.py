"""Paths may be strings, as everyone writes them in a notebook."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from seqkd.config.stages import PrepareConfig
from seqkd.config.toml import load_stage, read_toml, to_toml
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.interop.fairseq import import_checkpoint
from seqkd.interop.fairseq_dictionary import dictionary_text, piece_vocabulary, read_dictionary
from seqkd.metrics.results import read_result
from seqkd.models.checkpoint import check_model, load_model, model_digest, read_config
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.search.loading import load_team
from seqkd.text.reading import check_bitext, read_bitext, read_lines
from seqkd.text.vocabularies import Vocabularies
from seqkd.text.vocabulary import Vocabulary
from seqkd.tools.inspect import inspect
from seqkd.tools.score import score_files
from seqkd.tools.verify import verify
from tests.unit.stages.support import prepare_config
from tests.unit.stages.whole_run import STAGES


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose stages were given their output folders as strings."""
    root = tmp_path_factory.mktemp("run")
    for name, run in STAGES.values():
        run(root, cast(Path, str(root / name)))
    return root


def test_every_stage_writes_to_a_folder_named_by_a_string(root: Path) -> None:
    assert verify(str(root), [str(root)]).problems == []
    assert sorted(path.name for path in root.iterdir() if path.name != "text") == sorted(
        name for name, _ in STAGES.values()
    )


def test_what_stages_wrote_is_read(root: Path) -> None:
    gold, teacher = str(root / "gold"), str(root / "teacher")
    assert Corpus.open(f"{gold}/train", "corpus").rows == read_manifest(gold).rows
    assert Vocabularies.load(gold).joint
    assert Vocabulary.load(f"{gold}/vocab.model").digest == read_manifest(gold).vocabulary
    assert read_result(str(root / "evaluation")).name == "teacher"
    check_model(teacher)
    assert load_model(teacher).arch == read_config(teacher)["arch"]
    assert model_digest(teacher) == model_digest(root / "teacher")
    assert len(load_team([teacher, teacher], device="cpu", precision="float32").loaded) == 2
    shown = io.StringIO()
    inspect(gold, console=Console(file=shown))
    assert shown.getvalue().startswith("Prepared data")


def test_texts_are_read_and_scored(root: Path) -> None:
    source, target = str(root / "text" / "test.de"), str(root / "text" / "test.en")
    rows = check_bitext(source, target).rows
    assert len(list(read_bitext(source, target))) == len(list(read_lines([source]))) == rows
    out = io.BytesIO()
    models = [str(root / "teacher")]
    score_files(models, source, target, out, device="cpu", precision="float32", batch_tokens=500)
    assert out.getvalue().count(b"\n") == rows


def test_files_of_fairseq_are_read(root: Path) -> None:
    folder, vocabulary = root / "exported", str(root / "gold" / "vocab.model")
    symbols = read_dictionary(str(folder / "dict.tgt.txt"))
    assert dictionary_text(vocabulary).count("\n") == len(symbols)
    assert piece_vocabulary(symbols, vocabulary).matched == len(symbols)
    dictionary, out = str(folder / "dict.tgt.txt"), str(root.with_name("imported"))
    import_checkpoint(str(folder / "checkpoint.pt"), out, dictionary=dictionary, sentencepiece=vocabulary)
    assert read_config(out)["arch"] == "transformer"


def test_stage_and_pipeline_files_are_read(pipeline: Path, tmp_path: Path) -> None:
    settings = prepare_config(tmp_path)
    (tmp_path / "prepare.toml").write_text(to_toml(settings))
    assert load_stage(PrepareConfig, str(tmp_path / "prepare.toml")) == settings
    assert read_toml(str(pipeline))["name"] == read_pipeline(str(pipeline)).name
    assert write_plan(str(pipeline), "runs") == Path("runs/small/plan.mk")
