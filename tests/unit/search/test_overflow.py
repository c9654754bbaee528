"""Numbers that overflow in a lower precision: those sentences, and no others, are done again in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.errors import WorkError
from seqkd.interop.fairseq_dictionary import word_vocabulary
from seqkd.models.checkpoint import save_model
from seqkd.models.protocol import ParallelSettings
from seqkd.models.registry import build
from seqkd.search import BeamSearch, BeamSettings, score_pairs
from seqkd.search.cpu.weights import available
from seqkd.search.loading import SearchTeam, load_team, parallel_search
from seqkd.search.parallel import Decoder
from tests.unit.search.support import sentences

VOCAB = 40
SICK = 39  # sentences with this piece overflow in fp16
WIDTHS = {"dim": 32, "encoder_layers": 1, "decoder_layers": 1, "max_positions": 64}
WIDE = {**WIDTHS, "heads": 2, "ffn_dim": 32}
LEFT_TO_RIGHT = {"transformer": WIDE, "lstm": WIDTHS, "sru": WIDE}
AT_ONCE = {"nat": WIDE, "cmlm": WIDE, "ctc": WIDE, "dag": WIDE}
ARCHITECTURES = LEFT_TO_RIGHT | AT_ONCE
ROWS = sentences(24)
PIECES = dict(ROWS)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocab") / "vocab.model"
    path.write_bytes(word_vocabulary([f"s{number}" for number in range(VOCAB - 4)]).model)
    return path


def write(folder: Path, vocab: Path, arch: str, change: str) -> Path:
    """A model whose numbers are too large for a precision, or no numbers at all."""
    torch.manual_seed(3)
    separate = change == "fp16 for some"
    settings: dict[str, Any] = ARCHITECTURES[arch] | ({"embeddings": "separate"} if separate else {})
    model = build(arch, settings, source_vocab=VOCAB, target_vocab=VOCAB)
    named = {name.removeprefix("stack."): weight for name, weight in model.named_parameters()}
    with torch.no_grad():
        if change == "fp16":  # logits beyond 65,504
            table = named["target_embedding"]
            table[SICK] = 60_000.0 * torch.randn(table.size(1)).sign()
        elif change == "fp16 for some":
            table = named["source_embedding"]
            table[SICK] = 60_000.0 * torch.randn(table.size(1)).sign()
        elif change == "bf16":  # float32 holds it, bf16 rounds it to infinity; what it is multiplied with is tiny
            for norm in ("encoder.0.attention_norm", "encoder.0.ffn_norm"):
                named[f"{norm}.weight"][0], named[f"{norm}.bias"][0] = 0.0, 1e-30
            named["encoder.0.ffn.inner.weight"][0, 0] = 3.4e38
        elif change == "keys":  # likewise; int8 keeps them in bf16
            cross = "decoder.0.cross"
            named[f"{cross}.query.weight"][0], named[f"{cross}.query.bias"][0] = 0.0, 0.0
            named[f"{cross}.key_value.bias"][0] = 3.4e38
        else:
            named["encoder.0.ffn.inner.weight"][0, 0] = float("nan")
    folder.mkdir()
    save_model(folder, model, arch=arch, settings=settings, vocab=vocab)
    return folder


def decoder(team: SearchTeam) -> Decoder:
    if team.parallel:
        return parallel_search(team, ParallelSettings(iterations=3, candidates=2))
    return BeamSearch(team.engines, BeamSettings(beam=2, nbest=2, max_length_extra=4), fallback=team.fallback)


def here(precision: Any) -> str:
    """On this machine."""
    if precision in ("bf16x3", "int8") and not available(precision):
        pytest.skip("this CPU has no products for it")
    return str(precision)


def load(folder: Path, precision: Any) -> SearchTeam:
    return load_team([folder], device="cpu", precision=precision, parallel=True)


CASES = [
    *((arch, "fp16") for arch in ARCHITECTURES),
    *((arch, precision) for arch in ("transformer", "sru", *AT_ONCE) for precision in ("bf16", "bf16x3")),
    ("transformer", "int8"),
]
CHANGES = {"fp16": "fp16", "bf16": "bf16", "bf16x3": "bf16", "int8": "keys"}


@pytest.mark.parametrize(("arch", "precision"), CASES)
def test_overflow_is_decoded_again_in_float32(tmp_path: Path, vocab: Path, arch: str, precision: str) -> None:
    folder = write(tmp_path / "model", vocab, arch, CHANGES[precision])
    team, plain = load(folder, here(precision)), load(folder, "float32")
    if team.precision == "float32":
        pytest.skip("no kernels for this model")
    again, exact = decoder(team), decoder(plain)
    found = dict(again.decode(ROWS, batch_tokens=100))
    expected = dict(exact.decode(ROWS, batch_tokens=100))
    assert exact.retried == []
    assert again.retried
    assert len(again.retried) == len(set(again.retried))
    assert found.keys() == expected.keys() == PIECES.keys()
    for row in again.retried:
        assert [h.ids for h in found[row]] == [h.ids for h in expected[row]]
        assert [h.score for h in found[row]] == pytest.approx([h.score for h in expected[row]], rel=1e-4)


def test_only_the_sentences_that_overflow_are_decoded_again(tmp_path: Path, vocab: Path) -> None:
    team = load(write(tmp_path / "model", vocab, "transformer", "fp16 for some"), "fp16")
    search = decoder(team)
    list(search.decode(ROWS, batch_tokens=100))
    assert search.retried == [row for row, source in ROWS if SICK in source]
    assert 0 < len(search.retried) < len(ROWS)
    pairs = [(source, [5, 6]) for _, source in ROWS]
    scores = score_pairs(team.scorers, pairs, batch_tokens=100, fallback=team.scorers_in_float32)
    assert [score.retried for score in scores] == [SICK in source for source, _ in pairs]
    assert team.in_float32 is not None
    assert team.in_float32() is team.in_float32()  # loaded once


@pytest.mark.parametrize("precision", ["bf16", "bf16x3"])
def test_scores_that_overflow_are_computed_again(tmp_path: Path, vocab: Path, precision: str) -> None:
    folder = write(tmp_path / "model", vocab, "transformer", "bf16")
    team = load(folder, here(precision))
    if team.precision == "float32":
        pytest.skip("no kernels for this model")
    pairs = [(source, [5, 6]) for source in PIECES.values()]
    scores = score_pairs(team.scorers, pairs, batch_tokens=100, fallback=team.scorers_in_float32)
    plain: Any = load(folder, "float32").loaded[0].model
    exact = score_pairs([plain], pairs, batch_tokens=100)
    assert any(score.retried for score in scores)
    found = [score.logprob for score, one in zip(scores, exact, strict=True) if score.retried]
    assert found == pytest.approx([one.logprob for score, one in zip(scores, exact, strict=True) if score.retried])


def test_an_ensemble_is_decoded_again_as_one(tmp_path: Path, vocab: Path) -> None:
    folders = [write(tmp_path / change, vocab, "transformer", change) for change in ("fp16 for some", "fp16")]
    team, plain = (load_team(folders, device="cpu", precision=precision) for precision in ("fp16", "float32"))
    again, exact = decoder(team), decoder(plain)
    found = dict(again.decode(ROWS, batch_tokens=100))
    expected = dict(exact.decode(ROWS, batch_tokens=100))
    assert again.retried
    for row in again.retried:
        assert [h.ids for h in found[row]] == [h.ids for h in expected[row]]


@pytest.mark.parametrize("precision", ["float32", "fp16", "bf16", "bf16x3", "int8"])
@pytest.mark.parametrize("arch", ["transformer", *AT_ONCE])
def test_what_is_no_number_in_float32_either_is_an_error(
    tmp_path: Path, vocab: Path, arch: str, precision: str
) -> None:
    """Also where a lower precision would turn it into a number again, as int8 may."""
    team = load(write(tmp_path / "model", vocab, arch, "nan"), here(precision))
    with pytest.raises(WorkError, match=f"NaN or infinite for {len(ROWS)} sentences"):
        list(decoder(team).decode(ROWS, batch_tokens=100))


def test_scores_that_are_no_numbers(tmp_path: Path, vocab: Path) -> None:
    team = load(write(tmp_path / "model", vocab, "transformer", "nan"), "float32")
    with pytest.raises(WorkError, match="log-probabilities of 2 pairs are NaN or infinite") as caught:
        score_pairs(team.scorers, [([5], [6]), ([7, 8], [9])], batch_tokens=100)
    assert caught.value.where == "of 2 pairs, number 1, 2"


@pytest.mark.parametrize("lower", ["team", "judge"])
def test_a_judge_that_overflows(tmp_path: Path, vocab: Path, lower: str) -> None:
    """Of a parallel decode that is rescored, whichever side overflows, the sentence is decoded again."""
    writes = write(tmp_path / "nat", vocab, "nat", "fp16")
    judges = write(tmp_path / "judge", vocab, "transformer", "fp16")
    precisions = ("fp16", "float32") if lower == "team" else ("float32", "fp16")
    team, judge = (load(folder, which) for folder, which in zip((writes, judges), precisions, strict=True))
    settings = ParallelSettings(candidates=2, nbest=2)
    search = parallel_search(team, settings, judge)
    found = dict(search.decode(ROWS, batch_tokens=100))
    exact = parallel_search(load(writes, "float32"), settings, load(judges, "float32"))
    expected = dict(exact.decode(ROWS, batch_tokens=100))
    assert search.retried
    for row in search.retried:
        assert [h.ids for h in found[row]] == [h.ids for h in expected[row]]
