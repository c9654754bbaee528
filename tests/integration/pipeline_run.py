"""Plan a pipeline and run its stages by the command line, all in one process: python -m ... PIPELINE.toml RUNS."""

from __future__ import annotations

import sys
from pathlib import Path

from seqkd.cli.main import main
from seqkd.pipeline.reading import read_pipeline
from seqkd.pipeline.stages import plan_stages


def run(file: Path, runs: Path) -> None:
    """Stop at the first command that fails."""
    pipeline = read_pipeline(file)
    commands = [["plan", str(file), "--runs", str(runs)]]
    for stage in plan_stages(pipeline, runs):
        config = runs / pipeline.name / "config" / f"{stage.name}.toml"
        commands.append([*stage.words, "--config", str(config), "--out", str(stage.out), "--device", "cpu"])
    for command in commands:
        code = main(command)
        if code:
            sys.exit(code)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]))
