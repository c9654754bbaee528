"""Export to transformers, whose own classes load the folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from seqkd.errors import ConflictError, ModelError
from seqkd.interop.huggingface import import_model
from seqkd.interop.huggingface_export import export_model
from seqkd.interop.huggingface_files import HuggingfaceFiles
from seqkd.models.checkpoint import load_model, save_model
from seqkd.models.registry import build
from seqkd.models.transformer import Transformer
from seqkd.search import BeamSearch, BeamSettings
from seqkd.search.plain.transformer import IncrementalTransformer
from seqkd.text.vocabulary import EOS_ID, PAD_ID, Vocabulary

TEXTS = ["the small cat sat down", "a dog ran to the old house", "the cat saw a dog", "down the road ran a small fox"]
OTHERS = ["die kleine katze lag da", "ein hund lief zum alten haus", "die katze sah ihn", "da lief ein kleiner fuchs"]
SETTINGS: dict[str, Any] = {
    "dim": 16,
    "heads": 2,
    "ffn_dim": 24,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "dropout": 0.1,
    "norm": "post",
    "positions": "sinusoidal",
    "activation": "relu",
    "embeddings": "shared",
    "max_positions": 40,
}


def vocabulary(path: Path, texts: list[str], size: int) -> Vocabulary:
    return Vocabulary.train(
        texts, path, size=size, type="unigram", byte_fallback=False, character_coverage=1.0, symbols=(), seed=1
    )


def model_folder(folder: Path, *, arch: str = "transformer", **changes: Any) -> Path:
    """A random model that likes to end sentences."""
    settings = SETTINGS | changes
    target = vocabulary(folder / "target.model", TEXTS, 28)
    source = target if settings["embeddings"] == "shared" else vocabulary(folder / "source.model", OTHERS, 26)
    torch.manual_seed(1)
    model = build(arch, settings, source_vocab=source.size, target_vocab=target.size)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.5)
        if isinstance(model, Transformer):
            last = "decoder_norm" if settings["norm"] == "pre" else f"decoder.{settings['decoder_layers'] - 1}.ffn_norm"
            end = model.output_weight[EOS_ID]
            strength = 6.0 if settings["embeddings"] == "shared" else 4.0
            model.get_parameter(f"{last}.bias").add_(strength * end / end.norm())
    out = folder / "model"
    out.mkdir()
    other = None if source is target else source.path
    save_model(out, model, arch=arch, settings=settings, vocab=target.path, source_vocab=other)
    return out


@pytest.fixture(scope="module")
def transformers() -> Any:
    from seqkd.interop import huggingface_library

    return huggingface_library.transformers


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, "marian"),
        ({"positions": "learned", "embeddings": "separate", "activation": "gelu"}, "marian"),
        ({"embeddings": "decoder"}, "marian"),
        (
            {"activation": "swish", "start": 1, "output_bias": True, "scale_embeddings": False, "position_offset": 0},
            "marian",
        ),
        ({"norm": "pre"}, "m2m_100"),
    ],
)
def test_transformers_gives_the_same_logits_and_translations(
    tmp_path: Path, transformers: Any, changes: dict[str, Any], kind: str
) -> None:
    folder = model_folder(tmp_path, **changes)
    export_model(folder, tmp_path / "out")
    loaded = load_model(folder)
    ours, vocabularies = loaded.model, loaded.vocabularies
    assert isinstance(ours, Transformer)
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs.config.model_type == kind

    texts = TEXTS if vocabularies.joint else OTHERS
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    sources = vocabularies.source.encode(texts)
    found = [row[mask.bool()].tolist() for row, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]
    assert found == [[*ids, EOS_ID] for ids in sources]
    target = torch.tensor([[7, 9, 25], [11, 3, 8], [4, 5, 6], [12, 12, 20]])
    target = torch.nn.functional.pad(target, (1, 0), value=ours.start_id)
    with torch.no_grad():
        logits = theirs(**batch, decoder_input_ids=target).logits
        assert torch.allclose(logits, ours(batch.input_ids, target), atol=1e-4)

    search = BeamSearch([IncrementalTransformer(ours)], BeamSettings())
    best = {row: hypotheses[0] for row, hypotheses in search.decode(enumerate(sources), batch_tokens=1000)}
    assert {hypothesis.ended for hypothesis in best.values()} == {"eos"}
    assert max(len(hypothesis.ids) for hypothesis in best.values()) > 1
    written = theirs.generate(**batch)[:, 1:]
    assert [[i for i in row.tolist() if i not in (EOS_ID, PAD_ID)] for row in written] == [
        list(best[row].ids) for row in range(len(texts))
    ]
    assert tokenizer.batch_decode(written, skip_special_tokens=True) == vocabularies.target.decode(
        [list(best[row].ids) for row in range(len(texts))]
    )


@pytest.mark.parametrize(
    "changes",
    [{"norm": "pre"}, {}, {"activation": "swish", "output_bias": True, "embeddings": "separate"}],
    ids=["m2m100", "marian", "marian, two tables"],
)
def test_an_exported_folder_can_be_imported(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = model_folder(tmp_path, **changes)
    export_model(folder, tmp_path / "out")
    import_model(tmp_path / "out", tmp_path / "again", HuggingfaceFiles())
    first, again = load_model(folder), load_model(tmp_path / "again")
    for one, other in zip(first.vocabularies.sides(), again.vocabularies.sides(), strict=True):
        assert one[1].pieces() == other[1].pieces()
        assert one[1].encode(TEXTS + OTHERS) == other[1].encode(TEXTS + OTHERS)
    source, target = torch.tensor([[7, 9, 12, EOS_ID]]), torch.tensor([[EOS_ID, 11, 3, 8]])
    assert isinstance(first.model, Transformer)
    assert isinstance(again.model, Transformer)
    with torch.inference_mode():
        torch.testing.assert_close(again.model(source, target), first.model(source, target), rtol=0, atol=1e-6)
    assert (again.model.output_bias is None) == (first.model.output_bias is None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "sru"}, "no equivalent of the architecture 'sru'"),
        (
            {"activation": "swiglu", "start": "zero"},
            r"(?s)activation is 'swiglu', expected .*start is 'zero', expected",
        ),
        ({"embedding_norm": True}, "embedding_norm is true, expected false"),
        ({"norm_epsilon": 1e-6}, "norm_epsilon is 1e-06, expected 1e-05"),
        ({"norm": "pre", "position_offset": 0}, "position_offset is 0, expected 2"),
        ({"norm": "pre", "output_bias": True}, "output_bias is true, expected false"),
        ({"norm": "pre", "positions": "learned"}, "positions is 'learned', expected 'sinusoidal'"),
        ({"norm": "pre", "embeddings": "decoder"}, "embeddings is 'decoder', expected 'shared'"),
    ],
)
def test_a_model_without_an_equivalent_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        export_model(model_folder(tmp_path, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_model_does_not_replace_an_export_unasked(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    export_model(model_folder(tmp_path), tmp_path / "out")
    other = model_folder(tmp_path / "other", dim=24)
    with pytest.raises(ConflictError, match=r"inputs\.model"):
        export_model(other, tmp_path / "out")
    export_model(other, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out.old" / "model.safetensors").exists()
