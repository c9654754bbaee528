"""`seqkd prepare --sample`: one target of each source of a corpus, drawn at random.

It is the control of Zhou, Neubig & Gu 2020 for text with several targets: as many targets as a distilled corpus, but
chosen without a model. It also holds each source once, so that a teacher that decodes it decodes each source once.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from seqkd.config.stages import SampleConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Manifest, Provenance, ShardInfo, StageOutput
from seqkd.corpus.reader import Corpus
from seqkd.corpus.unknowns import UNKNOWN_ROWS, count_unknown
from seqkd.corpus.writer import write_shard
from seqkd.errors import CorpusError
from seqkd.executors.work import Completion, whole_shards
from seqkd.progress import say
from seqkd.selection.rules import draw_uniform
from seqkd.stages.prepare.shared_sources import SOURCE_ROW
from seqkd.stages.prepare.targets import TARGETS
from seqkd.stages.shards import ShardJob, make_shards

STAGE = "sample"
RULE = "random target"

Ids = npt.NDArray[np.int64]


def run(config: SampleConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Write the rows of a corpus that are drawn. The seed and the ids decide the draw. Rows keep their ids and shards.

    Args:
        config: The settings of the stage.
        out: The output folder, a corpus.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        CorpusError: The corpus is missing or damaged, or has one target for each source.
        ConflictError: `out` was made from another corpus or with another seed.
        WorkError: The files cannot be written, or the run was stopped.
    """
    out = Path(out)
    corpus = Corpus.open(config.corpus, "corpus")
    if TARGETS not in corpus.manifest.extra:
        raise CorpusError(
            "has one target for each source, so there is nothing to draw",
            where=str(config.corpus),
            expected="training text with several targets for each source",
            hint="give the data set a list of files as train.target",
        )
    inputs = {"corpus": corpus.manifest.digest()}
    made_by = Provenance(stage=STAGE, settings=settings(config), inputs=inputs, neutral=find_neutral(config))
    if not StageOutput.up_to_date(out, "corpus", made_by, overwrite=overwrite):
        corpus.check_rows()
    with StageOutput.open(out, "corpus", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"prepare: {out} is up to date")
            return
        drawn = _draw_rows(corpus, config.seed)
        work = whole_shards(lambda: partial(_take_shard, corpus, out, drawn))
        rows = [shard.rows for shard in corpus.shards]
        made = make_shards(output, ShardJob(label=f"prepare: {out.name}", unit="rows", rows=rows, work=work))
        assert made is not None  # there is one process
        manifest = _describe(corpus, output, made.shards)
        output.commit(manifest)
    say(f"prepare: {manifest.rows:,} of {corpus.rows:,} rows of {config.corpus}, one for each source, in {out}")


def settings(config: SampleConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, as in the stage file."""
    return config.model_dump(mode="json", include={"seed"})


def _draw_rows(corpus: Corpus, seed: int) -> Ids:
    """Draw the id of one row for each source, in ascending order."""
    tables = list(corpus.tables(["id", SOURCE_ROW]))
    ids, sources = (
        np.concatenate([np.zeros(0, dtype=np.int64), *(table.column(name).to_numpy() for table in tables)])
        for name in ("id", SOURCE_ROW)
    )
    numbers = draw_uniform(seed, sources, ids)
    order = np.lexsort((numbers, sources))  # the last row of each source has the largest number
    last = np.append(np.diff(sources[order]) != 0, True)[: len(order)]
    found: Ids = np.sort(ids[order[last]])
    return found


def _take_shard(corpus: Corpus, out: Path, drawn: Ids, index: int) -> Completion[ShardInfo]:
    """Take the drawn rows of a shard, and return the function that writes them."""
    table = corpus.read_shard(index)
    kept = table.filter(pa.array(np.isin(table.column("id").to_numpy(), drawn))).drop_columns([SOURCE_ROW])
    return partial(write_shard, out, index, kept)


def _describe(corpus: Corpus, output: StageOutput, shards: list[ShardInfo]) -> Manifest:
    tokens = {"source_ids": 0, "target_ids": 0}
    unknown: dict[str, int] = {}
    for shard in shards:
        with pa.memory_map(str(output.path / shard.name)) as file:
            table = pa.ipc.open_file(file).read_all()
            for column in tokens:
                tokens[column] += pc.sum(pc.list_value_length(table[column])).as_py() or 0
            for side, number in count_unknown([table]).items():
                unknown[side] = unknown.get(side, 0) + number
            del table
    known = corpus.manifest
    extra = {name: value for name, value in known.extra.items() if name not in (UNKNOWN_ROWS, TARGETS)}
    extra |= {"rule": RULE}
    return Manifest(
        kind="corpus",
        fingerprint=output.fingerprint,
        rows=sum(shard.rows for shard in shards),
        source_tokens=tokens["source_ids"],
        target_tokens=tokens["target_ids"],
        shards=shards,
        vocabulary=known.vocabulary,
        extra=extra | ({UNKNOWN_ROWS: unknown} if unknown else {}),
    )
