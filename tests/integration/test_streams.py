"""Every command without standard streams, without a home folder and without an entry in passwd."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqkd.corpus.manifest import MANIFEST
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages
from tests.integration.pipelines import ROOT, environment, shrunk, toy_text, write_pipeline
from tests.unit.cli.test_cli_streams import NO_PASSWD_ENTRY

pytestmark = pytest.mark.slow


def alone(folder: Path, *words: object, module: str = "seqkd", streams: str = "<&- >&- 2>&-") -> int:
    """Run a command, or another module's, as such a user and give its exit code."""
    known = {"HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"}
    nobody = {name: value for name, value in environment().items() if name not in known}
    return subprocess.run(
        ["bash", "-c", f'"$@" {streams}', "bash", sys.executable, "-m", module, *map(str, words)],
        cwd=ROOT,
        env=nobody | {"PYTHONPATH": f"{folder}:{ROOT}"},
        check=False,
    ).returncode


def small(folder: Path) -> dict[str, Any]:
    """The toy pipeline with one student and soft targets."""
    values = shrunk(ROOT / "pipelines" / "toy.toml", toy_text(folder / "text", rows=100, held_out=4))
    values["students"] = values["students"][:1]
    values["select"] = values["select"][:1]
    values["soft_targets"] = [{"name": "references", "top_k": 4}]
    return values


def test_every_command_works(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_PASSWD_ENTRY)
    file, runs = write_pipeline(small(tmp_path), tmp_path), tmp_path / "runs"
    # One process plans the pipeline and runs its stages: each would otherwise load the same libraries again.
    code = alone(tmp_path, file, runs, module="tests.integration.pipeline_run")
    stages = plan_stages(read_pipeline(file), runs)
    assert [stage.name for stage in stages if not (stage.out / MANIFEST).exists()] == []
    assert code == 0
    assert {stage.words[0] for stage in stages} == {"prepare", "train", "distill", "select", "evaluate", "report"}
    root = runs / "toy"
    model, text = root / "teacher", tmp_path / "text"
    assert alone(tmp_path, "inspect", root) == 0
    assert alone(tmp_path, "verify", root) == 0
    assert alone(tmp_path, "export", "fairseq", model, "--out", tmp_path / "out") == 0
    words = [tmp_path / "out" / "checkpoint.pt", "--dictionary", next((tmp_path / "out").glob("dict.*.txt"))]
    words += ["--sentencepiece", model / "vocab.model"]
    assert alone(tmp_path, "import", "fairseq", *words, "--out", tmp_path / "back") == 0
    lines, result = text / "test.src", tmp_path / "result"
    streams = f"< {lines} > {result} 2>&-"
    assert alone(tmp_path, "translate", "--model", model, "--device", "cpu", "--beam", "2", streams=streams) == 0
    assert result.read_bytes().count(b"\n") == 4
    words = ["--source", lines, "--target", text / "test.tgt", "--device", "cpu"]
    assert alone(tmp_path, "score", "--model", model, *words, streams=f"<&- > {result} 2>&-") == 0
    assert result.read_bytes().count(b"\n") == 4
