"""Make rules of a pipeline file: one rule for each stage, each with its own resolved stage file.

Make runs the missing stages, in parallel if asked to, and after a change only the stages that depend on it.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from seqkd.config.toml import to_toml
from seqkd.corpus.files import atomic_write
from seqkd.errors import ConfigError, WorkError
from seqkd.models.registry import misfit
from seqkd.pipeline.file import TEACHER, FetchConfig, PipelineConfig
from seqkd.pipeline.folders import MAKE_SAFE, Stage
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from seqkd.progress import say

GOALS = ("prepare", "teacher", "distill", "students", "exports", "report")

_MADE_FROM = "# Made from "  # the Makefile reads the name of the file after it
_RECORD = ".inputs"  # the suffix of the record of a stage's inputs from outside the run, beside its stage file


def write_plan(file: str | Path, runs: str | Path) -> Path:
    """Write `RUNS/NAME/plan.mk` and the stage files, `RUNS/NAME/config/*.toml`.

    Stage files that would not change are not written again, so that Make sees which ones changed. Paths in the run
    folder are written relative to it, so that the folder can be moved and copied.

    Returns:
        The path of plan.mk.

    Raises:
        ConfigError: The pipeline file cannot be read or has problems, which one message lists; or the run folder
            belongs to another file.
        WorkError: The files cannot be written.
    """
    file, runs = Path(file), Path(runs)
    pipeline = read_pipeline(file)
    if not MAKE_SAFE.match(str(runs)):
        raise ConfigError(
            f"{str(runs)!r} cannot be a Make target",
            where="--runs",
            expected="letters, digits and _ . / , + @ = -",
        )
    root = runs / pipeline.name
    folder, plan = root / "config", root / "plan.mk"
    _check_owner(plan, file)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"cannot be created: {error.strerror}", where=str(folder)) from error
    _tell_misfits(pipeline)
    stages = plan_stages(pipeline, runs)
    _reset_future_times(stages, folder)
    for stage in stages:
        _write_if_new(folder / f"{stage.name}.toml", to_toml(stage.config, root))
    atomic_write(plan, make_rules(file, stages, root).encode())
    return plan


def make_rules(file: Path, stages: Sequence[Stage], root: Path) -> str:
    """Return the text of plan.mk.

    Make compares times, and a file that replaces an input may be older than the output of the stage. Therefore Make
    also compares a record of the sizes, times and inode numbers of a stage's inputs from outside the run.

    Args:
        file: The pipeline file, named in the first line.
        stages: The result of `plan_stages`.
        root: The run folder.
    """

    def format_paths(*paths: Path) -> str:
        inside = [path.is_relative_to(root) for path in paths]
        return " ".join(
            f"$(RUN)/{path.relative_to(root)}" if own else str(path) for path, own in zip(paths, inside, strict=True)
        )

    outside = {stage.name: [path for path in stage.needs if not path.is_relative_to(root)] for stage in stages}
    lines = [
        f"{_MADE_FROM}{file} by `seqkd plan`; changes here are lost.",
        "RUN := $(patsubst %/,%,$(dir $(lastword $(MAKEFILE_LIST))))",
        "SEQKD_PYTHON ?= python3",
        "SEQKD ?= $(SEQKD_PYTHON) -m seqkd",
        "DEVICE ?= auto",
        "",
        f".PHONY: {' '.join(GOALS)}",
        # An interrupted Make must not delete the manifest of a finished folder.
        f".PRECIOUS: {format_paths(*(stage.target for stage in stages))}",
    ]
    for goal in GOALS:
        lines.append(f"{goal}: {format_paths(*(stage.target for stage in stages if stage.goal == goal))}".rstrip())
    lines += [
        "",
        "# Write the sizes, times and inode numbers of files, if they differ from those that were written last.",
        "found = stat -Lc '%n %s %Y %i' $(1) 2>/dev/null",
        "recorded = $(shell $(found) | cmp -s - $(2) || $(found) > $(2))",
    ]
    for stage in stages:
        config = root / "config" / f"{stage.name}.toml"
        needs = [config, *stage.needs]
        lines.append("")
        if files := outside[stage.name]:
            record = root / "config" / f"{stage.name}{_RECORD}"
            needs.append(record)
            lines.append(f"$(call recorded,{format_paths(*files)},{format_paths(record)})")
        lines.append(f"{format_paths(stage.target)}: {format_paths(*needs)}")
        if isinstance(stage.config, FetchConfig):
            args = stage.config.args
            words = " ".join(format_paths(Path(word)) if word.startswith(f"{root}/") else _quote(word) for word in args)
            lines.append(f"\t@mkdir -p {format_paths(stage.out)}")
            script = _quote(str(stage.config.script))
            lines.append(f"\t$(SEQKD_PYTHON) {script} --out {format_paths(stage.out)} {words}".rstrip())
            lines.append("\t@touch $@")
        else:
            command, *options = stage.words
            words = " ".join([command, "--config", format_paths(config), "--out", format_paths(stage.out), *options])
            lines.append(f"\t$(SEQKD) {words} --device $(DEVICE) --overwrite-changed")
    if files := [path for paths in outside.values() for path in paths]:
        # If one of them is missing, the message of the stage is better than that of Make.
        lines += ["", f"{format_paths(*dict.fromkeys(files))}:"]
    return "\n".join(lines) + "\n"


def _check_owner(plan: Path, file: Path) -> None:
    """Refuse a run folder that belongs to another existing pipeline file with the same name and other contents."""
    try:
        line = plan.read_text().partition("\n")[0]
    except (OSError, UnicodeDecodeError):
        return
    other = Path(line.removeprefix(_MADE_FROM).partition(" by ")[0])
    if not line.startswith(_MADE_FROM) or not other.is_file() or other.samefile(file):
        return
    if other.read_bytes() != file.read_bytes():
        raise ConfigError(
            f"the run folder belongs to {other}, another pipeline file with the same name",
            where=str(plan.parent),
            expected=f"the results of {file}, or no folder yet",
            hint=f"rename one of the pipelines, or give another run folder (make RUNS=...); if {file} is to continue "
            f"with these results, delete {plan}",
        )


def _tell_misfits(pipeline: PipelineConfig) -> None:
    """Say which models the CPU kernels do not support: they train and decode, but slower."""
    models = {
        "teacher" if part.name == TEACHER else f"teachers.{part.name}": part.model
        for part in pipeline.teachers
        if part.trained
    }
    models |= {f"students.{student.name}": student.model for student in pipeline.students}
    if pipeline.backtranslation is not None:
        models["backtranslation"] = pipeline.backtranslation.model
    for place, model in models.items():
        why = misfit(model.arch, model.model_dump())
        if why is not None:
            say(f"plan: {place}.model: {why}")


def _reset_future_times(stages: Sequence[Stage], folder: Path) -> None:
    """Set the times of files from the future, left by a clock that has been set back, to the present, in their order.

    Otherwise Make would take them for newer than all files that are written from now on.
    """
    now = time.time_ns()
    made = [(folder / f"{stage.name}.toml", folder / f"{stage.name}{_RECORD}", stage.target) for stage in stages]
    for path in (path for paths in made for path in paths):
        try:
            if path.stat().st_mtime_ns > now:
                os.utime(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise WorkError(f"the time of the file cannot be set: {error.strerror}", where=str(path)) from error


def _write_if_new(path: Path, text: str) -> None:
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    atomic_write(path, text.encode())


def _quote(word: str) -> str:
    return shlex.quote(word).replace("$", "$$")
