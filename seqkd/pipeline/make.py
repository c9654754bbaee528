"""A pipeline file to Make rules: one rule a stage, each with its own resolved stage file.

Make does the rest: it makes what is missing, side by side where it may, and after a change only what depends on it.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from seqkd.corpus.files import atomic_write
from seqkd.errors import ConfigError, WorkError
from seqkd.models.registry import misfit
from seqkd.pipeline.file import TEACHER, FetchConfig, PipelineConfig
from seqkd.pipeline.folders import Stage
from seqkd.pipeline.reading import MAKE_SAFE, read_pipeline, to_toml
from seqkd.pipeline.stages import plan_stages
from seqkd.progress import say

GOALS = ("prepare", "teacher", "distill", "students", "report")


def write_plan(file: str | Path, runs: str | Path) -> Path:
    """Write `RUNS/NAME/plan.mk` and the stage files, `RUNS/NAME/config/*.toml`.

    A stage file that would not change is left alone, so that Make sees what changed.

    Returns:
        The path of plan.mk.

    Raises:
        ConfigError: The pipeline file cannot be read or has problems, all of them in one message.
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
    folder = root / "config"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkError(f"cannot be made: {error.strerror}", where=str(folder)) from error
    _tell_misfits(pipeline)
    stages = plan_stages(pipeline, runs)
    _from_the_future(stages, folder)
    for stage in stages:
        _write_if_new(folder / f"{stage.name}.toml", to_toml(stage.config))
    plan = root / "plan.mk"
    atomic_write(plan, make_rules(file, stages, folder).encode())
    return plan


def make_rules(file: Path, stages: Sequence[Stage], folder: Path) -> str:
    """The text of plan.mk.

    Args:
        file: The pipeline file, named in the first line.
        stages: What `plan_stages` gave.
        folder: Where the stage files are.
    """
    targets = " ".join(str(stage.target) for stage in stages)
    lines = [
        f"# Made from {file} by `seqkd plan`; changes here are lost.",
        "SEQKD_PYTHON ?= python3",
        "SEQKD ?= $(SEQKD_PYTHON) -m seqkd",
        "DEVICE ?= auto",
        "",
        f".PHONY: {' '.join(GOALS)}",
        f".PRECIOUS: {targets}",  # an interrupted Make must not delete the manifest of a finished folder
    ]
    for goal in GOALS:
        wanted = " ".join(str(stage.target) for stage in stages if stage.goal == goal)
        lines.append(f"{goal}: {wanted}".rstrip())
    for stage in stages:
        config = folder / f"{stage.name}.toml"
        lines += ["", f"{stage.target}: {' '.join(str(path) for path in (config, *stage.needs))}"]
        if isinstance(stage.config, FetchConfig):
            words = (str(stage.config.script), "--out", str(stage.out), *stage.config.args)
            lines.append(f"\t@mkdir -p {stage.out}")
            lines.append(f"\t$(SEQKD_PYTHON) {' '.join(_quoted(word) for word in words)}")
            lines.append("\t@touch $@")
        else:
            words = (stage.command, "--config", str(config), "--out", str(stage.out), *stage.options)
            lines.append(f"\t$(SEQKD) {' '.join(words)} --device $(DEVICE) --overwrite-changed")
    return "\n".join(lines) + "\n"


def _tell_misfits(pipeline: PipelineConfig) -> None:
    """Say which models the CPU kernels do not fit: they train and decode, but slower."""
    models = {
        "teacher" if part.name == TEACHER else f"teachers.{part.name}": part.model
        for part in pipeline.teachers
        if part.path is None
    }
    models |= {f"students.{student.name}": student.model for student in pipeline.students}
    if pipeline.backtranslation is not None:
        models["backtranslation"] = pipeline.backtranslation.model
    for place, model in models.items():
        why = misfit(model.arch, model.model_dump())
        if why is not None:
            say(f"plan: {place}.model: {why}")


def _from_the_future(stages: Sequence[Stage], folder: Path) -> None:
    """Give files with a time yet to come, left by a clock that has been set back, the present one, in their order.

    Make would take them for newer than everything that is made from now on.
    """
    now = time.time_ns()
    for path in (path for stage in stages for path in (folder / f"{stage.name}.toml", stage.target)):
        try:
            if path.stat().st_mtime_ns > now:
                os.utime(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise WorkError(f"its time cannot be set: {error.strerror}", where=str(path)) from error


def _write_if_new(path: Path, text: str) -> None:
    try:
        if path.read_bytes() == text.encode():
            return
    except OSError:
        pass
    atomic_write(path, text.encode())


def _quoted(word: str) -> str:
    return shlex.quote(word).replace("$", "$$")
