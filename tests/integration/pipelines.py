"""Shipped pipelines, made small enough to run in a test; everything else stays as shipped."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from seqkd.cli.main import main
from seqkd.config.toml import to_toml
from seqkd.models.registry import ARCHITECTURES, DEFAULT, setting_names
from seqkd.pipeline.file import FetchConfig, PipelineConfig
from seqkd.pipeline.make import write_plan
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages

ROOT = Path(__file__).parents[2]
SHIPPED = sorted(ROOT.glob("pipelines/**/*.toml"))
GENERATOR = ROOT / "data" / "toy" / "generate.py"

_MODEL = {"dim": 32, "heads": 2, "ffn_dim": 32, "encoder_layers": 1, "decoder_layers": 1}
_TRAINING = {
    "max_updates": 8,
    "batch_tokens": 512,
    "warmup_updates": 4,
    "validate_every": 4,
    "average": 2,
    "patience": 0,
    "accumulate": 1,
}


def toy_text(folder: Path, *, rows: int, held_out: int) -> dict[str, Any]:
    """Write toy text and give a pipeline's `[data]` that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in _generated(rows).items():
        (folder / name).write_bytes(content)
    for name in ("valid.src", "valid.tgt", "test.src", "test.tgt", "test.accepted.jsonl"):
        lines = (folder / name).read_text().splitlines(keepends=True)
        (folder / name).write_text("".join(lines[:held_out]))
    data: dict[str, Any] = {
        part: {"source": str(folder / f"{part}.src"), "target": str(folder / f"{part}.tgt")}
        for part in ("train", "valid", "test")
    }
    data["test"]["accepted"] = str(folder / "test.accepted.jsonl")
    return data


@functools.cache
def _generated(rows: int) -> dict[str, bytes]:
    """The files of the toy corpus by name, made once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--out", folder, "--rows", str(rows), "--monolingual", str(3 * rows)]
        subprocess.run([sys.executable, GENERATOR, *words], check=True)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def shrunk(file: Path, data: dict[str, Any] | None = None) -> dict[str, Any]:
    """A shipped pipeline's values with tiny models and few updates, on `data` or, without it, on its own data."""
    values = read_pipeline(file).model_dump(mode="json", exclude_none=True, exclude_unset=True)
    if len(values["data"]) == 1:
        (values["data"],), (values["teacher"],) = values["data"], values.pop("teachers")  # as the files have them
        if data is not None:
            values["data"] = data
    elif data is not None:
        kept = [
            {name: value for name, value in part.items() if name not in (*data, "fetch")} for part in values["data"]
        ]
        texts = _share_text(values["data"], data)
        values["data"] = [part | text for part, text in zip(kept, texts, strict=True)]
    if "samples" in values and data is not None:
        values["data"] = with_second_target(data)
        targets = {part: text["target"] for part, text in values["data"].items()}
        values["report"]["languages"] = {
            name: {"text": targets["train"][place], "test": targets["test"][place]}
            for place, name in enumerate(list(values["report"]["languages"])[:2])
        }
    teachers = values["teachers"] if "teachers" in values else [values["teacher"]]
    values.setdefault("prepare", {})["vocabulary"] = {"size": 200, "byte_fallback": False}
    for part in values.get("vocabularies", []):
        part |= {"size": 150, "byte_fallback": False}
    reverse = [values["backtranslation"]] if "backtranslation" in values else []
    labelled = [values["selftraining"]] if "selftraining" in values else []
    if data is not None:
        for part in reverse:
            part["text"] = [str(Path(data["train"]["target"]).with_name("mono.tgt"))]
        for part in labelled:
            part |= {"text": [data["train"]["source"]], "ratio": 0.5}
    trained = [part for part in teachers if "path" not in part]
    for part in (*trained, *reverse, *values["students"]):
        record = ARCHITECTURES.find(part.get("model", {}).get("arch", DEFAULT))
        assert record is not None
        known = setting_names(record.settings)
        sizes = {name: value for name, value in _MODEL.items() if name in known}
        part["model"] = part.get("model", {}) | sizes
        part["training"] |= _TRAINING
    seeded = [part for part in values["students"] if part.get("seeds", 1) > 1]
    for number, part in enumerate(seeded):
        part["seeds"] = 1 if number else 2
    for part in (*reverse, *labelled, *values.get("distill", [])):
        part["workers"] = 1
        if "source" in part:  # `seqkd translate`, which gets the same settings as options
            part["source"]["command"] += ["--no-repeat-ngram-size", "1", "--unk-penalty", "100"]
            continue
        search = part.get("search", {})
        part["search"] = search | {name: min(search[name], 5) for name in ("beam", "nbest") if name in search}
        # A teacher of few updates repeats itself, and `ctc` has no room for the blanks between equal pieces.
        part["search"]["no_repeat_ngram_size"] = 1
        part["search"]["unk_penalty"] = 100.0  # nor does it know better than unknown pieces, which are no targets
    values["evaluate"] = values.get("evaluate", {}) | {"beams": [1]}  # each beam is timed
    return values


def _share_text(sets: list[dict[str, Any]], data: dict[str, Any]) -> list[dict[str, Any]]:
    """The text of several data sets: the same, if they share their sources; otherwise turned or in halves."""
    if any("shares_sources" in part for part in sets):
        return [data] * len(sets)
    first, second = sets
    return [data, _turn(data)] if first["test"]["source"] != second["test"]["source"] else [*_halve(data)]


def _turn(data: dict[str, Any]) -> dict[str, Any]:
    """The same text in the other direction."""
    return {part: {"source": text["target"], "target": text["source"]} for part, text in data.items()}


def _halve(data: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two data sets with half of the training text each, and the same validation and test text."""
    halves: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for side, name in data["train"].items():
        lines = Path(name).read_text().splitlines(keepends=True)
        for number, half in enumerate(halves):
            half[side] = f"{name}.{number}"
            Path(half[side]).write_text("".join(lines[number::2]))
    first, second = (data | {"train": half} for half in halves)
    return first, second


def with_second_target(data: dict[str, Any]) -> dict[str, Any]:
    """Write a second target of each source beside the first one, with the letters of each word in reverse order."""
    found: dict[str, Any] = {}
    for part, text in data.items():
        first = Path(text["target"])
        second = first.with_suffix(".tgt2")
        lines = [" ".join(word[::-1] for word in line.split()) for line in first.read_text().splitlines()]
        second.write_text("".join(f"{line}\n" for line in lines))
        found[part] = text | {"target": [str(first), str(second)]}
    return found


def write_pipeline(values: dict[str, Any], folder: Path) -> Path:
    """Write a pipeline file into `folder`."""
    path = folder / f"{values['name']}.toml"
    path.write_text(to_toml(PipelineConfig.model_validate(values)))
    return path


def environment() -> dict[str, str]:
    """This process's environment without the Make that may have started it, and with one thread."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def make_command(file: Path, runs: Path, *words: str) -> list[str]:
    """The user's command, with this Python in place of a virtual environment of its own."""
    return ["make", "VENV=", f"PYTHON={sys.executable}", f"PIPELINE={file}", f"RUNS={runs}", "DEVICE=cpu", *words]


def make(file: Path, runs: Path, *words: str) -> str:
    """Run Make in the repository and give what it printed."""
    done = subprocess.run(
        make_command(file, runs, *words),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def run_stages(file: Path, runs: Path) -> None:
    """Call each stage of a pipeline, in order, through the command line."""
    plan = write_plan(file, runs)
    for stage in plan_stages(read_pipeline(file), runs):
        if isinstance(stage.config, FetchConfig):
            command = [sys.executable, str(stage.config.script), "--out", str(stage.out), *stage.config.args]
            subprocess.run(command, cwd=ROOT, env=environment(), check=True)
            continue
        config = plan.parent / "config" / f"{stage.name}.toml"
        words = ["--config", str(config), "--out", str(stage.out), "--device", "cpu"]
        assert main([*stage.words, *words]) == 0, stage.name
