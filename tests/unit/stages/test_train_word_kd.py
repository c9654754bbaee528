"""Training a student on a teacher's distributions, live and written down."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from seqkd.cli.main import main
from seqkd.config.stages import TrainConfig
from seqkd.config.toml import to_toml
from seqkd.corpus.manifest import Manifest, read_manifest, write_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.writer import write_shard
from seqkd.errors import ConfigError, ConflictError, CorpusError, InputError, ModelError, WorkError
from seqkd.models.checkpoint import load_model, model_digest, read_weights
from seqkd.objectives.divergence import Direction
from seqkd.objectives.teacher import Teacher
from seqkd.objectives.word_kd import WordKd
from seqkd.stages.distill import soft_targets
from seqkd.stages.prepare import prepare
from seqkd.stages.train import train
from seqkd.training.data import CorpusData, SpecialIds
from seqkd.training.soft import SoftTable
from tests.unit.objectives.support import loss_of
from tests.unit.stages.interrupted import stop_at
from tests.unit.stages.support import prepare_config
from tests.unit.stages.teachers import MODEL, make_teacher, soft_config, student_config

PIECES = 40


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    prepare.run(prepare_config(folder, size=PIECES), folder / "prepared")
    return folder / "prepared"


@pytest.fixture(scope="module")
def teacher(prepared: Path) -> Path:
    return make_teacher(prepared.parent / "teacher", prepared / "vocab.model")


@pytest.fixture(scope="module")
def soft(prepared: Path, teacher: Path) -> Path:
    folder = prepared.parent / "soft"
    soft_targets.run(soft_config(prepared, teacher, top_k=6), folder, device="cpu")
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_weights(folder / "model.safetensors")


def distance(one: Path, other: Path) -> float:
    a, b = weights(one), weights(other)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("arch", ["transformer", "lstm", "sru"])
def test_a_student_comes_near_a_live_teacher_of_another_architecture(
    prepared: Path, teacher: Path, tmp_path: Path, arch: str
) -> None:
    model: dict[str, Any] = {**MODEL, "arch": arch, "dropout": 0.0}
    if arch == "lstm":
        model = {name: value for name, value in model.items() if name not in ("heads", "ffn_dim")}
    config = student_config(
        prepared,
        {"teachers": [teacher], "alpha": 1.0, "direction": "reverse"},
        model=model,
        training={"max_updates": 30, "validate_every": 10},
    )
    train.run(config, tmp_path / "student", device="cpu")
    losses = [line["train_loss"] for line in json.loads((tmp_path / "student" / "history.json").read_text())]
    assert len(losses) == 3
    assert losses[-1] < 0.9 * losses[0]


def test_nothing_of_the_teacher_is_in_model_state_or_optimizer(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    settings = student_config(prepared, {"teachers": [teacher]}, training={"keep_state": True})
    train.run(settings, tmp_path / "student", device="cpu")
    student = load_model(tmp_path / "student").model
    parameters = list(student.parameters())
    assert sum(weight.numel() for weight in weights(tmp_path / "student").values()) == sum(
        weight.numel() for weight in parameters
    )
    state = torch.load(tmp_path / "student" / "state" / "last.pt", weights_only=True)
    assert state["model"].keys() == weights(tmp_path / "student").keys()
    assert len(state["optimizer"]["state"]) == len(parameters)
    inputs = read_manifest(tmp_path / "student").fingerprint["inputs"]
    assert inputs["teacher1"] == model_digest(teacher)
    assert str(teacher) not in (tmp_path / "student" / "manifest.json").read_text()


def test_another_teacher_is_another_student(prepared: Path, teacher: Path, tmp_path: Path) -> None:
    out = tmp_path / "student"
    train.run(student_config(prepared, {"teachers": [teacher]}), out, device="cpu")
    moved = shutil.copytree(teacher, tmp_path / "moved")
    before = model_digest(out)
    train.run(student_config(prepared, {"teachers": [moved]}), out, device="cpu")  # up to date: it only lies elsewhere
    assert model_digest(out) == before
    other = make_teacher(tmp_path / "other", prepared / "vocab.model", seed=2)
    with pytest.raises(ConflictError, match=r"inputs\.teacher1"):
        train.run(student_config(prepared, {"teachers": [other]}), out, device="cpu")
    with pytest.raises(ConflictError, match=r"inputs\.teacher2: \(absent\)"):
        train.run(student_config(prepared, {"teachers": [teacher, other]}), out, device="cpu")


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_written_down_whole_a_teacher_says_what_it_says_live(
    prepared: Path, teacher: Path, tmp_path: Path, direction: Direction
) -> None:
    soft_targets.run(soft_config(prepared, teacher, top_k=PIECES, temperature=2.0), tmp_path / "soft", device="cpu")
    student: Any = load_model(make_teacher(tmp_path / "student", prepared / "vocab.model", seed=5, dropout=0.0)).model
    data = CorpusData(
        Corpus.open(prepared / "train"),
        SpecialIds(pad=student.pad_id, eos=student.eos_id, start=student.start_id),
        unusable=student.unusable,
        batch_tokens=400,
        window=100,
        seed=1,
        soft=SoftTable(Corpus.open(tmp_path / "soft", "soft")),
    )
    asked: Any = load_model(teacher).model
    batch = data.load(data.plan(0)[0])
    results = []
    for live in (Teacher([asked]), None):
        objective = WordKd(temperature=2.0, alpha=0.9, direction=direction)
        loss = loss_of(objective, student.train(), batch, teacher=live).loss
        grads = torch.autograd.grad(loss, list(student.parameters()))
        results.append((loss.item(), torch.cat([grad.flatten() for grad in grads])))
    (live_loss, grad), (written_loss, written_grad) = results
    assert written_loss == pytest.approx(live_loss, rel=1e-3)  # float16
    assert float((written_grad - grad).norm()) < 2e-2 * float(grad.norm())  # probabilities in 5 bits


@pytest.mark.parametrize("live", [True, False])
def test_an_interrupted_run_ends_with_the_same_model(
    prepared: Path, teacher: Path, soft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, live: bool
) -> None:
    objective: dict[str, Any] = {"teachers": [teacher], "top_k": 4} if live else {"soft_targets": soft}
    config = student_config(prepared, objective, training={"max_updates": 20}, model={**MODEL, "dropout": 0.1})
    train.run(config, tmp_path / "whole", device="cpu")
    with monkeypatch.context() as patch:
        stop_at(patch, 10)
        with pytest.raises(WorkError, match="stopped at update 10 of 20"):
            train.run(config, tmp_path / "stopped", device="cpu")
    train.run(config, tmp_path / "stopped", device="cpu")
    assert model_digest(tmp_path / "whole") == model_digest(tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("live", [True, False])
def test_two_processes_equal_one_that_accumulates(
    prepared: Path, teacher: Path, soft: Path, tmp_path: Path, live: bool
) -> None:
    objective: dict[str, Any] = {"teachers": [teacher]} if live else {"soft_targets": soft}
    train.run(student_config(prepared, objective, training={"accumulate": 2}), tmp_path / "one", device="cpu")
    (tmp_path / "two.toml").write_text(to_toml(student_config(prepared, objective, training={"accumulate": 1})))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "seqkd"]
    words = ["train", "--config", str(tmp_path / "two.toml"), "--out", str(tmp_path / "two"), "--device", "cpu"]
    subprocess.run([sys.executable, *launch, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    one, two = (json.loads((tmp_path / name / "history.json").read_text())[-1] for name in ("one", "two"))
    for key in ("train_loss", "valid_nll"):
        assert one[key] == pytest.approx(two[key], rel=1e-4)


def rewritten(soft: Path, out: Path, keep: list[int] | None = None, *, cut: bool = False, **manifest: Any) -> Path:
    """A copy in one shard with its rows turned round, only some of them, or without each row's last position."""
    rows = [row for table in Corpus.open(soft).tables() for row in table.to_pylist()][::-1]
    rows = [row for row in rows if keep is None or row["id"] in keep]
    if cut:
        kept = len(rows[0]["sizes"]) - 1
        rows[0]["entries"] = rows[0]["entries"][: kept * len(rows[0]["entries"]) // (kept + 1)]
        for name in ("sizes", "spans", "tail_logprob"):
            rows[0][name] = rows[0][name][:-1]
    out.mkdir()
    shard = write_shard(out, 0, pa.Table.from_pylist(rows, schema=Corpus.open(soft).schema))
    old = read_manifest(soft)
    values = {"vocabulary": old.vocabulary, "fingerprint": old.fingerprint, "extra": old.extra, **manifest}
    write_manifest(out, Manifest(kind="soft", rows=len(rows), shards=[shard], **values))
    return out


def test_rows_are_joined_by_id_and_not_by_position(prepared: Path, soft: Path, tmp_path: Path) -> None:
    turned = rewritten(soft, tmp_path / "turned")
    train.run(student_config(prepared, {"soft_targets": soft}), tmp_path / "one", device="cpu")
    train.run(student_config(prepared, {"soft_targets": turned}), tmp_path / "two", device="cpu")
    assert distance(tmp_path / "one", tmp_path / "two") == 0.0


def test_what_does_not_fit_is_refused_before_the_folder_is_begun(
    prepared: Path, teacher: Path, soft: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    prepare.run(prepare_config(tmp_path / "elsewhere", size=35), tmp_path / "other")
    foreign = make_teacher(tmp_path / "foreign", tmp_path / "other" / "vocab.model")
    parallel = make_teacher(tmp_path / "nat", prepared / "vocab.model", arch="nat")
    valid = tmp_path / "valid"
    soft_targets.run(soft_config(prepared, teacher, corpus=prepared / "valid"), valid, device="cpu")
    warm, drawn = tmp_path / "warm", tmp_path / "drawn"
    soft_targets.run(soft_config(prepared, teacher, temperature=2.0), warm, device="cpu")
    soft_targets.run(soft_config(prepared, teacher, samples=8), drawn, device="cpu")
    cases: list[tuple[dict[str, Any], type[InputError], str]] = [
        (
            {"teachers": [foreign]},
            ModelError,
            "foreign: the target vocabulary of this teacher is not that of the corpus",
        ),
        ({"teachers": [teacher, foreign]}, ModelError, "foreign: the target vocabulary of this teacher is not that"),
        ({"teachers": [parallel]}, ModelError, "'nat' gives no distributions position by position"),
        ({"teachers": [tmp_path / "nowhere"]}, ModelError, "cannot be read|no such"),
        ({"soft_targets": prepared / "train"}, CorpusError, "is of kind 'corpus'"),
        ({"soft_targets": valid}, CorpusError, "not made for the corpus .*train"),
        (
            {"soft_targets": rewritten(soft, tmp_path / "v", vocabulary="0" * 64)},
            CorpusError,
            "the vocabulary of these soft targets is not that of the corpus",
        ),
        (
            {"soft_targets": rewritten(soft, tmp_path / "few", list(range(3, 200)))},
            CorpusError,
            "3 training rows have no soft targets: row 0, 1, 2",
        ),
        (
            {"soft_targets": rewritten(soft, tmp_path / "cut", cut=True)},
            CorpusError,
            "differ from their targets in length",
        ),
        ({"soft_targets": warm}, ConfigError, r"temperature: is 1\.0, but .*warm was written at temperature 2\.0"),
        ({"teachers": [teacher], "top_k": PIECES + 1}, ConfigError, "top_k: is 41, but the vocabulary has 40 pieces"),
        ({"soft_targets": drawn, "direction": "reverse"}, ConfigError, "direction: is reverse, but .*sampled ids"),
    ]
    for objective, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            train.run(student_config(prepared, objective), tmp_path / "student", device="cpu")
        assert caught.value.expected or "cannot be read" in str(caught.value)
        assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("objective", "model", "message"),
    [
        ({"temperature": 0.0}, {}, "objective.temperature: Input should be greater than 0, got 0.0"),
        ({"temperature": -1.0}, {}, "objective.temperature: Input should be greater than 0, got -1.0"),
        ({"alpha": 1.5}, {}, "objective.alpha: Input should be less than or equal to 1, got 1.5"),
        ({"alpha": -0.1}, {}, "objective.alpha: Input should be greater than or equal to 0, got -0.1"),
        ({"teachers": []}, {}, "objective: word_kd needs `teachers` or `soft_targets`"),
        ({"soft_targets": "s"}, {}, "soft_targets cannot be combined with teachers"),
        ({}, {"arch": "ctc"}, "objective.type 'word_kd' does not fit model.arch 'ctc', which takes ctc"),
    ],
)
def test_settings_are_checked(prepared: Path, objective: dict[str, Any], model: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        student_config(prepared, {"teachers": ["t"], **objective}, model={**MODEL, **model})
    assert message in str(caught.value)


def test_rows_that_the_teacher_has_no_room_for_are_left_out(prepared: Path, tmp_path: Path) -> None:
    _, sources, targets = Corpus.open(prepared / "train").lengths()
    limit = int(max(sources.max(), targets.max()))
    short = make_teacher(tmp_path / "short", prepared / "vocab.model", max_positions=limit)
    train.run(student_config(prepared, {"teachers": [short]}), tmp_path / "student", device="cpu")
    assert list(read_manifest(tmp_path / "student").counts) == ["longer than a teacher's max_positions"]


def test_the_real_commands(prepared: Path, teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def command(*words: str, config: Any) -> int:
        file = tmp_path / "stage.toml"
        file.write_text(to_toml(config))
        return main([*words, "--config", str(file), "--device", "cpu"])

    out = tmp_path / "soft"
    assert command("distill", "--soft-targets", "--out", str(out), config=soft_config(prepared, teacher, top_k=4)) == 0
    assert "bytes a token" in capsys.readouterr().err
    configs: dict[str, TrainConfig] = {
        "live": student_config(prepared, {"teachers": [teacher], "top_k": 4, "label_smoothing": 0.1}),
        "written": student_config(prepared, {"soft_targets": out, "label_smoothing": 0.1}),
    }
    for name, config in configs.items():
        assert command("train", "--out", str(tmp_path / name), config=config) == 0
    live, written = (json.loads((tmp_path / name / "history.json").read_text())[-1] for name in ("live", "written"))
    assert written["train_loss"] == pytest.approx(live["train_loss"], rel=0.02)
    assert written["valid_nll"] == pytest.approx(live["valid_nll"], rel=0.02)
    assert (
        command("train", "--out", str(tmp_path / "bad"), config=student_config(prepared, {"soft_targets": prepared}))
        == 2
    )
    assert "kind 'prepared'" in capsys.readouterr().err
