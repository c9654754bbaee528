"""`seqkd report`: the results of a pipeline as one page and as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqkd.config.stages import ReportConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput, atomic_write, read_manifest
from seqkd.corpus.revisions import ALIGNMENT
from seqkd.metrics.results import RESULT
from seqkd.progress import say
from seqkd.report.adaptation import describe_adapted
from seqkd.report.contents import Contents
from seqkd.report.gather import HISTORY, SPEED, gather
from seqkd.report.page import render
from seqkd.report.pooling import write_pooled
from seqkd.text.reading import check_bitext

PAGE = "report.html"
DATA = "report.json"
SOFT_TARGETS = "soft_targets"  # the role of these folders among the inputs


def run(config: ReportConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Write report.html, a self-contained page, and report.json.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if `out` was made from other inputs.
        device: Not used.

    Raises:
        CorpusError: A folder is missing, unfinished or damaged.
        TextError: The text of a language cannot be read.
        ConflictError: `out` was made from other inputs.
        WorkError: A file cannot be written.
    """
    out = Path(out)
    inputs = dict(_digest_inputs(config))
    made_by = Provenance(
        stage="report",
        settings=settings(config),
        inputs=inputs,
        neutral=find_neutral(config),
        revisions={"alignment": ALIGNMENT},
        resumes=False,
        optional=tuple(role for role in inputs if role.startswith(SOFT_TARGETS)),  # earlier versions did not read them
    )
    if StageOutput.up_to_date(out, "report", made_by, overwrite=overwrite):
        say(f"report: {out / PAGE} is up to date")
        return
    contents = gather(config)  # problems are found before the folder is created
    with StageOutput.open(out, "report", made_by, overwrite=overwrite) as output:
        if output.complete:
            return  # another process has finished it meanwhile
        values = contents.to_json(write_pooled(contents), describe_adapted(contents))
        atomic_write(out / DATA, (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode())
        atomic_write(out / PAGE, render(contents).encode())
        extra = {"pipeline": config.pipeline, **made_by.extra}
        output.commit(Manifest(kind="report", fingerprint=made_by.fingerprint, extra=extra))
    say(f"report: {_summarize(contents)} in {out / PAGE}")


def settings(config: ReportConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, as in the stage file."""
    names = {"pipeline", "title", "baselines", "edges", "samples", "teachers", "rounds", "seeds"} | {"starts", "grids"}
    return config.model_dump(mode="json", include=names)


def _digest_inputs(config: ReportConfig) -> Iterator[tuple[str, str]]:
    """Yield the digests of all inputs. Files of speeds and curves are included, because no manifest covers them."""
    yield "prepared", read_manifest(config.prepared).digest()
    yield "train", read_manifest(config.prepared / "train").digest()
    for kind, folders, measured in (
        ("corpora", config.corpora, None),
        ("backtranslation", config.backtranslation, None),
        ("selftraining", config.selftraining, None),
        ("distill", config.distill, SPEED),
        (SOFT_TARGETS, config.soft_targets, None),
        ("evaluations", config.evaluations, RESULT),
    ):
        for named in folders:
            yield f"{kind}.{named.name}", read_manifest(named.path).digest()
            if measured is not None:
                yield from _hash_file(f"{kind}.{named.name}.{measured}", named.path / measured)
    for named in config.shared:
        yield f"corpora.{named.name}", read_manifest(named.path).digest()
    if config.agreement is not None:
        yield "agreement", read_manifest(config.agreement.path).digest()
        yield from _hash_file(f"agreement.{RESULT}", config.agreement.path / RESULT)
    for test in config.tests:
        for named in test.evaluations:
            name = f"evaluations.{named.name}@{test.name}"
            yield name, read_manifest(named.path).digest()
            yield from _hash_file(f"{name}.{RESULT}", named.path / RESULT)
    for language in config.languages:
        yield f"languages.{language.name}", check_bitext(language.text, None).digests[0]
        if language.test is not None:
            yield f"languages.{language.name}.test", check_bitext(language.test, None).digests[0]
    for named in config.models:
        yield from _hash_file(f"models.{named.name}.{HISTORY}", named.path / HISTORY)
    for part in config.backtranslation:
        yield from _hash_file(f"backtranslation.{part.name}.{HISTORY}", part.model / HISTORY)
    for pseudo in config.selftraining:
        if pseudo.model is not None:
            yield from _hash_file(f"selftraining.{pseudo.name}.{HISTORY}", pseudo.model / HISTORY)


def _hash_file(name: str, path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        yield name, hashlib.sha256(path.read_bytes()).hexdigest()


def _summarize(contents: Contents) -> str:
    return f"{len(contents.models)} models, {len(contents.corpora)} corpora, {len(contents.samples)} samples"
