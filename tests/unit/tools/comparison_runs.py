"""Run folders with made-up models, evaluations and outputs, as `seqkd compare` reads them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqkd.corpus.manifest import Manifest, build_fingerprint, read_manifest, write_manifest
from tests.unit.report.report_folders import EVIL, decode, evaluation, write_corpus

WORDS = ["the", "old", "cat", "sat", "on", "a", "red", "mat", "and", "looked", "at", "some", "small", "birds", "there"]
REFERENCES = [" ".join(WORDS[row % 3 : 6 + row % 8]) + f" {row}" for row in range(40)]


def worse(rate: int, *, start: int = 0) -> list[str]:
    """Outputs in which every `rate`-th word is another one."""
    return [
        " ".join("zzz" if (row + place + start) % rate == 0 else word for place, word in enumerate(text.split()))
        for row, text in enumerate(REFERENCES)
    ]


def write_text(run: Path, name: str = "test", references: Sequence[str] = REFERENCES) -> Path:
    """A test text of the run."""
    folder = run / "gold" / name
    write_corpus(folder, targets=list(references))
    return folder


def write_model(run: Path, name: str, *, training: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """A student with a training curve."""
    folder = run / "students" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"arch": "transformer", "settings": settings}))
    points = [{"update": 10 * n, "valid_nll": 4.0 / n, "valid_bleu": 5.0 * n, "train_loss": 4.0} for n in (1, 2)]
    (folder / "history.json").write_text(json.dumps(points))
    made_by = build_fingerprint("train", {"model": {"arch": "transformer"}, "training": training}, {})
    write_manifest(folder, Manifest(kind="model", fingerprint=made_by))


def write_evaluation(
    run: Path,
    name: str,
    outputs: Mapping[str, Sequence[str]],
    *,
    test: str = "test",
    finished: bool = True,
    **changes: Any,
) -> None:
    """An evaluation of a student. Decodes that are no numbers are those of a model that writes all at once."""
    text = run / "gold" / test
    evaluated = name if test == "test" else f"{name}@{test}"
    folder = run / "evaluations" / evaluated
    folder.mkdir(parents=True)
    parallel = not all(decode_name.isdecimal() for decode_name in outputs)
    for decode_name, lines in outputs.items():
        file = folder / f"hypotheses.{'' if parallel else 'beam'}{decode_name}.txt"
        file.write_text("".join(f"{line}\n" for line in lines))
    names = list(outputs)
    result = evaluation(
        name,
        rows=len(next(iter(outputs.values()))),
        decodes={decode_name: decode(1.0, 100.0) for decode_name in outputs},
        quality=names[-1],
        quick=names[0],
        parallel=parallel,
        **changes,
    )
    (folder / "result.json").write_text(result.to_json())
    made_by = build_fingerprint("evaluate", {"name": name, "beams": [1]}, {"corpus": read_manifest(text).digest()})
    if finished:
        write_manifest(folder, Manifest(kind="evaluation", fingerprint=made_by, rows=result.rows))
    config = run / "config"
    config.mkdir(exist_ok=True)
    (config / f"evaluate.{evaluated}.toml").write_text(
        f'name = "{name}"\nmodel = "{{run}}/students/{name}"\nrole = "student"\n'
        f'corpus = "{{run}}/gold/{test}"\ntrained_on = "gold"\nbeams = [1]\n'
    )


def write_student(
    run: Path,
    name: str,
    outputs: Mapping[str, Sequence[str]],
    *,
    seed: int = 1,
    dim: int = 32,
    **changes: Any,
) -> None:
    """A student and its evaluation."""
    write_model(run, name, training={"seed": seed, "max_updates": 20}, settings={"dim": dim, "heads": 2})
    write_evaluation(run, name, outputs, **changes)


def write_runs(root: Path) -> tuple[Path, Path]:
    """Two runs with a student of the same name; its outputs hold what a page must escape. Each has another one, too."""
    first, second = root / "first", root / "second"
    for run in (first, second):
        write_text(run)
    good = worse(7)
    good[3] = EVIL
    write_student(first, "small", {"1": worse(4), "5": worse(5)})
    write_student(second, "small", {"1": worse(6), "5": good}, dim=64, parameters=2_000_000)
    write_student(first, "alone", {"1": worse(3)})
    write_student(second, "other", {"1": worse(9)}, seed=7)
    return first, second


def again(folder: Path, **changes: Any) -> None:
    """Change a manifest."""
    write_manifest(folder, dataclasses.replace(read_manifest(folder), **changes))
