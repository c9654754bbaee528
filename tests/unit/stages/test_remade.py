"""What a change of a pipeline or of its text remakes: what it can change, and nothing else."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from seqkd.cli.main import main
from seqkd.corpus.files import is_kept
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.unit.pipeline.pipeline_files import edited
from tests.unit.stages.support import prepare_config

pytestmark = pytest.mark.slow

MODEL = "{ dim = 16, heads = 1, ffn_dim = 16, encoder_layers = 1, decoder_layers = 1 }"
TRAINING = "max_updates = 2, validate_every = 2, batch_tokens = 200, valid_bleu = false, precision = 'float32'"
PIPELINE = f"""
name = "remade"
title = "first"
seed = 3

[data]
train = {{ source = "train.de", target = "train.en" }}
valid = {{ source = "valid.de", target = "valid.en" }}
test = {{ source = "test.de", target = "test.en" }}

[data.tests.more]
source = "more.de"
target = ["more.en", "second.en"]

[prepare]
shard_rows = 80
vocabulary = {{ size = 40, byte_fallback = false }}

[teacher]
model = {MODEL}
training = {{ {TRAINING} }}

[[distill]]
name = "beam"
search = {{ beam = 2, nbest = 2, max_length_extra = 3, min_length = 2 }}
workers = 1

[[select]]
name = "kd"
kbest = "beam"
rule = "seqkd"
workers = 1

[[soft_targets]]
name = "soft"
top_k = 3
workers = 1

[backtranslation]
text = ["mono.en"]
ratio = 0.5
tag = ""
search = {{ beam = 1, nbest = 1, max_length_extra = 3, min_length = 2 }}
workers = 1

[evaluate]
beams = [1]

[student]
model = {MODEL}
training = {{ {TRAINING} }}

[[students]]
name = "kd"
corpus = "kd"

[[students]]
name = "tuned"
corpus = "gold"
init_from = "kd"

[[students]]
name = "written"
corpus = "gold"
objective = {{ type = "word_kd", soft_targets = "soft" }}

[[students]]
name = "bt"
corpus = [{{ name = "gold" }}, {{ name = "backtranslation" }}]
"""
BROUGHT = """[prepare]
shard_rows = 80

[teacher]
path = "brought"

[[distill]]"""

MODELS = {"teacher", "reverse", "students/kd", "students/tuned", "students/written", "students/bt"}


def evaluations(*names: str) -> set[str]:
    """Those of models, on both test sets."""
    return {f"evaluations/{name}{of}" for name in names for of in ("", "@more")}


EVALUATIONS = evaluations("teacher", "kd", "tuned", "written", "bt")
FURTHER = {name for name in EVALUATIONS if name.endswith("@more")}
BACKTRANSLATED = {"kbest/backtranslation", "corpora/backtranslation", "students/bt"} | evaluations("bt")
TAUGHT = {"students/kd", "students/tuned"} | evaluations("kd", "tuned")
WRITTEN = {"soft_targets/soft", "students/written"} | evaluations("written")


def run(file: Path) -> set[str]:
    """Call every stage as Make does, in the working folder; give the folders that were made again."""
    write_plan(file, "runs")
    root = Path("runs/remade")
    for stage in plan_stages(read_pipeline(file), Path("runs")):
        config = root / "config" / f"{stage.name}.toml"
        words = ["--config", str(config), "--out", str(stage.out), "--device", "cpu", "--overwrite-changed"]
        assert main([*stage.words, *words]) == 0, stage.name
    kept = [Path(folder) / name for folder, names, _ in os.walk(root) for name in names if is_kept(name)]
    return {str(path.relative_to(root)).removesuffix(".old") for path in kept}


def made(folder: str) -> dict[str, bytes]:
    """The rows, weights and vocabularies that a folder of the run holds."""
    root = Path("runs/remade") / folder
    files = [path for path in root.rglob("*") if path.suffix in (".arrow", ".model", ".safetensors")]
    return {str(path.relative_to(root)): path.read_bytes() for path in files if "state" not in path.parts}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a teacher of its own."""
    folder = tmp_path_factory.mktemp("remade")
    prepare_config(folder)
    for name in ("test.de", "test.en"):  # models are timed on each row
        (folder / name).write_text("".join((folder / name).read_text().splitlines(keepends=True)[:3]))
    lines = (folder / "train.en").read_text().splitlines()
    (folder / "mono.en").write_text("".join(f"{a} {b}\n" for a, b in zip(lines, reversed(lines), strict=True)))
    for name, other in (("more.de", "test.de"), ("more.en", "test.en"), ("second.en", "valid.en")):
        (folder / name).write_text("".join((folder / other).read_text().splitlines(keepends=True)[:3]))
    (folder / "remade.toml").write_text(PIPELINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(Path("remade.toml")) == set()
    return folder


@pytest.fixture(scope="module")
def taught(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose teacher is brought along."""
    folder = tmp_path_factory.mktemp("brought")
    for path in trained.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    shutil.copytree(trained / "runs/remade/teacher", folder / "brought")
    start, end = PIPELINE.index("[prepare]"), PIPELINE.index("[[distill]]")
    text = PIPELINE[:start] + BROUGHT + PIPELINE[end + len("[[distill]]") :]
    text = text.replace("[backtranslation]", f"[backtranslation]\nmodel = {MODEL}\ntraining = {{ {TRAINING} }}")
    (folder / "remade.toml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run(Path("remade.toml")) == set()
    return folder


@dataclass(frozen=True)
class Change:
    """A change, what it remakes, and which of that comes out with other bytes.

    Attributes:
        old: Text of the pipeline file; or, with `file`, appended to that file.
        new: What stands in its place.
        remade: The folders that are made again.
        other: Those whose rows, weights or vocabularies are then others; the rest is the same in every byte.
        file: A text that is changed in place of the pipeline file.
    """

    old: str
    new: str
    remade: set[str]
    other: set[str]
    file: str = ""


CHANGES = {
    "title": Change('title = "first"', 'title = "second"', {"report"}, set()),
    "test set": Change("", "der hund", {"gold", "report"} | (EVALUATIONS - FURTHER), {"gold"}, file="test.de"),
    "further test set": Change("", "der hund", {"tests/more", "report"} | FURTHER, {"tests/more"}, file="more.de"),
    "reference of a further test set": Change(
        "", "the dog", {"tests/more", "report"} | FURTHER, {"tests/more"}, file="second.en"
    ),
    "another test set": Change(
        "\n[data.tests.more]",
        "\n[data.tests.new]\nsource = 'more.de'\ntarget = 'more.en'\n\n[data.tests.more]",
        {"report"},
        set(),
    ),
    "no further test set": Change(
        '\n[data.tests.more]\nsource = "more.de"\ntarget = ["more.en", "second.en"]\n', "", {"report"}, set()
    ),
    # With one validation the same checkpoint is the best one on any text.
    "validation set": Change("", "der hund", {"gold", "report"} | MODELS, {"gold"}, file="valid.de"),
    "evaluation": Change("beams = [1]", "beams = [2]", {"report"} | EVALUATIONS, set()),
    "decode": Change(
        "beam = 2, nbest = 2, max_length_extra = 3, min_length = 2",
        "beam = 3, nbest = 2, max_length_extra = 5, min_length = 4",
        {"kbest/beam", "corpora/kd", "report"} | TAUGHT,
        {"kbest/beam", "corpora/kd", "students/kd", "students/tuned"},
    ),
    "rule": Change(
        'rule = "seqkd"',
        'rule = "seqkd"\nfilters = { max_repeats = 8 }',
        {"corpora/kd", "report"} | TAUGHT,
        {"corpora/kd", "students/kd", "students/tuned"},
    ),
    "soft targets": Change("top_k = 3", "top_k = 4", {"report"} | WRITTEN, {"soft_targets/soft", "students/written"}),
    "student": Change(
        'corpus = "kd"',
        'corpus = "kd"\ntraining = { seed = 9 }',
        {"report"} | TAUGHT,
        {"students/kd", "students/tuned"},
    ),
    "start": Change(
        'init_from = "kd"',
        'init_from = { model = "kd", freeze = ["embeddings"] }',
        {"students/tuned", "report"} | evaluations("tuned"),
        {"students/tuned"},
    ),
    "monolingual text": Change(
        "ratio = 0.5",
        "ratio = 0.4",
        {"monolingual", "report"} | BACKTRANSLATED,
        {"monolingual", "kbest/backtranslation", "corpora/backtranslation", "students/bt"},
    ),
    "teacher": Change(
        f"model = {MODEL}\ntraining = {{ ",
        f"model = {MODEL}\ntraining = {{ seed = 9, ",
        {"teacher", "kbest/beam", "corpora/kd", "report"}
        | TAUGHT
        | WRITTEN
        | EVALUATIONS
        | {"reverse"}
        | BACKTRANSLATED,
        {"teacher", "kbest/beam", "corpora/kd", "students/kd", "students/tuned", "students/written", "reverse"}
        | {"soft_targets/soft", "kbest/backtranslation", "corpora/backtranslation", "students/bt"},
    ),
}


def check(source: Path, folder: Path, change: Change) -> None:
    shutil.copytree(source, folder, dirs_exist_ok=True)
    file = folder / (change.file or "remade.toml")
    if change.file:
        lines = file.read_text().splitlines()
        file.write_text("".join(f"{line}\n" for line in (change.new, *lines[1:])))
    else:
        edited(file, change.old, change.new)
    remade = run(Path("remade.toml"))
    assert remade == change.remade
    assert {name for name in remade if made(name) != made(f"{name}.old")} == change.other
    assert run(Path("remade.toml")) == remade


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_remakes_what_it_can_change(
    name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    check(trained, tmp_path, CHANGES[name])


def test_another_seed_with_a_teacher_that_is_brought_along(
    taught: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gold text, lists, selected corpora and soft targets hold nothing that is drawn."""
    monkeypatch.chdir(tmp_path)
    drawn = {"monolingual", "reverse"} | BACKTRANSLATED
    remade = {"report", *TAUGHT, *drawn, "students/written", *evaluations("written")}
    other = {name for name in remade if not name.startswith("evaluations/")} - {"report"}
    check(taught, tmp_path, Change("seed = 3", "seed = 4", remade, other))
