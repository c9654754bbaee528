"""Search and import against the reference, fairseq itself."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.interop.fairseq import build_model, export_checkpoint, import_checkpoint
from seqkd.models.checkpoint import load_model
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings, Hypothesis, SearchModel
from seqkd.search.cpu.engine import NativeModel
from seqkd.search.cpu.weights import Arithmetic, available, usable
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.integration import fairseq_support
from tests.integration.fairseq_support import Scored

pytest.importorskip("fairseq", reason="the reference: pip install 'seqkd[fairseq]', as `make test` does")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]  # Hydra warns a lot

SENTENCES = 250
MAX_LENGTH = 80
SAME_SHARE = 0.995
SCORE_TOLERANCE = 1e-4
TIE = 1e-5


def torch_engine(model: Transformer) -> SearchModel:
    return IncrementalTransformer(model)


def native_engine(arithmetic: Arithmetic) -> Callable[[Transformer], SearchModel]:
    def build(model: Transformer) -> SearchModel:
        if not usable(model) or not available(arithmetic):
            pytest.skip("no C++ compiler, or no such products, on this machine")
        return NativeModel(model, arithmetic)

    return build


# Every way to drive a model on the CPU with the exactness of float32.
ENGINES: dict[str, Callable[[Transformer], SearchModel]] = {
    "torch": torch_engine,
    "native": native_engine("float32"),
    "native bf16x3": native_engine("bf16x3"),
}


@dataclass(frozen=True)
class Trained:
    """A model that fairseq trained, and what seqkd made of it."""

    checkpoint: Path
    dictionaries: Path
    imported: Path
    models: list[Any]
    task: Any
    sources: list[list[int]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("fairseq")
    corpus = fairseq_support.toy_corpus(folder / "text", rows=6000)
    vocabulary = fairseq_support.toy_vocabulary(corpus, folder / "vocab.model", size=300)
    sizes = [f"--{stack}-{name}" for stack in ("encoder", "decoder") for name in ("embed-dim", "ffn-embed-dim")]
    options = [word for name, value in zip(sizes, ("64", "128") * 2, strict=True) for word in (name, value)]
    options += ["--encoder-layers", "2", "--decoder-layers", "2", "--share-all-embeddings"]
    options += ["--encoder-attention-heads", "4", "--decoder-attention-heads", "4"]
    checkpoint = fairseq_support.train(corpus, vocabulary, folder / "model", *options, updates=250)
    report = import_checkpoint(
        checkpoint, folder / "imported", dictionary=folder / "model" / "dict.tgt.txt", sentencepiece=vocabulary.path
    )
    assert report.notes == ("vocabulary: 300 pieces, ids as in the dictionary",)
    models, task = fairseq_support.load(checkpoint, folder / "model")
    lines = (corpus / "test.src").read_text().splitlines()[:SENTENCES]
    return Trained(checkpoint, folder / "model", folder / "imported", models, task, vocabulary.encode(lines))


@pytest.fixture(scope="module", params=[0.6, 1.0])
def reference(request: pytest.FixtureRequest, trained: Trained) -> tuple[float, list[list[Scored]]]:
    """Length penalty and fairseq's k-best lists."""
    penalty: float = request.param
    found = fairseq_support.decode(
        trained.models, trained.task, trained.sources, beam=5, length_penalty=penalty, max_length=MAX_LENGTH
    )
    return penalty, found


@pytest.mark.parametrize("engine", list(ENGINES))
def test_five_best_lists_equal_fairseqs(
    trained: Trained, reference: tuple[float, list[list[Scored]]], engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    penalty, theirs = reference
    settings = BeamSettings(
        beam=5, nbest=5, length_penalty=penalty, max_length_ratio=0.0, max_length_extra=MAX_LENGTH, min_length=1
    )
    model = load_model(trained.imported).model
    assert isinstance(model, Transformer)
    search = BeamSearch([ENGINES[engine](model)], settings)
    found = dict(search.decode(list(enumerate(trained.sources)), batch_tokens=600))
    ours = [found[row] for row in range(SENTENCES)]

    ended = [h.ended for row in ours for h in row]
    assert len({tuple(h.ids) for row in ours for h in row}) > SENTENCES, "a degenerate model proves nothing"
    assert ended.count("eos") > 0.9 * len(ended), "sentences must end by themselves"
    different = [row for row in range(SENTENCES) if [h.ids for h in ours[row]] != [h.ids for h in theirs[row]]]
    with capsys.disabled():
        for row in different:
            print("\n" + describe(row, ours[row], theirs[row]))
    assert len(different) <= (1 - SAME_SHARE) * SENTENCES
    for row in different:
        for mine, reference_one in zip(ours[row], theirs[row], strict=True):
            if mine.ids != reference_one.ids:
                assert mine.score == pytest.approx(reference_one.score, abs=TIE), describe(row, ours[row], theirs[row])
    for row in range(SENTENCES):
        scores = {tuple(h.ids): h.score for h in theirs[row]}
        for hypothesis in ours[row]:
            if tuple(hypothesis.ids) in scores:
                assert hypothesis.score == pytest.approx(scores[tuple(hypothesis.ids)], abs=SCORE_TOLERANCE)


def describe(row: int, ours: list[Hypothesis], theirs: list[Scored]) -> str:
    lines = [f"sentence {row} differs from fairseq's:"]
    for rank, (mine, reference_one) in enumerate(zip(ours, theirs, strict=True), start=1):
        mark = " " if mine.ids == reference_one.ids else "*"
        lines.append(f"  {mark} {rank}: {mine.score:.7f} {mine.ids}")
        lines.append(f"       {reference_one.score:.7f} {reference_one.ids}")
    return "\n".join(lines)


def test_an_exported_model_decodes_the_same_in_fairseq(trained: Trained, tmp_path: Path) -> None:
    export_checkpoint(trained.imported, tmp_path / "exported")
    models, task = fairseq_support.load(tmp_path / "exported" / "checkpoint.pt", tmp_path / "exported")
    assert task.target_dictionary.symbols == trained.task.target_dictionary.symbols
    sources = trained.sources[:40]
    again = fairseq_support.decode(models, task, sources, beam=5, length_penalty=1.0, max_length=MAX_LENGTH)
    first = fairseq_support.decode(
        trained.models, trained.task, sources, beam=5, length_penalty=1.0, max_length=MAX_LENGTH
    )
    assert again == first


VARIANTS: dict[str, dict[str, object]] = {
    "post-norm, shared": {"share_all_embeddings": True},
    "pre-norm, tied decoder": {
        "encoder_normalize_before": True,
        "decoder_normalize_before": True,
        "share_decoder_input_output_embed": True,
    },
    "learned positions, gelu, separate": {
        "encoder_learned_pos": True,
        "decoder_learned_pos": True,
        "activation_fn": "gelu",
    },
}


@pytest.mark.parametrize("name", list(VARIANTS))
def test_imported_logits_equal_fairseqs(name: str) -> None:
    from fairseq.data import Dictionary
    from fairseq.models.transformer import TransformerModel, base_architecture

    dictionary = Dictionary()
    for symbol in range(37):
        dictionary.add_symbol(f"s{symbol}")
    arguments = argparse.Namespace(
        encoder_layers=2,
        decoder_layers=3,
        encoder_embed_dim=32,
        decoder_embed_dim=32,
        encoder_ffn_embed_dim=48,
        decoder_ffn_embed_dim=48,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        max_source_positions=40,
        max_target_positions=30,
        **VARIANTS[name],
    )
    base_architecture(arguments)
    torch.manual_seed(3)
    task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    theirs = TransformerModel.build_model(arguments, task).eval()
    with torch.no_grad():
        for weight in theirs.parameters():  # biases and norms start at 0 and 1: a swap would not show
            weight.add_(0.1 * torch.randn_like(weight))
    contents = {"args": arguments, "cfg": None, "model": theirs.state_dict()}
    ours, settings = build_model(contents, Path("checkpoint.pt"), source_pieces=41, target_pieces=41)
    assert settings["max_positions"] == 30

    sources = [[5, 9, 30, 7], [12], [8, 8, 21, 33, 40, 6]]
    batch = fairseq_support.left_padded(sources)
    right = torch.tensor([[*source, 2] + [1] * (6 - len(source)) for source in sources])
    target_in = torch.tensor([[2, 20, 21, 22], [2, 4, 5, 6], [2, 30, 4, 4]])
    with torch.no_grad():
        expected = theirs(**batch, prev_output_tokens=target_in)[0]
        torch.testing.assert_close(ours(right, target_in), expected, rtol=1e-5, atol=2e-5)
