"""Memory and speed of whole stages over many rows: `python tests/bench/rows.py --rows 100000,1000000,10000000`.

A gold corpus of short random sentences is made, shard by shard, and the command line is run over it as a user would:
`distill` with a tiny Transformer of random weights that ends its sentences early, `select` by seqinter with the filter
of duplicates, and `verify` of what came out and all that it was made from. With `--made-above N` the k-best lists of
corpora larger than that are made too, and `distill` is left out.

Memory is looked at ten times a second, in the command's process and its children, summed: `own` is what they have for
themselves (RssAnon), `resident` the peak that the kernel notes of each (VmHWM), with the pages of mapped files, which
the kernel takes back when it needs room. ru_maxrss is not used: a process starts with its parent's. Written are
rows.json and rows.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.compute as pc  # noqa: E402

from seqkd.corpus.manifest import Manifest, build_fingerprint, write_manifest  # noqa: E402
from seqkd.corpus.writer import write_shard  # noqa: E402
from seqkd.text.vocabulary import Vocabulary  # noqa: E402
from tests.bench import big  # noqa: E402
from tests.bench.run import machine, say  # noqa: E402

MODEL = big.SETTINGS | {"dim": 32, "heads": 2, "ffn_dim": 64, "encoder_layers": 1, "decoder_layers": 1}
PIECES = 64  # of the vocabulary, four special ones among them
FIRST = 4  # the first that is a word
SHORTEST, LONGEST = 3, 6  # words of a sentence
OUTPUT = 4.0  # mean tokens of a hypothesis, end of sentence counted
NBEST = 2
SHARD_ROWS = 10_000  # as `prepare` writes them

Random = np.random.Generator
Counts = npt.NDArray[np.int32]


class Words:
    """The vocabulary's words, to write sentences of.

    Args:
        path: The vocabulary, whose words are w0, w1 ...
    """

    def __init__(self, path: Path) -> None:
        self.vocabulary = Vocabulary.load(path).digest
        self._words = pa.array([f"w{number}" for number in range(PIECES - FIRST)])

    def sentences(self, draw: Random, count: int) -> tuple[pa.Array, pa.Array]:
        """So many random ones: texts, and lists of ids."""
        lengths = draw.integers(SHORTEST, LONGEST + 1, count)
        ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        ids = draw.integers(FIRST, PIECES, int(lengths.sum()), dtype=np.int32)
        texts = pc.binary_join(pa.ListArray.from_arrays(ends, self._words.take(pa.array(ids - FIRST))), " ")
        return texts, pa.ListArray.from_arrays(ends, pa.array(ids))


def gold(words: Words, shard: int, first: int, rows: int) -> pa.Table:
    """A shard of the gold corpus."""
    draw = np.random.default_rng([1, shard])
    source, source_ids = words.sentences(draw, rows)
    target, target_ids = words.sentences(draw, rows)
    ids = pa.array(np.arange(first, first + rows))
    return pa.table({"id": ids, "source": source, "target": target, "source_ids": source_ids, "target_ids": target_ids})


def kbest(words: Words, shard: int, first: int, rows: int) -> pa.Table:
    """Its k-best lists, of random hypotheses: of a few, so that pairs come again where sources do."""
    source_ids = gold(words, shard, first, rows).column("source_ids").chunk(0)
    few = np.random.default_rng(2)
    text, ids = words.sentences(few, 1000)
    draw = np.random.default_rng([3, shard])
    chosen = pa.array(draw.integers(0, len(text), NBEST * rows))
    score = pa.array(-np.tile(np.arange(1, NBEST + 1, dtype=np.float32), rows))
    ended = pa.array(["eos"]).take(pa.array(np.zeros(NBEST * rows, dtype=np.int64)))
    hypotheses = pa.StructArray.from_arrays(
        [ids.take(chosen), text.take(chosen), score, score, ended], ["ids", "text", "score", "logprob", "ended"]
    )
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, NBEST * rows + 1, NBEST), pa.int32()), hypotheses)
    return pa.table({"id": pa.array(np.arange(first, first + rows)), "source_ids": source_ids, "hypotheses": lists})


def write(
    folder: Path, kind: str, rows: int, words: Words, table: Callable[[Words, int, int, int], pa.Table], **inputs: str
) -> str:
    """A folder of so many rows, a shard at a time; its manifest's digest."""
    folder.mkdir(parents=True)
    shards = [
        write_shard(folder, shard, table(words, shard, first, min(SHARD_ROWS, rows - first)))
        for shard, first in enumerate(range(0, rows, SHARD_ROWS))
    ]
    made_by = build_fingerprint("distill" if inputs else "prepare", {}, inputs)
    manifest = Manifest(kind=kind, fingerprint=made_by, rows=rows, shards=shards, vocabulary=words.vocabulary)
    write_manifest(folder, manifest)
    return manifest.digest()


def watched(name: str, *arguments: str | Path) -> dict[str, Any]:
    """Run a command of seqkd's and look at its memory; it must end well."""
    started = time.monotonic()
    command = [sys.executable, "-m", "seqkd", name, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    own, resident = 0, 0
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        members = family(process.pid)
        own = max(own, sum(kilobytes(member, "RssAnon") for member in members))
        resident = max(resident, sum(kilobytes(member, "VmHWM") for member in members))
        time.sleep(0.1)
    if code := os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
    return {
        "stage": name,
        "own_mb": own / 1024,
        "resident_mb": resident / 1024,
        "seconds": time.monotonic() - started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
    }


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for member in found:
        try:
            found += map(int, Path(f"/proc/{member}/task/{member}/children").read_text().split())
        except OSError:  # it has ended
            continue
    return found


def kilobytes(pid: int, field: str) -> int:
    """A figure of a process's status; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return int(status.split(f"{field}:")[1].split()[0]) if field in status else 0


def measure(rows: int, model: Path, run: Path, *, made: bool, beam: int, workers: int) -> list[dict[str, Any]]:
    """All commands over a corpus of so many rows; the folder is left empty."""
    words = Words(model / "vocab.model")
    say(f"rows: {rows:,}, making the corpus")
    corpus = write(run / "gold", "corpus", rows, words, gold)
    prepared = Manifest(kind="prepared", fingerprint=build_fingerprint("prepare", {}, {}), vocabulary=words.vocabulary)
    (run / "prepared").mkdir()
    write_manifest(run / "prepared", prepared)
    found = []
    if made:
        write(run / "kbest", "kbest", rows, words, kbest, corpus=corpus)
    else:
        lines = [f'models = ["{model}"]', f'corpus = "{run / "gold"}"', f"workers = {workers}", "batch_tokens = 16000"]
        lines += ["[search]", f"beam = {beam}", f"nbest = {NBEST}", "max_length_ratio = 0.0", "max_length_extra = 8"]
        (run / "distill.toml").write_text("\n".join(lines) + "\n")
        found.append(watched("distill", "--config", run / "distill.toml", "--out", run / "kbest", "--device", "cpu"))
    lines = [f'{name} = "{run / name}"' for name in ("kbest", "gold", "prepared")]
    lines += ['rule = "seqinter"', f"workers = {workers}", "filters = { duplicates = true }"]
    (run / "select.toml").write_text("\n".join(lines) + "\n")
    found.append(watched("select", "--config", run / "select.toml", "--out", run / "corpora"))
    found.append(watched("verify", run / "corpora", "--inputs", model.parent))
    for entry in found:
        entry |= {"rows": rows, "rows_per_second": rows / entry["seconds"], "made_lists": made}
        say(f"{entry['stage']}: {entry['own_mb']:.0f} MB, {entry['rows_per_second']:,.0f} rows/s")
    return found


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "| command | rows | own memory, MB | with files' pages, MB | seconds | of CPU | rows/s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for run in sorted(result["runs"], key=lambda run: (str(run["stage"]), int(run["rows"]))):
        lists = ", made lists" if run["made_lists"] else ""
        lines.append(
            f"| {run['stage']}{lists} | {run['rows']:,} | {run['own_mb']:.0f} | {run['resident_mb']:.0f} "
            f"| {run['seconds']:.0f} | {run['cpu_seconds']:.0f} | {run['rows_per_second']:,.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="100000,1000000,10000000", help="(default: %(default)s)")
    parser.add_argument("--made-above", type=int, help="make the k-best lists of larger corpora, do not decode them")
    parser.add_argument("--beam", type=int, default=NBEST, help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--work", type=Path, help="where corpora go for a while: some 500 bytes a row")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine(), "beam": options.beam, "workers": options.workers, "runs": []}
    with tempfile.TemporaryDirectory(dir=options.work) as name:
        model = Path(name, "teacher", "model")
        say(big.write_model(model, settings=MODEL, pieces=PIECES, max_length=12, mean_length=OUTPUT))
        for rows in map(int, options.rows.split(",")):
            made = options.made_above is not None and rows > options.made_above
            run = Path(name, str(rows))
            run.mkdir()
            runs = measure(rows, model, run, made=made, beam=options.beam, workers=options.workers)
            shutil.rmtree(run)
            result["runs"] += runs
            (options.out / "rows.json").write_text(json.dumps(result, indent=2) + "\n")
            (options.out / "rows.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
