"""fairseq's architectures as models: built, decoded, saved."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.errors import ModelError
from seqkd.interop.fairseq_dictionary import word_vocabulary
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.protocol import Output, ParallelModel, ParallelSettings
from seqkd.models.registry import build
from seqkd.search.parallel import ParallelSearch
from seqkd.search.scoring import pad_rows
from tests.unit.interop.fairseq_models_support import (
    EVERY,
    LEFT_TO_RIGHT,
    MAX_POSITIONS,
    PARALLEL,
    PIECES,
    batch_of,
    sentences,
    small,
)
from tests.unit.objectives.support import loss_of

pytest.importorskip("fairseq", reason="the architectures are fairseq's: pip install 'seqkd[fairseq]'")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # fairseq's, of torch

LENGTHS = [name for name in PARALLEL if name not in ("insertion_transformer", "levenshtein_transformer")]


@torch.inference_mode()
def decode(model: Any, rows: list[list[int]], **settings: Any) -> Sequence[Sequence[Output]]:
    source = pad_rows([[*row, 2] for row in rows], 1)
    return model.translate(source, ParallelSettings(**settings))  # type: ignore[no-any-return]


def ids(found: Sequence[Sequence[Output]]) -> list[list[list[int]]]:
    return [[output.ids for output in outputs] for outputs in found]


@pytest.mark.parametrize("name", EVERY)
def test_a_row_is_translated_alike_alone_and_in_a_batch(name: str) -> None:
    model, rows = small(name, spread=2.0), sentences(12)
    assert isinstance(model, ParallelModel)
    together = decode(model, rows, candidates=3, nbest=3)
    alone = [decode(model, [row], candidates=3, nbest=3)[0] for row in rows]
    assert ids(together) == ids(alone)
    for one, other in zip(together, alone, strict=True):
        assert [output.score for output in one] == pytest.approx([output.score for output in other], abs=1e-3)
        assert [output.score for output in one] == sorted((output.score for output in one), reverse=True)
    assert all(4 <= piece < PIECES or piece == 3 for outputs in ids(together) for out in outputs for piece in out)


@pytest.mark.parametrize("name", EVERY)
def test_how_many_candidates_come_back(name: str) -> None:
    found = decode(small(name), sentences(3), candidates=3, nbest=3)
    expected = 3 if name in LEFT_TO_RIGHT or name in LENGTHS else 1
    assert [len(outputs) for outputs in found] == [expected] * 3
    assert [len(outputs) for outputs in decode(small(name), sentences(3), candidates=3)] == [1] * 3


@pytest.mark.parametrize("candidates", [1, 3])
@pytest.mark.parametrize("name", PARALLEL)
def test_the_best_is_that_of_fairseqs_own_generator(name: str, candidates: int) -> None:
    from fairseq.iterative_refinement_generator import IterativeRefinementGenerator

    model, rows = small(name, spread=1.5), sentences(12)
    order, inputs = model.inputs(pad_rows([[*row, 2] for row in rows], 1))
    generator = IterativeRefinementGenerator(
        model.task.target_dictionary,
        max_iter=4 if model.refinement.repeats else 0,
        beam_size=candidates if name in LENGTHS else 1,
        adaptive=name != "cmlm_transformer",
    )
    theirs = generator.generate([model.net], {"net_input": inputs})
    ours = decode(model, rows, iterations=5, candidates=candidates)
    compared = 0
    for row, found in zip(order.tolist(), theirs, strict=True):
        best = found if isinstance(found, dict) else found[0]
        if len(best["tokens"]) > MAX_POSITIONS:  # fairseq has no limit
            continue
        compared += 1
        assert ours[row][0].ids == [piece for piece in best["tokens"].tolist() if piece > 2]
        assert ours[row][0].score == pytest.approx(float(best["score"]), abs=1e-5)
    assert compared > 4


def test_an_output_of_padding_alone_is_the_worst_candidate() -> None:
    model = small("iterative_nonautoregressive_transformer", spread=2.0)
    model.net.decoder.layers[-1].final_layer_norm.bias.data.fill_(1.0)
    model.net.decoder.output_projection.weight.data[1] = 5.0
    found = decode(model, sentences(5), candidates=3, nbest=3)
    assert ids(found) == [[[]] * 3] * 5
    assert all(output.score == pytest.approx(-1e9) for outputs in found for output in outputs)


def test_mask_predict_leaves_no_masks() -> None:
    model = small("cmlm_transformer")
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    train(model, optimizer, updates=60)
    assert not any(3 in out for outputs in ids(decode(model, sentences(50, seed=2))) for out in outputs)


def test_some_sentences_of_a_batch_may_stay_empty() -> None:
    """Where fairseq's own generator fails, as it does now and then while a Levenshtein Transformer is trained."""
    from fairseq.iterative_refinement_generator import IterativeRefinementGenerator

    model, rows = small("levenshtein_transformer"), sentences(40, seed=2)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        train(model, optimizer, updates=5)
        found = ids(decode(model, rows))
        empty = sum(not out for outputs in found for out in outputs)
        if 0 < empty < len(rows):
            break
    assert 0 < empty < len(rows)
    assert found == ids([decode(model, [row])[0] for row in rows])
    _, inputs = model.inputs(pad_rows([[*row, 2] for row in rows], 1))
    with pytest.raises(IndexError):
        IterativeRefinementGenerator(model.task.target_dictionary).generate([model.net], {"net_input": inputs})


def train(model: Any, optimizer: torch.optim.Optimizer, *, updates: int) -> None:
    from seqkd.interop.fairseq_loss import FairseqLoss

    model.train()
    for update in range(updates):
        batch = batch_of(sentences(40, seed=100 + update))
        (loss_of(FairseqLoss(smoothing=0.1), model, batch).loss / batch.tokens).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    model.eval()


@pytest.mark.parametrize("name", ["insertion_transformer", "cmlm_transformer", "transformer"])
def test_outputs_end_at_the_longest_target(name: str) -> None:
    model = small(name, spread=3.0, encoder_learned_pos=True, decoder_learned_pos=True)
    if name == "cmlm_transformer":
        with torch.no_grad():
            model.net.decoder.embed_length.weight.zero_()
            model.net.encoder.layers[-1].final_layer_norm.bias.fill_(1.0)
            model.net.decoder.embed_length.weight[200] = 1.0
    lengths = [len(outputs[0].ids) for outputs in decode(model, sentences(20))]
    assert max(lengths) == MAX_POSITIONS - 1


@pytest.mark.parametrize("name", EVERY)
def test_a_saved_model_is_the_same_model(name: str, tmp_path: Path) -> None:
    model, rows = small(name, spread=2.0), sentences(8)
    vocab = tmp_path / "words.model"
    vocab.write_bytes(word_vocabulary([f"s{number}" for number in range(PIECES - 4)]).model)
    settings = {"settings": EVERY[name], "max_positions": MAX_POSITIONS}
    save_model(tmp_path, model, arch=f"fairseq:{name}", settings=settings, vocab=vocab)
    loaded = load_model(tmp_path).model
    assert loaded.max_positions == MAX_POSITIONS
    assert decode(loaded, rows) == decode(model, rows)


def test_the_parallel_search_drives_them() -> None:
    rows = [[], *sentences(9), list(range(4, 30))]
    search = ParallelSearch(small("cmlm_transformer"), ParallelSettings(iterations=4))
    found = dict(search.decode(enumerate(rows), batch_tokens=30))
    assert sorted(found) == list(range(11))
    assert search.too_long == [10]
    assert found[10] == []
    assert found[0][0].ids == []


def test_source_and_target_may_have_their_own_vocabularies() -> None:
    settings = {"settings": EVERY["levenshtein_transformer"], "max_positions": 20}
    model: Any = build("fairseq:levenshtein_transformer", settings, source_vocab=50, target_vocab=PIECES)
    assert not model.shared_embeddings
    assert (model.source_vocab, model.target_vocab) == (50, PIECES)
    decode(model.eval(), [[49, 48]])
    shared = {"settings": {**EVERY["transformer"], "share_all_embeddings": True}, "max_positions": 20}
    with pytest.raises(ModelError, match="joined dictionary"):
        build("fairseq:transformer", shared, source_vocab=50, target_vocab=PIECES)
    one: Any = build("fairseq:transformer", shared, source_vocab=PIECES, target_vocab=PIECES)
    assert one.shared_embeddings


@pytest.mark.parametrize(
    "program",
    [
        "__import__('os').mkdir('pwned')",
        "[(16, 3)] * 4 if print(1) else []",
        "[16, 3] * 999 * 999 * 999",
        "9 ** 9 ** 9",
        "(lambda: 1)()",
        "[x for x in [1]]",
    ],
)
@pytest.mark.parametrize("option", ["encoder_layers", "decoder_attention"])
def test_options_are_not_run_as_programs(
    program: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """fairseq evaluates options of `fconv`; a model folder from elsewhere must not run code by them."""
    monkeypatch.chdir(tmp_path)
    settings = {"settings": {**EVERY["fconv"], option: program}, "max_positions": 20}
    with pytest.raises(ModelError, match=f"{option} is .*, and fairseq would run it as a program"):
        build("fairseq:fconv", settings, source_vocab=PIECES, target_vocab=PIECES)
    assert not (tmp_path / "pwned").exists()


def test_options_that_repeat_layers_are_taken() -> None:
    settings = {"settings": {**EVERY["fconv"], "encoder_layers": "[(16, 3)] * 2 + [(16, 1)]"}, "max_positions": 20}
    model: Any = build("fairseq:fconv", settings, source_vocab=PIECES, target_vocab=PIECES)
    assert len(model.net.encoder.convolutions) == 3


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("transformer_huge", {}, "no architecture 'transformer_huge'.*\n.*levenshtein_transformer.*transformer_iwslt"),
        ("s2t_transformer", {}, "no architecture 's2t_transformer'"),
        ("transformer", {"layers": 3}, "has no option layers.*\n.*encoder_layers"),
        ("transformer", {"encoder_layers": "many"}, "invalid int value: 'many'"),
        ("transformer", {"share_all_embeddings": 1}, "share_all_embeddings is 1\n.*true or false"),
        ("transformer", {"max_source_positions": 9}, "max_source_positions cannot be set here\n.*max_positions"),
        ("transformer", {"encoder_embed_path": "x"}, "encoder_embed_path cannot be set here\n.*init_from"),
        ("transformer", {"encoder_embed_dim": 10, "encoder_attention_heads": 4}, "fairseq cannot build it: embed_dim"),
        ("lstm", {"encoder_layers": 2, "decoder_layers": 1}, "--encoder-layers must match --decoder-layers"),
        ("nacrf_transformer", {}, "crf_beam_approx 64 is more than the vocabulary's 34 pieces"),
    ],
)
def test_what_fairseq_does_not_take(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build(f"fairseq:{name}", {"settings": settings, "max_positions": 20}, source_vocab=PIECES, target_vocab=PIECES)


def test_a_flag_can_be_turned_off() -> None:
    assert small("cmlm_transformer").shared_embeddings  # on by default in fairseq
    assert not small("cmlm_transformer", share_all_embeddings=False).shared_embeddings


def test_fairseq_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("seqkd.interop.fairseq_")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "fairseq.criterions.nat_loss", None)
    with pytest.raises(ModelError, match=r'needs fairseq(?s:.*)pip install "seqkd\[fairseq\]"'):
        build("fairseq:lstm", {"settings": {}, "max_positions": 20}, source_vocab=PIECES, target_vocab=PIECES)
