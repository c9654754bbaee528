"""Students of fairseq's architectures through our stages, and fairseq's own commands on our corpora."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from seqkd import interop
from seqkd.config.stages import TrainConfig
from seqkd.config.toml import validate
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import ConfigError, ModelError, WorkError
from seqkd.interop.fairseq import import_checkpoint
from seqkd.interop.fairseq_dictionary import dictionary_text
from seqkd.models.checkpoint import load_model, model_digest
from seqkd.models.protocol import ParallelSettings
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.parallel import ParallelSearch
from seqkd.search.plain.transformer import IncrementalTransformer
from seqkd.stages.prepare import prepare
from seqkd.stages.train import train
from seqkd.text.vocabulary import Vocabulary
from tests.unit.interop.fairseq_models_support import EVERY
from tests.unit.stages.interrupted import stop_at
from tests.unit.stages.support import prepare_config

pytest.importorskip("fairseq", reason="the architectures are fairseq's: pip install 'seqkd[fairseq]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # fairseq's, of torch
]

PLUGIN = Path(interop.__file__).parent / "fairseq_plugin"  # not imported: it changes what torch may load
TRAINING = {"max_updates": 8, "batch_tokens": 200, "learning_rate": 0.01, "warmup_updates": 4, "validate_every": 4}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    prepare.run(prepare_config(folder), folder / "prepared")
    return folder / "prepared"


def config(prepared: Path, name: str, *, settings: dict[str, Any] | None = None, **training: Any) -> TrainConfig:
    values = {
        "prepared": prepared,
        "corpus": prepared / "train",
        "model": {"arch": f"fairseq:{name}", "settings": {**EVERY.get(name, {}), **(settings or {})}},
        "training": {**TRAINING, **training},
    }
    return validate(TrainConfig, values, "test")


def history(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "history.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", EVERY)
def test_a_student_of_each_architecture(prepared: Path, tmp_path: Path, name: str) -> None:
    learns = name in ("transformer", "cmlm_transformer")
    train.run(config(prepared, name, max_updates=60 if learns else 8, validate_every=4), tmp_path, device="cpu")
    lines = history(tmp_path)
    assert all(math.isfinite(line[key]) for line in lines for key in ("train_loss", "valid_nll", "valid_bleu"))
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    if learns:
        assert lines[-1]["valid_nll"] < 0.9 * lines[0]["valid_nll"]
    assert read_manifest(tmp_path).extra["arch"] == f"fairseq:{name}"
    loaded = load_model(tmp_path)
    assert loaded.settings["settings"] == EVERY[name]
    rows = Corpus.open(prepared / "valid").take(range(20), ["id", "source_ids"]).to_pydict()  # type: ignore[arg-type]
    search = ParallelSearch(loaded.model, ParallelSettings())
    found = dict(search.decode(zip(rows["id"], rows["source_ids"], strict=True), batch_tokens=100))
    assert sorted(found) == sorted(rows["id"])


def test_an_interrupted_run_ends_with_the_same_model(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(prepared, "cmlm_transformer", max_updates=16, validate_every=8, precision="float32")
    train.run(settings, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(WorkError, match="stopped at update 10"):
            train.run(settings, tmp_path / "stopped", device="cpu")
    train.run(settings, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")


def test_settings_are_checked_before_the_folder_is_begun(prepared: Path, tmp_path: Path) -> None:
    for name, settings, message in (
        ("levenshtein_transformer", {"layers": 3}, "has no option layers"),
        ("levenshtein_transformer", {"encoder_layers": "many"}, "invalid int value"),
        ("nat", {}, r"one of: (?s:.*)nonautoregressive_transformer"),
    ):
        with pytest.raises(ModelError, match=message):
            train.run(config(prepared, name, settings=settings), tmp_path / "out", device="cpu")
        assert not (tmp_path / "out").exists()
    train.run(config(prepared, "levenshtein_transformer", max_updates=1), tmp_path / "out", device="cpu")
    assert read_manifest(tmp_path / "out").extra["updates"] == 1


def test_shared_embeddings_need_one_vocabulary(tmp_path: Path) -> None:
    prepare.run(prepare_config(tmp_path, joint=False, size=30), tmp_path / "prepared")
    with pytest.raises(ConfigError, match=r"embeddings are shared(?s:.*)share_all_embeddings = false"):
        train.run(config(tmp_path / "prepared", "cmlm_transformer"), tmp_path / "out", device="cpu")


def fairseq_train(prepared: Path, folder: Path, *options: str) -> str:
    """Run it with the plugin; what it logged."""
    command = [
        *(sys.executable, "-c", "import sys; from fairseq_cli.train import cli_main; sys.exit(cli_main())"),
        *(str(prepared), "--user-dir", str(PLUGIN), "--optimizer", "adam", "--lr", "3e-3", "--max-tokens", "400"),
        *("--max-update", "6", "--save-dir", str(folder), "--cpu", "--num-workers", "1", "--log-format", "json"),
        *("--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "16", "--decoder-embed-dim", "16"),
        *("--encoder-ffn-embed-dim", "32", "--decoder-ffn-embed-dim", "32", "--encoder-attention-heads", "2"),
        *("--decoder-attention-heads", "2", "--no-epoch-checkpoints", "--no-save-optimizer-state", *options),
    ]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def fairseq_generate(prepared: Path, checkpoint: Path, *options: str) -> dict[int, list[tuple[str, float]]]:
    """Run it with the plugin; by the row's place in the corpus its hypotheses with their scores, best first."""
    command = [
        *(sys.executable, "-c", "import sys; from fairseq_cli.generate import cli_main; sys.exit(cli_main())"),
        *(str(prepared), "--user-dir", str(PLUGIN), "--path", str(checkpoint), "--cpu", "--num-workers", "1", *options),
    ]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[int, list[tuple[str, float]]] = {}
    for row, score, text in re.findall(r"^H-(\d+)\t(\S+)\t(.*)$", done.stdout, re.MULTILINE):
        found.setdefault(int(row), []).append((text, float(score)))
    return found


def test_fairseq_trains_a_transformer_on_our_corpora_and_decodes_them(prepared: Path, tmp_path: Path) -> None:
    corpus = str(prepared / "train")
    log = fairseq_train(
        *(prepared, tmp_path, "--task", "seqkd_translation", "--arch", "transformer", "--share-all-embeddings"),
        *("--train-corpus", corpus, "--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1"),
        *("--max-update", "40", "--lr", "1e-2", "--validate-interval", "9", "--validate-interval-updates", "20"),
        *("--eval-bleu", "--eval-bleu-remove-bpe", "sentencepiece", "--eval-bleu-args", '{"beam": 2, "max_len_b": 20}'),
    )
    lines = [json.loads(line) for line in re.findall(r"\| valid \| (\{.*\})", log)]
    assert [line["valid_num_updates"] for line in lines] == ["20", "40"]
    assert float(lines[1]["valid_loss"]) < float(lines[0]["valid_loss"])
    assert lines[1]["valid_bsz"] == "10"  # two batches, all of the 20 rows
    assert 0 <= float(lines[1]["valid_bleu"]) <= 100
    # The ids are the vocabulary's, so the model can come back as ours.
    vocabulary = Vocabulary.load(prepared / "vocab.model")
    (tmp_path / "dict.txt").write_text(dictionary_text(vocabulary.path), encoding="utf-8")
    import_checkpoint(
        tmp_path / "checkpoint_last.pt",
        tmp_path / "imported",
        dictionary=tmp_path / "dict.txt",
        sentencepiece=vocabulary.path,
    )
    loaded = load_model(tmp_path / "imported")
    assert loaded.vocabularies.target.pieces() == vocabulary.pieces()
    # fairseq-generate on the corpus finds what our search finds with that model.
    theirs = fairseq_generate(
        *(prepared, tmp_path / "checkpoint_last.pt", "--task", "seqkd_translation", "--gen-subset", "train"),
        *("--train-corpus", str(prepared / "valid"), "--beam", "3", "--nbest", "3", "--max-len-b", "20"),
    )
    rows = Corpus.open(prepared / "valid").take(np.arange(20)).to_pylist()
    search = BeamSearch(
        [IncrementalTransformer(cast(Transformer, loaded.model))],
        BeamSettings(beam=3, nbest=3, max_length_ratio=0.0, max_length_extra=20),
    )
    found = dict(search.decode([(index, row["source_ids"]) for index, row in enumerate(rows)], batch_tokens=200))
    assert sorted(theirs) == sorted(found)
    for row, hypotheses in found.items():
        assert [text for text, _ in theirs[row]] == [
            " ".join(vocabulary.piece(index) for index in hypothesis.ids) for hypothesis in hypotheses
        ]
        # fairseq prints logarithms to the base 2.
        scores = [score * math.log(2) for _, score in theirs[row]]
        assert scores == pytest.approx([hypothesis.score for hypothesis in hypotheses], abs=1e-4)


def test_fairseq_trains_a_levenshtein_transformer_on_our_corpora_and_decodes_them(
    prepared: Path, tmp_path: Path
) -> None:
    log = fairseq_train(
        *(prepared, tmp_path, "--task", "seqkd_translation_lev", "--arch", "levenshtein_transformer"),
        *("--noise", "random_delete", "--criterion", "nat_loss", "--label-smoothing", "0.1"),
    )
    assert re.search(r'"valid_word_del": "\d+\.\d+"', log)
    found = fairseq_generate(
        *(prepared, tmp_path / "checkpoint_last.pt", "--task", "seqkd_translation_lev", "--gen-subset", "test"),
        *("--iter-decode-max-iter", "2", "--post-process", "sentencepiece"),
    )
    assert sorted(found) == list(range(10))
