"""`seqkd report`: all that a pipeline made, as one page and as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqkd.config.stages import ReportConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput, atomic_write, read_manifest
from seqkd.metrics.results import RESULT
from seqkd.progress import say
from seqkd.report.contents import Contents
from seqkd.report.gather import HISTORY, SPEED, gather
from seqkd.report.page import render
from seqkd.report.pooling import pooled_json

PAGE = "report.html"
DATA = "report.json"
SOFT_TARGETS = "soft_targets"  # the role of these folders among the inputs


def run(config: ReportConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Write report.html, a page that needs nothing else, and report.json.

    Args:
        config: The stage's settings.
        out: Output folder.
        overwrite: Start anew where `out` was made of other inputs.
        device: Not used.

    Raises:
        CorpusError: A folder is missing, unfinished or damaged.
        ConflictError: `out` was made of other inputs.
        WorkError: The system refuses to write.
    """
    out = Path(out)
    inputs = dict(_inputs(config))
    made_by = Provenance(
        stage="report",
        settings=settings(config),
        inputs=inputs,
        neutral=find_neutral(config),
        optional=tuple(role for role in inputs if role.startswith(SOFT_TARGETS)),  # earlier versions did not read them
    )
    if StageOutput.up_to_date(out, "report", made_by, overwrite=overwrite):
        say(f"report: {out / PAGE} is up to date")
        return
    contents = gather(config)  # what can be wrong is found before the folder is begun
    with StageOutput.open(out, "report", made_by, overwrite=overwrite) as output:
        if output.complete:
            return  # by another process, while this one has looked
        atomic_write(
            out / DATA,
            (json.dumps(contents.to_json(pooled_json(contents)), indent=2, ensure_ascii=False) + "\n").encode(),
        )
        atomic_write(out / PAGE, render(contents).encode())
        output.commit(Manifest(kind="report", fingerprint=made_by.fingerprint, extra={"pipeline": config.pipeline}))
    say(f"report: {_summary(contents)} in {out / PAGE}")


def settings(config: ReportConfig) -> dict[str, Any]:
    """The settings that the output depends on, as the stage file gives them."""
    names = {"pipeline", "title", "baselines", "edges", "samples", "teachers", "rounds", "seeds"}
    return config.model_dump(mode="json", include=names)


def _inputs(config: ReportConfig) -> Iterator[tuple[str, str]]:
    """Digests of all that is read. Speeds and curves are in no manifest, so their files count too."""
    yield "prepared", read_manifest(config.prepared).digest()
    yield "train", read_manifest(config.prepared / "train").digest()
    for kind, folders, measured in (
        ("corpora", config.corpora, None),
        ("backtranslation", config.backtranslation, None),
        ("distill", config.distill, SPEED),
        (SOFT_TARGETS, config.soft_targets, None),
        ("evaluations", config.evaluations, RESULT),
    ):
        for named in folders:
            yield f"{kind}.{named.name}", read_manifest(named.path).digest()
            if measured is not None:
                yield from _file(f"{kind}.{named.name}.{measured}", named.path / measured)
    for test in config.tests:
        for named in test.evaluations:
            name = f"evaluations.{named.name}@{test.name}"
            yield name, read_manifest(named.path).digest()
            yield from _file(f"{name}.{RESULT}", named.path / RESULT)
    for named in config.models:
        yield from _file(f"models.{named.name}.{HISTORY}", named.path / HISTORY)
    for part in config.backtranslation:
        yield from _file(f"backtranslation.{part.name}.{HISTORY}", part.model / HISTORY)


def _file(name: str, path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def _summary(contents: Contents) -> str:
    return f"{len(contents.models)} models, {len(contents.corpora)} corpora, {len(contents.samples)} samples"
