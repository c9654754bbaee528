"""Options of the search against fairseq's, on a small random Transformer whose sentences end by themselves."""

from __future__ import annotations

import argparse
import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from seqkd.interop.fairseq import build_model
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.plain.transformer import IncrementalTransformer
from tests.integration.fairseq_support import left_padded

pytest.importorskip("fairseq", reason="the reference: pip install 'seqkd[fairseq]', as `make test` does")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]  # Hydra warns a lot

PAD, EOS, UNK = 1, 2, 3
PIECES = 41
BEAM = 6
MAX_LENGTH = 40


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any, IncrementalTransformer]:
    """fairseq's dictionary and model, and ours with the same weights."""
    from fairseq.data import Dictionary
    from fairseq.models.transformer import TransformerModel

    dictionary = Dictionary()
    for symbol in range(PIECES - 4):
        dictionary.add_symbol(f"s{symbol}")
    torch.manual_seed(5)
    theirs = TransformerModel.build_model(
        architecture(), argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
    ).eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            if weight.dim() > 1:
                weight.mul_(2.0)
        # There is no bias in the output layer: a direction that all features share stands in for one.
        theirs.decoder.layer_norm.bias.fill_(0.5)
        theirs.decoder.output_projection.weight[EOS] += 0.8
        theirs.decoder.output_projection.weight[UNK] += 0.6
    return dictionary, theirs, ours_like(theirs)


def architecture() -> argparse.Namespace:
    """fairseq's arguments of the model."""
    from fairseq.models.transformer import base_architecture

    arguments = argparse.Namespace(
        encoder_layers=1,
        decoder_layers=2,
        encoder_embed_dim=16,
        decoder_embed_dim=16,
        encoder_ffn_embed_dim=32,
        decoder_ffn_embed_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_normalize_before=True,
        decoder_normalize_before=True,
        max_source_positions=64,
        max_target_positions=64,
    )
    base_architecture(arguments)
    return arguments


def ours_like(theirs: Any) -> IncrementalTransformer:
    """Our model with the weights of fairseq's."""
    contents = {"args": architecture(), "cfg": None, "model": theirs.state_dict()}
    ours, _ = build_model(contents, Path("checkpoint.pt"), source_pieces=PIECES, target_pieces=PIECES)
    return IncrementalTransformer(ours)


def sources() -> list[list[int]]:
    draw = random.Random(4)
    return [[draw.randrange(4, PIECES) for _ in range(draw.randint(1, 9))] for _ in range(30)]


def reference(
    dictionary: Any,
    model: Any,
    *,
    prefix: list[int] | None = None,
    adjust: Callable[[Any], None] | None = None,
    **options: Any,
) -> list[list[tuple[list[int], float]]]:
    from fairseq.sequence_generator import SequenceGenerator

    generator = SequenceGenerator(
        [model], dictionary, beam_size=BEAM, max_len_a=0, max_len_b=MAX_LENGTH, len_penalty=0.8, **options
    )
    if adjust is not None:
        adjust(generator)
    rows = sources()
    forced = None if prefix is None else torch.tensor([prefix] * len(rows))
    found = generator.generate([model], {"net_input": left_padded(rows)}, prefix_tokens=forced)
    return [[(h["tokens"].tolist()[:-1], float(h["score"])) for h in hypotheses] for hypotheses in found]


def compare(
    pair: tuple[Any, Any, IncrementalTransformer], expected: list[list[tuple[list[int], float]]], **options: Any
) -> None:
    prefix = options.pop("prefix", ())
    chosen = BeamSettings(
        beam=BEAM, nbest=BEAM, length_penalty=0.8, max_length_ratio=0.0, max_length_extra=MAX_LENGTH, **options
    )
    found = dict(BeamSearch([pair[2]], chosen).decode(enumerate(sources()), batch_tokens=80, prefix=prefix))
    # At the longest output fairseq's groups penalise each other for the end that all of them have to take; ours do not.
    whole = [row for row in found if all(h.ended == "eos" for h in found[row])]
    assert len(whole) > 0.6 * len(found)
    for row in whole if "diverse_groups" in options else found:
        theirs = expected[row]
        assert [h.ids for h in found[row]] == [ids for ids, _ in theirs], f"row {row}"
        assert [h.score for h in found[row]] == pytest.approx([score for _, score in theirs], abs=1e-4)


def test_without_options(pair: tuple[Any, Any, IncrementalTransformer]) -> None:
    compare(pair, reference(*pair[:2]))


@pytest.mark.parametrize("penalty", [0.5, 3.0])
def test_unknown_piece_penalty(pair: tuple[Any, Any, IncrementalTransformer], penalty: float) -> None:
    plain, expected = reference(*pair[:2]), reference(*pair[:2], unk_penalty=penalty)
    assert plain != expected
    compare(pair, expected, unk_penalty=penalty)


def test_temperature(pair: tuple[Any, Any, IncrementalTransformer]) -> None:
    compare(pair, reference(*pair[:2], temperature=1.4), temperature=1.4)


def test_an_ensembles_temperature(pair: tuple[Any, Any, IncrementalTransformer]) -> None:
    from fairseq.sequence_generator import SequenceGenerator

    dictionary, theirs, ours = pair
    other = copy.deepcopy(theirs)
    torch.manual_seed(6)
    with torch.no_grad():
        for weight in other.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    options: dict[str, Any] = {"beam_size": BEAM, "max_len_a": 0, "max_len_b": MAX_LENGTH, "temperature": 1.6}
    generator = SequenceGenerator([theirs, other], dictionary, **options)
    expected = generator.generate([theirs, other], {"net_input": left_padded(sources())})
    chosen = BeamSettings(beam=BEAM, nbest=BEAM, max_length_ratio=0.0, max_length_extra=MAX_LENGTH, temperature=1.6)
    search = BeamSearch([ours, ours_like(other)], chosen)
    for row, found in search.decode(enumerate(sources()), batch_tokens=80):
        assert [h.ids for h in found] == [h["tokens"].tolist()[:-1] for h in expected[row]], f"row {row}"
        assert [h.score for h in found] == pytest.approx([float(h["score"]) for h in expected[row]], abs=1e-4)


def test_shortest_length(pair: tuple[Any, Any, IncrementalTransformer]) -> None:
    compare(pair, reference(*pair[:2], min_len=7), min_length=7)


@pytest.mark.parametrize("prefix", [[9], [8, UNK, 30]])
def test_forced_prefix(pair: tuple[Any, Any, IncrementalTransformer], prefix: list[int]) -> None:
    expected = reference(*pair[:2], prefix=prefix)
    assert all(ids[: len(prefix)] == prefix for hypotheses in expected for ids, _ in hypotheses)
    compare(pair, expected, prefix=prefix)


@pytest.mark.parametrize("size", [2, 3])
def test_no_repeated_ngrams(pair: tuple[Any, Any, IncrementalTransformer], size: int) -> None:
    def mend(generator: Any) -> None:
        # On the CPU fairseq 0.12 compares with the padding behind the tokens and so finds no repetition; it is
        # given the tokens without that padding.
        block = generator.repeat_ngram_blocker

        def blocked(tokens: Tensor, lprobs: Tensor, sentences: int, beam: int, step: int) -> Tensor:
            mended: Tensor = block(tokens[:, : step + 1], lprobs, sentences, beam, step)
            return mended

        del generator.repeat_ngram_blocker
        generator.repeat_ngram_blocker = blocked

    expected = reference(*pair[:2], no_repeat_ngram_size=size, adjust=mend)
    assert expected != reference(*pair[:2])
    compare(pair, expected, no_repeat_ngram_size=size)


@pytest.mark.parametrize(("groups", "strength"), [(1, 0.5), (2, 0.5), (3, 0.8), (6, 0.3)])
def test_diverse_groups(pair: tuple[Any, Any, IncrementalTransformer], groups: int, strength: float) -> None:
    from fairseq.search import DiverseBeamSearch

    # Without discount fairseq counts the earlier steps' overlaps too, which the paper does not.
    strategy = DiverseBeamSearch(pair[0], groups, strength, diversity_discount=0.0, candidate_multiple=2)
    compare(pair, reference(*pair[:2], search_strategy=strategy), diverse_groups=groups, diverse_strength=strength)
