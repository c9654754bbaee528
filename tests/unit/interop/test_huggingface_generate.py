"""transformers as a source of k-best lists: its own lists, with scores that forced decoding confirms."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from seqkd.errors import ModelError
from seqkd.interop.huggingface_generate import GenerateSettings, Generator, inputs
from seqkd.interop.huggingface_library import transformers
from seqkd.interop.sources import Place, Row
from tests.unit.interop import huggingface_support as make
from tests.unit.interop.huggingface_support import SENTENCES

HERE = Place(device="cpu", threads=1)
ASK = "translate: "


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("t5") / "model"
    return make.t5(folder), folder


def rows(count: int) -> list[Row]:
    return [Row(id=number, text=text, ids=[]) for number, text in enumerate(SENTENCES[:count])]


def test_lists_are_those_of_the_library_and_log_probabilities_those_of_forced_decoding(t5: tuple[Any, Path]) -> None:
    model, folder = t5
    settings = GenerateSettings(
        model=str(folder), nbest=2, beam=3, length_penalty=0.5, max_new_tokens=8, text_prefix=ASK, batch_rows=2
    )
    found = Generator(settings, HERE)(rows(3)).lists
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for row, candidates in zip(rows(3), found, strict=True):
        batch = tokenizer([ASK + row.text], return_tensors="pt")
        made = model.generate(
            **batch, num_beams=3, num_return_sequences=2, length_penalty=0.5, max_new_tokens=8, max_length=None
        )
        texts = tokenizer.batch_decode(made, skip_special_tokens=True)
        assert [candidate.text for candidate in candidates] == texts
        for ids, candidate in zip(made, candidates, strict=True):
            written = ids[1:][ids[1:].ne(0)]
            with torch.no_grad():
                logits = model(**batch, decoder_input_ids=ids[None, : len(written)]).logits[0]
            logprob = float(logits.log_softmax(-1).gather(1, written[:, None]).sum())
            assert candidate.logprob == pytest.approx(logprob, abs=1e-4)
            assert candidate.score == pytest.approx(logprob / len(written) ** 0.5, abs=1e-4)
            assert candidate.ended == ("eos" if written[-1] == 1 else "max_length")
            assert candidate.ids is None


def test_a_model_whose_weights_are_missing_is_refused(t5: tuple[Any, Path], tmp_path: Path) -> None:
    """The library itself would go on with random ones."""
    folder = tmp_path / "model"
    shutil.copytree(t5[1], folder)
    config = json.loads((folder / "config.json").read_text()) | {"num_decoder_layers": 3}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"weights are missing: decoder\.block\.2"):
        Generator(GenerateSettings(model=str(folder)), HERE)


def test_a_model_with_code_of_its_own_is_refused(t5: tuple[Any, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(t5[1], folder)
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": {"AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config\.json: the model needs Python code of its own \(auto_map\)"):
        Generator(GenerateSettings(model=str(folder)), HERE)


def test_the_digest_is_that_of_the_files(t5: tuple[Any, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(t5[1], folder)
    one, other = GenerateSettings(model=str(t5[1])), GenerateSettings(model=str(folder))
    assert inputs(one) == inputs(other)
    (folder / "generation_config.json").write_text("{}")
    assert inputs(one) != inputs(other)


def test_more_hypotheses_than_beams_are_refused() -> None:
    with pytest.raises(ValueError, match="nbest 6 is more than beam 5"):
        GenerateSettings(model="x", nbest=6)
