"""Import of fairseq models as they are published: codes, Moses tokenisation, both kinds of checkpoints, an ensemble."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqkd.cli.main import main
from seqkd.interop.fairseq_checkpoint import SAFE
from seqkd.search import BeamSettings
from seqkd.search.loading import load_team
from seqkd.text.codes import MosesSettings
from seqkd.tools.translate import Translator
from seqkd.tools.verify import verify
from tests.unit.text.test_codes import TEXTS, write_files

pytest.importorskip("fairseq", reason="the reference: pip install 'seqkd[fairseq]', as `make test` does")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]  # Hydra warns a lot

LONGEST = 15
MOSES = MosesSettings(language="en", dash_splits=False, escape=True)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, their dictionaries and codes: `args` with meters, and `cfg` with BLEU's counts."""
    from fairseq.data import Dictionary
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq.meters import AverageMeter, StopwatchMeter
    from fairseq.models.transformer import TransformerModel, base_architecture
    from omegaconf import OmegaConf

    folder = tmp_path_factory.mktemp("published")
    codes, symbols, _ = write_files(folder, MOSES)
    codes.rename(folder / "bpecodes")
    for side in ("en", "xx"):
        (folder / f"dict.{side}.txt").write_bytes(symbols.read_bytes())
    dictionary = Dictionary.load(str(symbols))
    both = {"embed_dim": 16, "ffn_embed_dim": 24, "attention_heads": 2, "layers": 1}
    values: dict[str, Any] = {
        f"{stack}_{name}": value for stack in ("encoder", "decoder") for name, value in both.items()
    }
    values |= {"task": "translation", "arch": "transformer", "source_lang": "en", "target_lang": "xx", "data": "."}
    args = argparse.Namespace(**values, share_all_embeddings=True, max_source_positions=60, max_target_positions=60)
    base_architecture(args)
    for seed, name in enumerate(("a.pt", "b.pt")):
        torch.manual_seed(seed)
        task = argparse.Namespace(source_dictionary=dictionary, target_dictionary=dictionary)
        model = TransformerModel.build_model(args, task)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(0.3 * torch.randn_like(weight))
        contents = {
            "args": args,
            "model": model.state_dict(),
            "optimizer_history": [
                {"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 1}
            ],
            "extra_state": {
                "train_iterator": {"epoch": 1},
                "train_meters": {"wps": AverageMeter(), "wall": StopwatchMeter()},
            },
        }
        if name == "b.pt":
            cfg = OmegaConf.to_container(convert_namespace_to_omegaconf(args), resolve=True, enum_to_str=True)
            counts = {"_bleu_counts": np.array([3, 2, 1, 0]), "_bleu_sys_len": np.float64(4.0), "ref": np.int64(3)}
            contents |= {"args": None, "cfg": cfg, "extra_state": {"train_iterator": {"epoch": 1}, "metrics": counts}}
        torch.save(contents, folder / name)
    return folder


def command(published: Path, out: Path, *more: str, checkpoint: str = "a.pt") -> int:
    return main(
        [
            *("import", "fairseq", str(published / checkpoint), "--out", str(out)),
            *("--dictionary", str(published / "dict.xx.txt"), "--bpe-codes", str(published / "bpecodes")),
            *("--moses-source", "en", "--moses-target", "en", "--moses-no-dash-splits", *more),
        ]
    )


def test_an_ensemble_translates_text_as_fairseqs_hub_does(published: Path, tmp_path: Path) -> None:
    from fairseq.models.transformer import TransformerModel

    names = f"a.pt:{published / 'b.pt'}"
    assert command(published, tmp_path / "teacher", checkpoint=names) == 0
    folders = [tmp_path / "teacher", tmp_path / "teacher-2"]
    settings = BeamSettings(beam=3, max_length_ratio=0.0, max_length_extra=LONGEST)
    ours = Translator(load_team(folders, device="cpu", precision="float32"), settings, batch_tokens=500)
    with torch.serialization.safe_globals(SAFE):
        theirs = TransformerModel.from_pretrained(
            *(str(published), "a.pt:b.pt", str(published)),
            **{"bpe": "subword_nmt", "bpe_codes": str(published / "bpecodes"), "tokenizer": "moses"},
            **{"source_lang": "en", "target_lang": "en", "moses_no_dash_splits": True},
        )
    texts = [text for text in TEXTS if text and "<s>" not in text]
    expected = theirs.translate(texts, beam=3, max_len_a=0, max_len_b=LONGEST)
    found = [lists[0].text for lists in ours(texts)]
    assert found == [text.replace("<unk>", "\u2047") for text in expected]
    assert len(set(found)) > 1
    for folder in folders:
        assert verify(folder).problems == []


def test_nothing_is_made_if_one_of_several_files_is_no_checkpoint(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(published, tmp_path / "teacher", checkpoint=f"a.pt:{published / 'none.pt'}") == 2
    assert "none.pt" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sentencepiece", "spm.model"], "give either --bpe-codes or --sentencepiece"),
        (["--source-dictionary", "none.txt"], "none.txt: cannot be read"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert command(published, tmp_path / "out", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
