"""`seqkd prepare --monolingual`: text of the target language alone, ready for a model of the other direction.

What comes of it is a corpus in that direction: the text is its source, and there are no targets yet.
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
    encode_shards,
    list_rejected,
    screened,
    tell_all,
    units_of,
    units_record,
)
from seqkd.stages.prepare.prepare import read_prepared
from seqkd.stages.rejected import REJECTED
from seqkd.text.cleaning import Cleaner
from seqkd.text.normalize import Normalizer
from seqkd.text.reading import check_bitext, read_lines
from seqkd.text.screening import count_verdicts, read_kept
from seqkd.text.vocabularies import Vocabularies

MONOLINGUAL = "monolingual"  # in a manifest: the corpus has no targets

_WORK = "work"  # files of the run under way


def run(config: MonolingualConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Draw `config.ratio` rows of text for each row of gold text, and encode them as the sources of a corpus.

    Ids follow those of the gold text, so that no synthetic pair is ever taken for a gold one.

    Args:
        config: The stage's settings.
        out: The output folder.
        overwrite: Start anew whatever is there.
        device: Not used: text needs none.

    Raises:
        CorpusError: `config.prepared` is no output of `prepare`.
        InputError: Text cannot be used, or there is too little of it.
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
            for name in (_WORK, PARTIAL):  # corrected settings must not meet a conflict
                shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
            raise
        output.commit(manifest)
    say(f"prepare: {manifest.rows:,} of {rows:,} lines of monolingual text in {out}")


def settings(config: MonolingualConfig) -> dict[str, Any]:
    """The settings that the output depends on, as the stage file gives them."""
    return config.model_dump(mode="json", exclude={"text", "prepared"})


def _check(paths: tuple[Path, ...]) -> tuple[int, list[str]]:
    """Lines of all files, and each one's digest; all that is wrong in one message."""
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
    tell_all(problems)
    return rows, digests


def _prepare(config: MonolingualConfig, output: StageOutput, rows: int, prepared: Manifest) -> Manifest:
    work = output.path / _WORK
    work.mkdir(exist_ok=True)
    vocabularies = Vocabularies.load(config.prepared).reversed()  # the text is in the target's language
    normalizer = Normalizer(vocabularies.source.normalization)
    language = prepared.extra.get("target_language")
    units = units_of(read_lines(config.text), (normalizer, normalizer), language, language)
    verdicts = screened(
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
    chosen = drawn(texts, usable, wanted, config.seed)
    shards = encode_shards(chosen, output, wanted, config.shard_rows, vocabularies, first_id=gold)
    list_rejected(output.path / REJECTED, verdicts)
    shutil.rmtree(work)
    manifest = corpus_manifest(output, shards, vocabularies, counts)
    manifest.extra.update({MONOLINGUAL: True, "ratio": config.ratio, "gold": prepared.extra["train"]})
    manifest.extra.update(units_record(units))
    for name, other in (("source_language", "target_language"), ("target_language", "source_language")):
        if other in prepared.extra:  # its sources are what the gold text's targets are
            manifest.extra[name] = prepared.extra[other]
    return manifest


def drawn(texts: Iterator[tuple[str, str]], total: int, wanted: int, seed: int) -> Iterator[tuple[str, str]]:
    """Yield `wanted` of `total` texts in their order, each set of them as likely as any other.

    Algorithm S of Knuth, The Art of Computer Programming 2, section 3.4.2: one pass, and nothing is held.
    """
    draw = random.Random(seed).random
    for left, text in zip(range(total, 0, -1), texts, strict=True):
        if left * draw() < wanted:
            wanted -= 1
            yield text
