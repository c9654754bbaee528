"""Sentence BLEU of k-best lists, seqkd beside sacrebleu: `python tests/bench/selecting.py --kbest DIR --gold DIR`.

Both score the same pairs in turn, in one process, on one core; seqkd also on two. Scores must be equal. Both begin with
text, or with tokens that are joined by blanks where the tokenizer is "none". Written are select.json and select.md.

With `--text FILE`, one sentence a line, lists are made of it: a hypothesis is its reference with one to three words
dropped, swapped, or taken from another sentence. Then the memory of `select` is measured too, at some shards and at 20
times as many. Two cores are two processes, as in `select`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from sacrebleu.metrics.bleu import BLEU  # noqa: E402

from seqkd.config.stages import SelectConfig  # noqa: E402
from seqkd.corpus.manifest import Manifest, ShardInfo, build_fingerprint, write_manifest  # noqa: E402
from seqkd.corpus.reader import Corpus  # noqa: E402
from seqkd.corpus.schema import KBEST_SCHEMA  # noqa: E402
from seqkd.corpus.writer import write_shard  # noqa: E402
from seqkd.selection.lists import Lists  # noqa: E402
from seqkd.selection.rules import Means, score_by_seqinter  # noqa: E402
from seqkd.selection.sentence_bleu import SentenceBleu  # noqa: E402
from seqkd.stages.select import select  # noqa: E402
from tests.bench.run import PIPELINE, machine, say  # noqa: E402

TOKENIZERS = ("13a", "none", "char", "zh", "intl")
PIECE_PAIRS = 1280  # that are worked on together; `select` takes 1,024 rows at a time
SHARD_ROWS = 250
SHARDS = 4  # and 20 times as many, where memory is measured
TURNS = 8  # of seqkd for each of sacrebleu, which takes much longer
COUNTED = 1_000_000
SECONDS = 0.1  # at least about this long is timed


def read(kbest: Path, gold: Path, rows: int) -> Lists:
    """The first rows that have both."""
    lists, texts = Corpus.open(kbest, "kbest"), Corpus.open(gold, "corpus")
    positions = np.arange(min(rows, lists.rows, texts.rows))
    return Lists.of_tables(texts.take(positions), lists.take(positions))


def made(lines: list[str], k: int) -> tuple[pa.Table, pa.Table]:
    """Gold rows of these sentences, and lists of k hypotheses; words are their own ids."""
    draw = random.Random(k)
    known: dict[str, int] = {}

    def ids(words: list[str]) -> list[int]:
        return [known.setdefault(word, len(known)) for word in words]

    gold: list[dict[str, Any]] = []
    kbest: list[dict[str, Any]] = []
    for row, line in enumerate(lines):
        source = ids(line.split())
        gold.append({"id": row, "source": line, "target": line, "source_ids": source, "target_ids": source})
        hypotheses = []
        for rank in range(k):
            words = line.split()
            for _ in range(draw.randint(1, 3)):
                place, kind = draw.randrange(len(words)), draw.randrange(3)
                if kind == 0 and len(words) > 1:
                    del words[place]
                elif kind == 1:
                    words[place - 1], words[place] = words[place], words[place - 1]
                else:
                    words[place] = draw.choice(draw.choice(lines).split())
            score = -0.1 * rank
            best = {"ids": ids(words), "text": " ".join(words), "score": score, "logprob": score, "ended": "eos"}
            hypotheses.append(best)
        kbest.append({"id": row, "source_ids": source, "hypotheses": hypotheses})
    return pa.Table.from_pylist(gold), pa.Table.from_pylist(kbest, schema=KBEST_SCHEMA)


def write(folder: Path, kind: str, rows: pa.Table, times: int) -> None:
    """The rows so many times, with ids that go on, in shards."""
    folder.mkdir(parents=True)
    shards: list[ShardInfo] = []
    for start in range(0, times * rows.num_rows, SHARD_ROWS):
        part = rows.slice(start % rows.num_rows, SHARD_ROWS)
        ids = pa.array(range(start, start + part.num_rows), pa.int64())
        shards.append(write_shard(folder, len(shards), part.set_column(0, "id", ids)))
    total = sum(shard.rows for shard in shards)
    made_by = build_fingerprint("bench", {}, {})
    write_manifest(folder, Manifest(kind=kind, fingerprint=made_by, rows=total, shards=shards, vocabulary="0" * 64))


def peak(config: dict[str, Any], out: Path) -> float:
    """Megabytes of its own, pages of files not counted, that a process had at most while it selected."""
    most, done = 0, threading.Event()

    def look() -> None:
        nonlocal most
        while not done.wait(0.002):
            status = Path("/proc/self/status").read_text()
            most = max(most, int(status.split("RssAnon:")[1].split()[0]))

    watcher = threading.Thread(target=look)
    watcher.start()
    select.run(SelectConfig.model_validate(config), out)
    done.set()
    watcher.join()
    return most / 1024


def memory(gold: pa.Table, kbest: pa.Table) -> dict[str, float]:
    """Peaks of `select` by seqinter in one process, a new one each, at one and at 20 times the rows."""
    rows = SHARD_ROWS * SHARDS
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for times in (1, 20):
            folder = Path(name, str(times))
            write(folder / "gold", "corpus", gold.slice(0, rows), times)
            write(folder / "kbest", "kbest", kbest.slice(0, rows), times)
            made_by = build_fingerprint("bench", {}, {})
            (folder / "prepared").mkdir()
            write_manifest(folder / "prepared", Manifest(kind="prepared", fingerprint=made_by, vocabulary="0" * 64))
            config = {key: str(folder / key) for key in ("gold", "kbest", "prepared")}
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                values = {**config, "rule": "seqinter", "workers": 1}
                found[f"{times * rows:,} rows, {times * SHARDS} shards"] = pool.apply(peak, (values, folder / "out"))
    return found


def cut(lists: Lists) -> Lists:
    """The lists with 13a's tokens, joined by blanks, for texts."""
    tokenizer = BLEU().tokenizer

    def done(texts: Any) -> Any:
        return pa.array([tokenizer(text.rstrip()) for text in texts.to_pylist()], pa.string())

    names = [field.name for field in lists.hypotheses.type]
    columns = [done(lists.texts) if name == "text" else lists.hypotheses.field(name) for name in names]
    return Lists(
        ids=lists.ids,
        sources=lists.sources,
        source_ids=lists.source_ids,
        references=done(lists.references),
        reference_ids=lists.reference_ids,
        hypotheses=pa.StructArray.from_arrays(columns, names),
        counts=lists.counts,
    )


def timed(work: Callable[[], Any], times: int) -> float:
    """Seconds of each of so many calls."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times


halves: list[tuple[str, list[Lists]]] = []  # what two processes, copies of this one, share out


def score(tokenizer: str, parts: list[Lists]) -> list[Any]:
    """By seqkd, with an empty cache of lines, where sacrebleu cuts them."""
    means = Means(bleu=SentenceBleu(tokenizer))
    return [score_by_seqinter(part, means) for part in parts]


def passes(work: tuple[int, int]) -> None:
    """Score one of the halves so many times."""
    which, times = work
    for _ in range(times):
        score(*halves[which])


def count(rounds: int) -> int:
    """Arithmetic alone: what no cache and no other process should slow down."""
    number = 0
    for step in range(rounds):
        number = (number * 1103515245 + step) & 0xFFFFFFFF
    return number


def compare(tokenizer: str, lists: Lists, repeats: int) -> dict[str, Any]:
    """Both on the same pairs, in turn."""
    if tokenizer == "none":
        lists = cut(lists)
    rows = max(1, round(PIECE_PAIRS / lists.counts.mean()))
    parts = list(lists.pieces(-(-len(lists.ids) // (2 * -(-len(lists.ids) // (2 * rows))))))  # an even number, alike
    references = lists.references.take(lists.owners).to_pylist()
    hypotheses = lists.texts.to_pylist()

    def ours() -> list[Any]:
        return score(tokenizer, parts)

    def theirs() -> list[float]:
        scorer = BLEU(tokenize=tokenizer, effective_order=True)  # likewise
        pairs = zip(hypotheses, references, strict=True)
        return [scorer.sentence_score(hypothesis, [reference]).score for hypothesis, reference in pairs]

    found, wanted = np.concatenate(ours()), np.array(theirs())
    times = max(1, round(SECONDS / timed(ours, 3)))
    rounds = round(COUNTED * SECONDS / timed(lambda: count(COUNTED), 3)) // 2 * 2
    seconds: dict[str, list[float]] = {name: [] for name in ("sacrebleu", "one", "two", "loop one", "loop two")}
    halves.clear()
    halves.extend((tokenizer, half) for half in (parts[::2], parts[1::2]))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(passes, [(0, 1), (1, 1)], chunksize=1)
        for turn in range(repeats * TURNS):
            if turn % TURNS == 0:
                seconds["sacrebleu"].append(timed(theirs, 1))
            seconds["one"].append(timed(ours, times))
            seconds["two"].append(timed(lambda: pool.map(passes, [(0, times), (1, times)], chunksize=1), 1) / times)
            seconds["loop one"].append(timed(lambda: count(rounds), 1))
            seconds["loop two"].append(timed(lambda: pool.map(count, [rounds // 2] * 2, chunksize=1), 1))
    best = {name: min(values) for name, values in seconds.items()}
    own = np.split(found, lists.firsts[1:]), np.split(wanted, lists.firsts[1:])
    same = [ours.argmax() == theirs.argmax() for ours, theirs in zip(*own, strict=True) if len(ours)]
    return {
        "tokenizer": tokenizer,
        "pairs": len(wanted),
        "k": float(lists.counts.mean()),
        "equal_scores": float(np.mean(found == wanted)),
        "equal_argmax": float(np.mean(same)),
        "largest_difference": float(np.abs(found - wanted).max(initial=0.0)),
        "pairs_per_second": {name: len(wanted) / best[name] for name in ("sacrebleu", "one", "two")},
        "speedup": best["sacrebleu"] / best["one"],
        "two_cores": best["one"] / best["two"],
        "two_cores_of_a_loop": best["loop one"] / best["loop two"],
    }


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "| tokenizer | K | pairs | sacrebleu, pairs/s | one core | x | two cores | x | a loop on two, x "
        "| equal scores | equal argmax |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in result["runs"]:
        theirs, one, two = (run["pairs_per_second"][name] for name in ("sacrebleu", "one", "two"))
        lines.append(
            f"| {run['tokenizer']} | {run['k']:.0f} | {run['pairs']:,} | {theirs:,.0f} | {one:,.0f} "
            f"| {run['speedup']:.1f} | {two:,.0f} | {run['two_cores']:.2f} | {run['two_cores_of_a_loop']:.2f} "
            f"| {run['equal_scores']:.2%} | {run['equal_argmax']:.2%} |"
        )
    for k, peaks in result["memory"].items():
        lines += ["", f"Peak memory with lists of {k}: " + "; ".join(f"{at}: {mb:.1f} MB" for at, mb in peaks.items())]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pipeline = Path(os.environ.get("RUNS", "runs"), PIPELINE)
    parser.add_argument("--kbest", type=Path, default=pipeline / "kbest" / "beam5", help="(default: %(default)s)")
    parser.add_argument("--gold", type=Path, default=pipeline / "gold" / "train", help="(default: %(default)s)")
    parser.add_argument("--text", type=Path, help="make lists of this text in place of reading them")
    parser.add_argument("--k", default="5,35", help="how long made lists are (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=14_000, help="hypotheses to score (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokenizers", default=",".join(TOKENIZERS), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    everything, peaks = [], {}
    if options.text is None:
        first = Corpus.open(options.kbest, "kbest").take(np.arange(1), ["hypotheses"])
        k = max(1, len(first.column("hypotheses")[0]))
        everything.append(read(options.kbest, options.gold, -(-options.pairs // k)))
    else:
        lines = [line for line in options.text.read_text(encoding="utf-8").splitlines() if line.split()]
        for k in map(int, options.k.split(",")):
            gold, kbest = made(lines[: max(options.pairs // k, SHARD_ROWS * SHARDS)], k)
            rows = options.pairs // k
            everything.append(Lists.of_tables(gold.slice(0, rows), kbest.slice(0, rows)))
            say(f"select, memory, lists of {k}")
            peaks[k] = memory(gold, kbest)
    runs = []
    for lists in everything:
        for tokenizer in options.tokenizers.split(","):
            say(f"select, {tokenizer}, {lists.counts.mean():.0f} a list")
            runs.append(compare(tokenizer, lists, options.repeats))
    result = {"machine": machine(), "runs": runs, "memory": peaks}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "select.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "select.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
