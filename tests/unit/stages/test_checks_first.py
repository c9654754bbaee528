"""Wrong inputs of a stage are told before its folder is begun, so that corrected ones meet no conflict."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from seqkd.config.stages import DistillConfig, EvaluateConfig, SelectConfig
from seqkd.config.toml import validate
from seqkd.errors import InputError
from seqkd.stages.distill import distill, soft_targets
from seqkd.stages.evaluate import evaluate
from seqkd.stages.prepare import prepare
from seqkd.stages.select import select
from seqkd.text.vocabulary import Vocabulary
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import make_teacher, soft_config

Stage = Callable[[Path, Path], None]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus, k-best lists, a good model, one of another vocabulary, and one that writes all at once."""
    folder = tmp_path_factory.mktemp("root")
    prepare.run(prepare_config(folder), folder / "gold")
    Vocabulary.train(
        ["anderer text hier", "noch mehr text"] * 20,
        folder / "other.model",
        size=30,
        type="bpe",
        byte_fallback=False,
        character_coverage=1.0,
        symbols=(),
        seed=1,
    )
    make_teacher(folder / "good", folder / "gold" / "vocab.model")
    make_teacher(folder / "stranger", folder / "other.model")
    make_teacher(folder / "nat", folder / "gold" / "vocab.model", arch="nat")
    distilled((folder / "good",), folder, folder / "kbest")
    return folder


def distilled(models: tuple[Path, ...], root: Path, out: Path) -> None:
    values = {"models": models, "corpus": root / "gold" / "train", "workers": 1, "search": {"beam": 2, "nbest": 2}}
    distill.run(validate(DistillConfig, values, "test"), out, device="cpu")


def selected(rerank: dict[str, Path], root: Path, out: Path) -> None:
    gold = {"gold": root / "gold" / "train", "prepared": root / "gold", "kbest": root / "kbest", "workers": 1}
    rule = {"rule": "rerank", "rerank": rerank} if rerank else {"rule": "seqkd"}
    select.run(validate(SelectConfig, {**gold, **rule}, "test"), out, device="cpu")


def evaluated(model: str, decode: list[dict[str, object]], root: Path, out: Path) -> None:
    values = {"name": "x", "model": root / model, "role": "teacher", "corpus": root / "gold" / "test", "decode": decode}
    evaluate.run(validate(EvaluateConfig, values, "test"), out, device="cpu")


STAGES: dict[str, tuple[Stage, Stage, str]] = {
    "distill: a second teacher of another vocabulary": (
        lambda root, out: distilled((root / "good", root / "stranger"), root, out),
        lambda root, out: distilled((root / "good", root / "good"), root, out),
        "the target vocabulary of this teacher is not that of the corpus",
    ),
    "distill: a teacher that writes all positions at once": (
        lambda root, out: distilled((root / "nat",), root, out),
        lambda root, out: distilled((root / "good",), root, out),
        "'nat' gives no distributions position by position",
    ),
    "soft targets: a second teacher of another vocabulary": (
        lambda root, out: soft_targets.run(soft_config(root / "gold", root / "good", root / "stranger"), out),
        lambda root, out: soft_targets.run(soft_config(root / "gold", root / "good"), out),
        "the target vocabulary of this teacher is not that of the corpus",
    ),
    "soft targets: a teacher that writes all positions at once": (
        lambda root, out: soft_targets.run(soft_config(root / "gold", root / "nat"), out),
        lambda root, out: soft_targets.run(soft_config(root / "gold", root / "good"), out),
        "'nat' gives no distributions position by position",
    ),
    "select: a model that writes all positions at once reranks": (
        lambda root, out: selected({"forward": root / "nat"}, root, out),
        lambda root, out: selected({}, root, out),
        "writes all positions at once",
    ),
    "select: the same of the other direction": (
        lambda root, out: selected({"reverse": root / "nat"}, root, out),
        lambda root, out: selected({}, root, out),
        "writes all positions at once",
    ),
    "evaluate: a decode that the model has no use for": (
        lambda root, out: evaluated("good", [{"name": "x"}], root, out),
        lambda root, out: evaluated("good", [], root, out),
        "goes left to right",
    ),
    "evaluate: a strategy that the model lacks": (
        lambda root, out: evaluated("nat", [{"name": "x", "strategy": "lookahead"}], root, out),
        lambda root, out: evaluated("nat", [], root, out),
        "lookahead",
    ),
}


@pytest.mark.parametrize("case", STAGES)
def test_a_refused_input_leaves_no_folder_and_the_corrected_one_is_taken(root: Path, tmp_path: Path, case: str) -> None:
    wrong, right, message = STAGES[case]
    with pytest.raises(InputError, match=message):
        wrong(root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    right(root, tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").is_file()
