"""Imported models against the library: the same logits and the same k-best lists."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch

pytest.importorskip("transformers")

from seqkd.interop.huggingface import import_model
from seqkd.interop.huggingface_files import HuggingfaceFiles
from seqkd.interop.huggingface_library import transformers
from seqkd.models.checkpoint import load_model
from seqkd.search import BeamSearch, BeamSettings, score_pairs
from seqkd.search.loading import load_team
from seqkd.tools.translate import Translator
from tests.unit.interop import huggingface_support as make
from tests.unit.interop.huggingface_support import SENTENCES

TEXTS = [SENTENCES[0], SENTENCES[5], " ".join(SENTENCES[9:12])]


class Case(NamedTuple):
    make: Callable[[Path], Any]
    languages: Mapping[str, str] = MappingProxyType({})
    tag: str = ""


CASES = {
    "marian": Case(make.marian),
    "marian, several targets": Case(
        lambda folder: make.marian(folder, tags=(">>deu<<", ">>nld<<")), {"target_language": "nld"}, ">>nld<<"
    ),
    "marian, two tables": Case(
        lambda folder: make.marian(folder, share_encoder_decoder_embeddings=False, activation_function="relu")
    ),
    "nllb": Case(make.nllb, {"source_language": "eng_Latn", "target_language": "deu_Latn"}),
    "m2m100": Case(make.m2m100, {"source_language": "en", "target_language": "de"}),
    "mbart50": Case(make.mbart50, {"source_language": "en_XX"}),
    "mbart": Case(make.mbart, {"source_language": "en_XX"}),
    "bart": Case(make.bart),
}


class Pair(NamedTuple):
    """A model of the library, its folder, its tokenizer, and the folder of the imported model."""

    theirs: Any
    folder: Path
    tokenizer: Any
    out: Path
    case: Case


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder, case = tmp_path_factory.mktemp("models"), CASES[request.param]
    theirs = case.make(folder / "theirs")
    import_model(folder / "theirs", folder / "ours", HuggingfaceFiles(**case.languages))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
    if "source_language" in case.languages:
        tokenizer.src_lang = case.languages["source_language"]
    return Pair(theirs, folder / "theirs", tokenizer, folder / "ours", case)


def table_of(pair: Pair) -> list[int | None]:
    """The library's id for each of ours, found by the names of the pieces."""
    names = pair.tokenizer.get_vocab()
    return [names.get(piece) for piece in load_model(pair.out).vocabularies.target.pieces()]


def test_logits_are_those_of_the_library(pair: Pair) -> None:
    loaded = load_model(pair.out)
    target = loaded.vocabularies.target
    batch = pair.tokenizer([pair.case.tag + text for text in TEXTS], return_tensors="pt", padding=True)
    sources = [[*row, target.eos_id] for row in loaded.vocabularies.source.encode(TEXTS)]
    assert [len(row) for row in sources] == batch["attention_mask"].sum(1).tolist()
    width = max(map(len, sources))
    source = torch.tensor([[*row, *[target.pad_id] * (width - len(row))] for row in sources])
    table = table_of(pair)
    words = target.encode([" ".join(TEXTS)])[0]
    words = [index for index in words if table[index] is not None][:20]
    start = pair.theirs.generation_config.decoder_start_token_id
    read = torch.tensor([[start, *(table[index] for index in words)]] * len(TEXTS))
    model: Any = loaded.model
    with torch.no_grad():
        expected = pair.theirs(**batch, decoder_input_ids=read).logits
        found = model(source, torch.tensor([[model.start_id, *words]] * len(TEXTS)))
    known = [index for index, their in enumerate(table) if their is not None]
    assert len(known) > 80
    rows = [table[index] for index in known]
    torch.testing.assert_close(found[..., known], expected[..., rows], atol=1e-4, rtol=0)
    # Pieces that only one of them has take no probability away.
    torch.testing.assert_close(found.logsumexp(-1), expected.logsumexp(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("length_penalty", [0.0, 0.3])
def test_k_best_lists_are_those_of_the_library(pair: Pair, length_penalty: float) -> None:
    """With `early_stopping="never"` the library goes on as long as `stopping="exact"` does.

    Without it the lists can differ: if more hypotheses end in the last step than are needed, the library keeps those
    with the best scores, and seqkd, like fairseq, those with the best log-probabilities.
    """
    team = load_team([pair.out], device="cpu", precision="float32")
    vocabularies, table = team.loaded[0].vocabularies, table_of(pair)
    prefix = list(vocabularies.target.prefix)
    if prefix and length_penalty:
        pytest.skip("the library does not count the length and probability of a forced language, and seqkd does")
    settings = BeamSettings(
        beam=4,
        nbest=4,
        length_penalty=length_penalty,
        max_length_ratio=0.0,
        max_length_extra=20,
        stopping="exact",
        min_length=0,
    )
    search = BeamSearch(team.engines, settings, fallback=team.fallback, prefix=team.prefix)
    found = dict(search.decode(enumerate(vocabularies.source.encode(SENTENCES[:6])), batch_tokens=1000))
    start = [pair.theirs.generation_config.decoder_start_token_id, *(table[index] for index in prefix)]
    same = 0
    for row, text in enumerate(SENTENCES[:6]):
        with torch.no_grad():
            made = pair.theirs.generate(
                **pair.tokenizer([pair.case.tag + text], return_tensors="pt"),
                decoder_input_ids=torch.tensor([start]),
                num_beams=4,
                num_return_sequences=4,
                max_new_tokens=21 - len(prefix),
                length_penalty=length_penalty,
                early_stopping="never",
                forced_bos_token_id=None,
                suppress_tokens=[pair.tokenizer.pad_token_id],
                output_scores=True,
                return_dict_in_generate=True,
            )
        eos = pair.tokenizer.eos_token_id
        lists = [ids.tolist()[len(start) :] for ids in made.sequences]
        if not all(eos in ids for ids in lists) or any(h.ended != "eos" for h in found[row]):
            continue  # at the limit of the length seqkd forces the end, and the library stops without it
        same += 1
        expected = [ids[: ids.index(eos)] for ids in lists]
        assert [[table[index] for index in h.ids[len(prefix) :]] for h in found[row]] == expected
        first = found[row][0].score - float(made.sequences_scores[0])  # of the prefix
        assert prefix or first == pytest.approx(0.0, abs=1e-4)
        for hypothesis, score in zip(found[row], made.sequences_scores.tolist(), strict=True):
            assert hypothesis.score - score == pytest.approx(first, abs=1e-4)
    assert same >= 2


def test_translations_begin_with_the_language_and_texts_do_not_show_it(pair: Pair) -> None:
    team = load_team([pair.out], device="cpu", precision="float32")
    vocabularies = team.loaded[0].vocabularies
    settings = BeamSettings(beam=2, nbest=2, max_length_ratio=0.0, max_length_extra=8)
    translator = Translator(team, settings, batch_tokens=1000)
    found = translator([*TEXTS, ""])
    assert [translation.text for translation in found[-1]] == ["", ""]
    search = BeamSearch(team.engines, settings, prefix=team.prefix)
    lists = dict(search.decode(enumerate(vocabularies.source.encode(TEXTS)), batch_tokens=1000))
    prefix = list(vocabularies.target.prefix)
    for row, translations in enumerate(found[:-1]):
        assert all(hypothesis.ids[: len(prefix)] == prefix for hypothesis in lists[row])
        bare = vocabularies.target.decode([hypothesis.ids[len(prefix) :] for hypothesis in lists[row]])
        assert [translation.text for translation in translations] == bare
    assert (len(prefix) == 1) == (pair.case.make in (make.nllb, make.m2m100, make.mbart50))


def test_scores_of_given_translations_are_those_of_the_search(pair: Pair) -> None:
    team = load_team([pair.out], device="cpu", precision="float32")
    source = team.loaded[0].vocabularies.source.encode(TEXTS)
    settings = BeamSettings(beam=2, nbest=1, max_length_ratio=0.0, max_length_extra=8)
    search = BeamSearch(team.engines, settings, prefix=team.prefix)
    found = dict(search.decode(enumerate(source), batch_tokens=1000))
    scored = score_pairs(team.scorers, [(ids, found[row][0].ids) for row, ids in enumerate(source)], batch_tokens=100)
    for row, score in enumerate(scored):
        assert score.logprob == pytest.approx(found[row][0].logprob, abs=1e-4)
