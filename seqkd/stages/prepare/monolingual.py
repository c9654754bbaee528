"""`seqkd prepare --monolingual`: text of one language, encoded for the model that translates it.

The text is the source of the output, a corpus that has no targets yet. Text of the target language gives a corpus in
the reverse direction (back-translation), and text of the source language one in the direction of the gold text
(self-training).
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqkd.config.stages import MonolingualConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import PARTIAL, Manifest, Provenance, StageOutput, read_manifest
from seqkd.errors import InputError, SeqkdError
from seqkd.progress import say
from seqkd.stages.prepare.encoding import (
    corpus_manifest,
    describe_units,
    encode_shards,
    find_units,
    list_rejected,
    raise_problems,
    screen_rows,
)
from seqkd.stages.prepare.prepare import read_prepared
from seqkd.stages.prepare.tags import describe_tag, read_tag
from seqkd.stages.rejected import REJECTED
from seqkd.text.cleaning import Cleaner
from seqkd.text.normalize import Normalizer
from seqkd.text.reading import check_bitext, read_lines
from seqkd.text.screening import count_verdicts, read_kept
from seqkd.text.vocabularies import Vocabularies

MONOLINGUAL = "monolingual"  # in a manifest: the corpus has no targets
SIDE = "side"  # in a manifest of monolingual text, the language of its sources if it is "source"

_WORK = "work"  # the folder of temporary files of the run


def run(config: MonolingualConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Draw `config.ratio` rows of text for each row of gold text, and encode them as the sources of a corpus.

    Ids follow those of the gold text, so that synthetic pairs cannot be taken for gold ones.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        CorpusError: `config.prepared` is not an output of `prepare`.
        InputError: The text cannot be used, or there is too little of it.
        ConflictError: `out` was made with other settings or text.
        WorkError: The files cannot be written, or the run was stopped.
    """
    out = Path(out)
    prepared = read_prepared(config.prepared)
    rows, digests = _check(config.text)
    made_by = Provenance(
        stage="monolingual",
        settings=settings(config),
        inputs={"train": prepared.extra["train"]} | {f"text{index}": digest for index, digest in enumerate(digests, 1)},
        formerly={"prepared": ("train", prepared.digest())},
        neutral=find_neutral(config),
    )
    with StageOutput.open(out, "corpus", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"prepare: {out} is up to date")
            return
        try:
            manifest = _prepare(config, output, rows, prepared)
        except InputError:
            for name in (_WORK, PARTIAL):  # so that corrected settings do not cause a conflict
                shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
            raise
        output.commit(manifest)
    say(f"prepare: {manifest.rows:,} of {rows:,} lines of monolingual text in {out}")


def settings(config: MonolingualConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, as in the stage file."""
    return config.model_dump(mode="json", exclude={"text", "prepared"})


def _check(paths: tuple[Path, ...]) -> tuple[int, list[str]]:
    """Count the lines of all files and compute their digests. One message lists all problems."""
    rows = 0
    digests: list[str] = []
    problems: list[SeqkdError] = []
    for path in paths:
        try:
            facts = check_bitext(path, None)
            rows += facts.rows
            digests += facts.digests
        except InputError as error:
            problems.append(error)
    raise_problems(problems)
    return rows, digests


def _prepare(config: MonolingualConfig, output: StageOutput, rows: int, prepared: Manifest) -> Manifest:
    work = output.path / _WORK
    work.mkdir(exist_ok=True)
    vocabularies = Vocabularies.load(config.prepared)
    if config.side == "target":
        vocabularies = vocabularies.reversed()
    normalizer = Normalizer(vocabularies.source.normalization)
    language = prepared.extra.get(f"{config.side}_language")
    units = find_units(read_lines(config.text), (normalizer, normalizer), language, language)
    verdicts = screen_rows(
        read_lines(config.text),
        work,
        rows,
        normalizers=(normalizer, normalizer),
        cleaner=Cleaner(max_length=config.max_length, max_ratio=1.0, drop_identical=False, units=units),
        drop_duplicates=config.drop_duplicates,
        label="prepare: monolingual text",
        unit="lines",
    )
    usable, counts = count_verdicts(verdicts)
    gold = read_manifest(config.prepared / "train").rows
    wanted = max(1, round(config.ratio * gold))
    if wanted > usable:
        raise InputError(
            f"ratio {config.ratio:g} asks for {wanted:,} lines of monolingual text, {config.ratio:g} for each of "
            f"{gold:,} rows of gold text; {usable:,} of {rows:,} can be used",
            where=", ".join(map(str, config.text)),
            expected=f"at least {wanted:,} lines that are different and neither empty nor too long",
            hint=f"give more text, or a ratio of at most {int(1000 * usable / gold) / 1000:g}",
        )
    texts = ((text, "") for text, _ in read_kept(read_lines(config.text), verdicts))
    chosen = draw_texts(texts, usable, wanted, config.seed)
    tag = read_tag(prepared) if config.side == "source" else ""
    shards = encode_shards(chosen, output, wanted, config.shard_rows, vocabularies, first_id=gold, tag=tag)
    list_rejected(output.path / REJECTED, verdicts)
    shutil.rmtree(work)
    manifest = corpus_manifest(output, shards, vocabularies, counts)
    manifest.extra.update({MONOLINGUAL: True, "ratio": config.ratio, "gold": prepared.extra["train"]})
    manifest.extra.update(describe_units(units))
    if config.side == "source":
        manifest.extra.update({SIDE: config.side, **describe_tag(tag)})
    names = ("source_language", "target_language")
    for name, other in zip(names, names if config.side == "source" else reversed(names), strict=True):
        if other in prepared.extra:
            manifest.extra[name] = prepared.extra[other]
    return manifest


def draw_texts(texts: Iterator[tuple[str, str]], total: int, wanted: int, seed: int) -> Iterator[tuple[str, str]]:
    """Draw `wanted` of `total` texts in their order. All sets of texts are equally likely.

    This is algorithm S of Knuth, The Art of Computer Programming 2, section 3.4.2, in one pass and constant memory.
    """
    draw = random.Random(seed).random
    for left, text in zip(range(total, 0, -1), texts, strict=True):
        if left * draw() < wanted:
            wanted -= 1
            yield text
