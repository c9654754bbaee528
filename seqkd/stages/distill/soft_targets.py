"""`seqkd distill --soft-targets`: store the teachers' distributions at the target positions of a corpus."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from seqkd.config.stages import SoftTargetsConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Manifest, Provenance, ShardInfo, StageOutput
from seqkd.corpus.reader import Corpus
from seqkd.corpus.revisions import soft_target_revisions
from seqkd.corpus.schema import SOFT_SCHEMA
from seqkd.errors import CorpusError
from seqkd.executors.local import count_cores
from seqkd.executors.work import HERE, Scale, whole_shards
from seqkd.kernels import attention, products
from seqkd.kernels.build import missing_kernels
from seqkd.models.checkpoint import model_digest
from seqkd.progress import say
from seqkd.stages.distill.counting import read_counts
from seqkd.stages.distill.soft_shards import pair_lengths, start
from seqkd.stages.rejected import REJECTED, list_rows
from seqkd.stages.shards import ShardJob, make_shards, own_device, stage_device
from seqkd.stages.slower import slow_path_note
from seqkd.stages.train.teaching import TOO_LONG, check_teachers
from seqkd.stages.train.vocabularies import teacher_vocabularies
from seqkd.text.vocabularies import Vocabularies
from seqkd.training.precision import Precision, choose_precision


def run(
    config: SoftTargetsConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto", scale: Scale = HERE
) -> None:
    """Write soft targets of every row of `config.corpus` to `out`, with one shard for each shard read.

    Rows that are too long for a teacher are left out, counted and listed.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if `out` was made with other settings.
        device: auto, cpu, cuda or cuda:N; on a Ray cluster auto, cpu or cuda.
        scale: The executor and the part of the work.

    Raises:
        CorpusError: The corpus is missing or damaged, or its vocabulary differs from a teacher's.
        ModelError: A teacher folder does not contain a model that decodes left to right, or the model was trained with
            a different vocabulary.
        InputError: The device or the precision is not available, or Ray is not installed.
        ConflictError: `out` was made with other settings, or another process is using it.
        WorkError: Logits are not finite even in float32, a file cannot be written, a worker died, or the run was
            stopped.
    """
    out = Path(out)
    corpus = Corpus.open(config.corpus, "corpus")
    vocabularies = _check(corpus, config)
    where = stage_device(device, scale)
    precision = choose_precision(config.precision, where)
    made_by = _made_by(config, corpus, where, precision)
    mine = range(len(corpus.shards)) if scale.part is None else scale.part.shards(len(corpus.shards))
    if not StageOutput.up_to_date(out, "soft", made_by, overwrite=overwrite):
        corpus.check_ids("source_ids", vocabularies.source.size, mine)
        corpus.check_ids("target_ids", vocabularies.target.size, mine)
    with StageOutput.open(
        out, "soft", made_by, overwrite=overwrite, part=scale.part, device=own_device(where, scale)
    ) as output:
        if output.complete:
            say(f"distill: {out} is up to date")
            return
        processes, threads = _spread(config, where, scale, len(mine))
        job = ShardJob(
            label="soft targets",
            unit="rows",
            rows=[shard.rows for shard in corpus.shards],
            work=whole_shards(partial(start, config, out, str(where), precision, threads)),
            processes=processes,
            workers=config.workers,
            gpu=where.type == "cuda",
        )
        made = make_shards(output, job, scale=scale)
        if made is None:
            return
        totals = _account(corpus, out, made.shards)
        manifest = _manifest(out, config, corpus, totals, made.shards, made_by, vocabularies.target.size)
        output.commit(manifest)
    say(
        f"distill: soft targets of {manifest.rows:,} rows in {out}, {manifest.extra['bytes_per_token']:.1f} bytes a "
        f"token, {made.rows / max(made.seconds, 1e-9):,.0f} rows/s; vocabulary of {vocabularies.target.size:,}"
    )


def settings(config: SoftTargetsConfig) -> dict[str, Any]:
    """Return the settings on which the output depends, as written in the stage file."""
    # The seed decides which ids are drawn; the likeliest ones do not depend on it.
    drawn = {"samples", "seed"} if config.samples is not None else set()
    return config.model_dump(mode="json", include={"top_k", "temperature", "batch_tokens", "precision", *drawn})


def _made_by(config: SoftTargetsConfig, corpus: Corpus, where: torch.device, precision: Precision) -> Provenance:
    teachers = {f"teacher{number}": model_digest(path) for number, path in enumerate(config.models, start=1)}
    return Provenance(
        stage="soft_targets",
        settings=settings(config),
        inputs={"corpus": corpus.manifest.digest(), **teachers},
        neutral=find_neutral(config),
        worked={"device": where.type, "precision": precision, "batch_tokens": config.batch_tokens},
        revisions=soft_target_revisions(precision),
    )


def _spread(config: SoftTargetsConfig, where: torch.device, scale: Scale, shards: int) -> tuple[int, int | None]:
    """Return the number of processes, 0 for this one alone, and the threads of each, None for as many as torch takes.

    Rows of a shard share batches, so a process makes whole shards, and more than `shards` processes are useless.
    """
    if scale.executor == "ray":
        return 0, 1
    processes = min(config.workers or count_cores(), shards) if where.type == "cpu" else 1
    return (processes, max(1, count_cores() // processes)) if processes > 1 else (0, None)


def _check(corpus: Corpus, config: SoftTargetsConfig) -> Vocabularies:
    """Return the teachers' vocabularies, which must equal those of the corpus."""
    vocabularies = teacher_vocabularies(config.models[0], corpus)
    check_teachers(config.models, vocabularies)
    size = vocabularies.target.size
    if config.top_k is not None and config.top_k > size:
        raise CorpusError(
            f"top_k is {config.top_k:,}, but the vocabulary has {size:,} pieces",
            where=str(vocabularies.target.path),
            expected=f"at most {size:,}",
        )
    return vocabularies


@dataclass(slots=True)
class _Totals:
    """The contents of all shards.

    Attributes:
        rows: Number of rows.
        source_tokens: Number of source tokens, without end of sentence.
        target_tokens: Number of target tokens, without end of sentence.
        left_out: Ids of the corpus' rows that are in no shard.
    """

    rows: int = 0
    source_tokens: int = 0
    target_tokens: int = 0
    left_out: list[int] = field(default_factory=list)


def _account(corpus: Corpus, out: Path, shards: list[ShardInfo]) -> _Totals:
    """Compare the shards of all workers with those of the corpus, and list the rows that were left out."""
    totals = _Totals()
    only_ids = pa.ipc.IpcReadOptions(included_fields=[SOFT_SCHEMA.get_field_index("id")])
    for index, shard in enumerate(shards):
        with pa.memory_map(str(out / shard.name)) as file:
            written = pa.ipc.open_file(file, options=only_ids).read_all().column("id").to_numpy()
        table = corpus.read_shard(index, ["id", "source_ids", "target_ids"])
        ids = table.column("id").to_numpy()
        kept = np.isin(ids, written)
        sources, targets = pair_lengths(table)
        totals.rows += int(kept.sum())
        totals.source_tokens += int(sources[kept].sum(dtype=np.int64))
        totals.target_tokens += int(targets[kept].sum(dtype=np.int64))
        totals.left_out += ids[~kept].tolist()
    list_rows(out / REJECTED, ((row, TOO_LONG) for row in sorted(totals.left_out)))
    return totals


def _manifest(
    out: Path,
    config: SoftTargetsConfig,
    corpus: Corpus,
    totals: _Totals,
    shards: list[ShardInfo],
    made_by: Provenance,
    pieces: int,
) -> Manifest:
    positions = totals.target_tokens + totals.rows
    size = sum(shard.bytes for shard in shards)
    return Manifest(
        kind="soft",
        fingerprint=made_by.fingerprint,
        rows=totals.rows,
        source_tokens=totals.source_tokens,
        target_tokens=totals.target_tokens,
        shards=shards,
        vocabulary=corpus.manifest.vocabulary,
        counts=({TOO_LONG: len(totals.left_out)} if totals.left_out else {}) | read_counts(out),
        extra={
            **made_by.extra,
            "top_k": config.top_k,
            "samples": config.samples,
            "temperature": config.temperature,
            "pieces": pieces,
            "positions": positions,
            "bytes_per_token": round(size / max(positions, 1), 2),
            **slow_path_note(*_slow_paths(made_by.worked["device"], made_by.worked["precision"])),
        },
    )


def _slow_paths(device: str, precision: str) -> list[str]:
    """Return the slower paths taken in place of the kernels for teachers in bf16 on a CPU, with the reasons."""
    if (device, precision) != ("cpu", "bf16"):
        return []
    for module in (attention, products):
        module.kernels()
    return [why for name, why in sorted(missing_kernels().items()) if name in ("attention", "products")]
