"""Teachers whose numbers overflow in bf16 and fp16: what stages count and say, and that float32 is what they wrote."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pytest
import torch

from seqkd.config.stages import EvaluateConfig, SearchConfig, SoftTargetsConfig
from seqkd.corpus.manifest import read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.search import BeamSettings
from seqkd.search.cpu.weights import available
from seqkd.search.loading import HARDWARE, Precision, load_team
from seqkd.stages.distill import distill, soft_targets
from seqkd.stages.evaluate import evaluate
from seqkd.stages.prepare import prepare
from seqkd.tools.score import score_files
from seqkd.tools.translate import Translator, translate_lines
from seqkd.training.soft import SoftTable
from tests.events import interrupted_before
from tests.torture.table import Record
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import make_teacher, soft_config
from tests.unit.stages.whole_run import beyond_bf16, decode_config

ROWS = 200


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("overflow")
    prepare.run(prepare_config(folder), folder / "gold")
    beyond_bf16(make_teacher(folder / "teacher", folder / "gold" / "vocab.model"))
    return folder


def told(record: Record, stage: str, precision: str, rows: int) -> None:
    record(
        "numbers of a model overflow",
        "a weight that float32 holds and a lower precision does not",
        rows,
        "each of these rows was done again in float32 and counted in the manifest; what came out is what float32 gives",
        of=f"`{stage}` in {precision}",
    )


@pytest.mark.parametrize("precision", ["fp16", "bf16", "bf16x3", "int8"])
def test_distill(root: Path, tmp_path: Path, record: Record, precision: Precision) -> None:
    if precision != "fp16" and precision in HARDWARE and not available(precision):
        pytest.skip("this CPU has no products for it")
    exact = decode_config(root)
    distill.run(exact, tmp_path / "exact", device="cpu")
    distill.run(exact.model_copy(update={"precision": precision}), tmp_path / "low", device="cpu")
    assert read_manifest(tmp_path / "exact").counts == {}
    assert read_manifest(tmp_path / "low").counts == {"retried in float32": ROWS}
    found, expected = (Corpus.open(tmp_path / name) for name in ("low", "exact"))
    for one, two in zip(found.tables(["id", "hypotheses"]), expected.tables(["id", "hypotheses"]), strict=True):
        ids = [[[h["ids"] for h in row["hypotheses"]] for row in table.to_pylist()] for table in (one, two)]
        assert ids[0] == ids[1]
    told(record, "distill", precision, ROWS)


def test_soft_targets(root: Path, tmp_path: Path, record: Record) -> None:
    exact = soft_config(root / "gold", root / "teacher", top_k=4)
    low = SoftTargetsConfig(**{**exact.model_dump(), "precision": "bf16"})
    soft_targets.run(exact, tmp_path / "exact", device="cpu")
    soft_targets.run(low, tmp_path / "low", device="cpu")
    assert read_manifest(tmp_path / "exact").counts == {}
    assert read_manifest(tmp_path / "low").counts == {"retried in float32": ROWS}
    rows, _, _ = Corpus.open(root / "gold" / "train").lengths()
    low_ids, exact_ids = (SoftTable(Corpus.open(tmp_path / name)).of(rows).ids for name in ("low", "exact"))
    assert torch.equal(low_ids, exact_ids)
    told(record, "soft_targets", "bf16", ROWS)
    # A run that goes on still knows what an earlier one counted.
    shutil.copytree(tmp_path / "low", tmp_path / "resumed")
    for name in ("manifest.json", "shard-00001.arrow"):
        (tmp_path / "resumed" / name).unlink()
    (tmp_path / "resumed" / "partial.json").write_bytes(_partial(low, tmp_path))
    soft_targets.run(low, tmp_path / "resumed", device="cpu")
    assert read_manifest(tmp_path / "resumed").digest() == read_manifest(tmp_path / "low").digest()


def _partial(config: SoftTargetsConfig, folder: Path) -> bytes:
    """What a run that was stopped at its first shard leaves."""
    with interrupted_before("shard-00000.arrow"), pytest.raises(KeyboardInterrupt):
        soft_targets.run(config, folder / "stopped", device="cpu")
    return (folder / "stopped" / "partial.json").read_bytes()


def test_evaluate(root: Path, tmp_path: Path, record: Record) -> None:
    config = EvaluateConfig(
        name="teacher", model=root / "teacher", role="student", corpus=root / "gold" / "test", trained_on="gold",
        beams=(1, 2), search=SearchConfig(max_length_extra=5), batch_tokens=200, precision="fp16",
        timed=False,
    )  # fmt: skip
    evaluate.run(config, tmp_path / "out", device="cpu")
    evaluate.run(config.model_copy(update={"precision": "float32"}), tmp_path / "exact", device="cpu")
    assert read_manifest(tmp_path / "out").counts == {"retried in float32": 3 * 10}  # two beams and the perplexity
    for name in ("hypotheses.beam1.txt", "hypotheses.beam2.txt"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "exact" / name).read_text()
    told(record, "evaluate", "fp16", 3 * 10)


def test_translate_and_score(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    written = {}
    for precision in ("fp16", "float32"):
        team = load_team([root / "teacher"], device="cpu", precision=precision)
        translator = Translator(team, BeamSettings(beam=2, max_length_extra=5), batch_tokens=200)
        out, scores = io.BytesIO(), io.BytesIO()
        translate_lines(translator, [[b"hund katze", b"", b"rot"]], out, as_json=False)
        files = (root / "test.de", root / "test.en")
        score_files([root / "teacher"], *files, scores, device="cpu", precision=precision, batch_tokens=200)
        written[precision] = out.getvalue(), scores.getvalue()
        said = capfd.readouterr().err
        assert ("line 1 overflowed in fp16: decoded in float32" in said) == (precision == "fp16")
        assert ("10 pairs overflowed in fp16 and were scored again in float32" in said) == (precision == "fp16")
        assert "line 2" not in said
    assert written["fp16"] == written["float32"]
