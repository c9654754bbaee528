"""`seqkd select`: select a distilled corpus from k-best lists and the corpus that was decoded."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.config.stages import SelectConfig
from seqkd.corpus.manifest import Manifest, Provenance, ShardInfo, StageOutput, atomic_path
from seqkd.corpus.reader import Corpus
from seqkd.corpus.unknowns import UNKNOWN_ROWS
from seqkd.corpus.writer import write_shard
from seqkd.executors.local import count_cores
from seqkd.executors.work import HERE, Completion, Scale, whole_shards
from seqkd.kernels.bleu import kernels
from seqkd.kernels.build import missing_kernels
from seqkd.progress import say
from seqkd.selection.filters import Filters, MinScore, percentile
from seqkd.selection.lists import one_array
from seqkd.stages.asking import (
    Asking,
    Workers,
    ask_workers,
    check_workers,
    describe_workers,
    discard_notes,
    estimate_workers,
    find_workers,
)
from seqkd.stages.prepare.tags import SOURCE_TAG
from seqkd.stages.rejected import REJECTED
from seqkd.stages.select.accounting import Totals, account_shard, chosen_ids, note_duplicates
from seqkd.stages.select.checks import check_ids, check_inputs, is_source_text
from seqkd.stages.select.choices import compare_choices, weighs_gains
from seqkd.stages.select.provenance import provenance
from seqkd.stages.select.shards import (
    ShardSelector,
    add_weights,
    candidate_ids,
    rejects_path,
)
from seqkd.stages.shards import ShardJob, make_shards, own_device, stage_device
from seqkd.stages.slower import slow_path_note
from seqkd.text.duplicates import DuplicateFinder
from seqkd.text.identification import LanguageCheck

FEW_ROWS = 50_000  # up to this size one process works alone, unless the file gives a number of processes


def run(
    config: SelectConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto", scale: Scale = HERE
) -> None:
    """Choose one hypothesis for each row by `config.rule`, or keep all, and write the distilled corpus.

    Rows are joined by id. A shard of the output depends on the same shard of the inputs and on the settings only. An
    interrupted run continues after its finished shards.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if `out` was made with other settings.
        device: The device of the models of a scorer. Everything else runs on the CPU.
        scale: The executor and the part of the work.

    Raises:
        CorpusError: The k-best lists do not belong to this corpus or its vocabulary.
        InputError: The script does not exist, or the tokenizer is not installed.
        ModelError: A model of the scorer is damaged.
        ConflictError: `out` was made with other settings, or another process is using it.
        WorkError: A file cannot be written, a worker died, or the run was stopped.
    """
    out = Path(out)
    kbest, gold = Corpus.open(config.kbest, "kbest"), Corpus.open(config.gold, "corpus")
    check_inputs(kbest, gold, config)
    workers = _find_workers(config)
    made_by = provenance(config, kbest, gold, device, scale)
    if not StageOutput.up_to_date(out, "corpus", made_by, overwrite=overwrite):
        check_workers(workers, config.workers, scale)
        kbest.check_rows()
        if config.filters.reads("language"):
            LanguageCheck(gold.manifest.extra["target_language"], "filters.language")
        if config.weighs:
            check_ids(gold)
    measured = own_device(stage_device(device, scale), scale) if config.judge and config.judge.models else "cpu"
    with (
        StageOutput.open(out, "corpus", made_by, overwrite=overwrite, part=scale.part, device=measured) as output,
        ask_workers(workers, out, scale) as asking,
    ):
        if output.complete:
            _discard_lists(out, gold)  # left by a process that was killed right after the manifest
            say(f"select: {out} is up to date")
            return
        written = _write_shards(config, kbest, device, gold, output, scale, asking)
        if written is None:
            return
        if config.filters["duplicates"]:
            written = _drop_duplicates(out, written, listed=config.keep > 1)
        totals = Totals()
        with atomic_path(out / REJECTED) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write("id\treason\tbecame\n")
            for index in range(len(written)):
                rows = gold.read_shard(index)
                ids = rows.column("id").to_numpy()
                if config.keeps_all:
                    ids = candidate_ids(rows, kbest.read_shard(index))
                elif config.weighs:
                    ids = chosen_ids(out, index, _table(out, written[index].name))
                elif weighs_gains(config):
                    totals.chosen.update(compare_choices(config, gold, kbest, index, _table(out, written[index].name)))
                file.writelines(account_shard(totals, out, index, rows, ids, _table(out, written[index].name)))
        noted = slow_path_note(_slow_path(config, device, scale)) | describe_workers(workers, out)
        output.commit(_manifest(config, made_by, gold, written, totals, noted))
        _discard_lists(out, gold)
    left = ", ".join(f"{number:,} {reason}" for reason, number in totals.dropped.items())
    said = f"; left out: {left} (see {out / REJECTED})" if left else ""
    same = "" if config.reverse else f", {totals.equal / max(totals.rows, 1):.1%} equal to the reference"
    same += "".join(f", {count / max(totals.rows, 1):.1%} {which}" for which, count in totals.chosen.items())
    say(f"select: {totals.rows:,} rows by {config.rule} in {out}{same}{said}")


def estimate(config: SelectConfig, out: str | Path, *, device: str = "auto", scale: Scale = HERE) -> None:
    """Say what a run would ask external workers, and what that would cost. Nothing is asked or written.

    A scorer's values are taken to be equal, and a filter is taken to keep every pair.

    Args:
        config: The settings of the stage.
        out: The output folder.
        device: See `run`.
        scale: See `run`.

    Raises:
        CorpusError: The k-best lists do not belong to this corpus or its vocabulary.
        WorkError: The answers of earlier runs cannot be read.
    """
    kbest, gold = Corpus.open(config.kbest, "kbest"), Corpus.open(config.gold, "corpus")
    check_inputs(kbest, gold, config)
    workers, total = _find_workers(config), len(gold.shards)
    with estimate_workers("select", Path(out), scale.part):
        if workers:
            selector = ShardSelector(config, _filters(config, kbest), device)
            for index in range(total) if scale.part is None else scale.part.shards(total):
                selector.make(Path(out), index)  # what it returns would write the shard


def _find_workers(config: SelectConfig) -> Workers:
    return find_workers({"scorer": config.judge and config.judge.settings, "filter": config.filters["worker"]})


def _slow_path(config: SelectConfig, device: str, scale: Scale) -> str | None:
    """Return the slower path that the rule took without the CPU kernels, with the reason, or None."""
    if config.judge is not None and config.judge.models:
        from seqkd.search.paths import slow_path  # torch is not loaded for rules that need no model

        return slow_path(list(config.judge.models.values()), "float32", stage_device(device, scale))
    return missing_kernels()["bleu"] if "bleu" in config.record.reads and kernels() is None else None


def _discard_lists(out: Path, gold: Corpus) -> None:
    """Delete the lists of rejected rows of the shards, which have been merged into one list, and notes on workers."""
    for index in range(len(gold.shards)):
        rejects_path(out, index).unlink(missing_ok=True)
    discard_notes(out)


def _filters(config: SelectConfig, kbest: Corpus) -> Filters:
    """Build the filters, with the percentile of scores as a number."""
    settings = {record.name: config.filters.settings[record.name] for record in config.filters.active}
    if config.filters["worst_percent"]:

        def best() -> Iterator[npt.NDArray[np.float32]]:
            for table in kbest.tables(["hypotheses"]):
                lists = one_array(table.column("hypotheses"))
                filled = lists.filter(pc.greater(pc.list_value_length(lists), 0))
                yield pc.struct_field(pc.list_element(filled, 0), "score").to_numpy(zero_copy_only=False)

        least, given = percentile(best, config.filters["worst_percent"]), config.filters["min_score"]
        settings["min_score"] = MinScore(min_score=least if given is None else max(least, given))
    return Filters.of(list(settings.values()))


def _write_shards(
    config: SelectConfig, kbest: Corpus, device: str, gold: Corpus, output: StageOutput, scale: Scale, asking: Asking
) -> list[ShardInfo] | None:
    """Write the missing shards; return all of them, or None if this process is not the one to finish the folder."""
    rows = [shard.rows for shard in gold.shards]
    total = len(rows) if scale.part is None else len(scale.part.shards(len(rows)))
    workers = min(config.workers or count_cores(), total)
    slow = config.record.slow or any(record.slow for record in config.filters.active)
    gpu = False
    threads = None
    if asking.workers:
        alone = True
        threads = 1 if config.judge is not None and config.judge.models else None
    elif config.judge is None:
        alone = workers == 1 or not (config.workers or slow or sum(rows) > FEW_ROWS)
    else:
        where = stage_device(device, scale)
        device, gpu = str(where), where.type == "cuda"
        # On a CPU models work in processes with one thread each, even if there is only one process: the number of
        # threads changes how sums are rounded.
        alone = scale.executor == "local" and where.type != "cpu"
    threads = threads if alone else 1
    start = partial(_start, config, _filters(config, kbest), device, output.path, threads)
    job = ShardJob(
        label=f"select {config.rule}",
        unit="rows",
        rows=rows,
        work=whole_shards(start),
        keeps=partial(_is_listed, output.path),
        processes=0 if alone else workers,
        workers=config.workers,
        gpu=gpu,
    )
    made = make_shards(output, job, scale=scale, stop=asking.stop, note=lambda *_: asking.finish())
    return None if made is None else made.shards


def _is_listed(out: Path, index: int, shard: ShardInfo) -> bool:  # noqa: ARG001
    """Whether the list of a shard's rejected rows exists, too."""
    return rejects_path(out, index).exists()


def _start(
    config: SelectConfig, filters: Filters, device: str, out: Path, threads: int | None
) -> Callable[[int], Completion[ShardInfo]]:
    if config.judge is not None and threads is not None:
        import torch

        torch.set_num_threads(threads)
    return partial(ShardSelector(config, filters, device).make, out)


def _drop_duplicates(out: Path, shards: list[ShardInfo], *, listed: bool) -> list[ShardInfo]:
    """Remove rows whose pair occurs in an earlier row, and write the affected shards again.

    If `listed`, the removed rows are added to the shards' lists of rejected rows first.

    The first of equal pairs always stays, so an interrupted run can repeat this on partly cleaned shards.
    """
    rows = sum(shard.rows for shard in shards)
    with tempfile.TemporaryDirectory(dir=out, prefix=".", suffix=".0.tmp") as folder:  # swept up after a crash
        finder = DuplicateFinder(Path(folder), rows)
        row = 0
        for shard in shards:
            table = _table(out, shard.name)
            for pair in zip(table.column("source").to_pylist(), table.column("target").to_pylist(), strict=True):
                finder.add(row, *pair)
                row += 1
        repeated = np.memmap(Path(folder) / "repeated", dtype=np.bool_, mode="w+", shape=(max(rows, 1),))
        for found in finder.find_repeats():
            repeated[found] = True
        left, start = [], 0
        for index, shard in enumerate(shards):
            gone = np.array(repeated[start : start + shard.rows])
            start += shard.rows
            if gone.any():
                table = _table(out, shard.name)
                if listed:
                    note_duplicates(out, index, table.column("id").to_numpy()[gone])
                table = table.filter(pa.array(~gone))
                left.append(write_shard(out, index, add_weights(table) if "weight" in table.column_names else table))
            else:
                left.append(shard)
    return left


def _manifest(
    config: SelectConfig,
    made_by: Provenance,
    gold: Corpus,
    shards: list[ShardInfo],
    totals: Totals,
    noted: dict[str, Any],
) -> Manifest:
    known = gold.manifest.extra
    vocabulary, source_vocabulary = gold.manifest.vocabulary, known.get("source_vocabulary")
    names = ["source_language", "target_language"]
    languages = {name: known[name] for name in (*names, SOURCE_TAG) if name in known}
    if is_source_text(gold):
        facts: dict[str, Any] = {"monolingual_rows": gold.rows, "gold": known["gold"]}
    elif config.reverse:
        languages = {name: known[other] for name, other in zip(names, reversed(names), strict=True) if other in known}
        vocabulary, source_vocabulary = known["source_vocabulary"], vocabulary
        facts = {"tag": config.tag, "monolingual_rows": gold.rows, "gold": known["gold"]}
    else:
        facts = {
            **({"chosen": dict(totals.chosen)} if totals.chosen else {}),
            "equal_to_reference": totals.equal,
            "share_equal_to_reference": totals.equal / totals.rows if totals.rows else 0.0,
            "vocabulary_in_targets": len(totals.used),
            "vocabulary_in_gold_targets": len(totals.used_gold),
            "vocabulary_lost": len(totals.used_gold - totals.used),
        }
    return Manifest(
        kind="corpus",
        fingerprint=made_by.fingerprint,
        rows=totals.rows,
        source_tokens=totals.source_tokens,
        target_tokens=totals.target_tokens,
        shards=shards,
        vocabulary=vocabulary,
        counts=dict(sorted(totals.dropped.items())),
        extra={
            **made_by.extra,
            **({"source_vocabulary": source_vocabulary} if source_vocabulary is not None else {}),
            "rule": config.rule,
            **languages,
            **({UNKNOWN_ROWS: dict(totals.unknown)} if totals.unknown else {}),
            **facts,
            **{
                f"rejected_to_{became.replace(' ', '_')}": dict(sorted(reasons.items()))
                for became, reasons in sorted(totals.replaced.items())
            },
            **noted,
        },
    )


def _table(folder: Path, name: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(folder / name))).read_all()
