"""Sentence BLEU of k-best lists, seqkd beside sacrebleu: `python tests/bench/selecting.py --kbest DIR --gold DIR`.

Both score the same pairs in turn, in one process, on one core; seqkd also on two. Scores must be equal. Both begin with
text, or with tokens that are joined by blanks where the tokenizer is "none". Written are select.json and select.md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
if str(REPOSITORY) not in sys.path:  # run as a script
    sys.path.insert(0, str(REPOSITORY))

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from sacrebleu.metrics.bleu import BLEU  # noqa: E402

from seqkd.corpus.reader import Corpus  # noqa: E402
from seqkd.selection import RULES, Lists, Means  # noqa: E402
from seqkd.selection.sentence_bleu import SentenceBleu  # noqa: E402
from tests.bench.run import PIPELINE, machine, say  # noqa: E402

TOKENIZERS = ("13a", "none", "char", "zh", "intl")
PIECES = 512  # rows that are worked on together, as `select` does with twice as many
SECONDS = 0.5  # at least this long is timed


def read(kbest: Path, gold: Path, rows: int) -> Lists:
    """The first rows that have both."""
    lists, texts = Corpus.open(kbest, "kbest"), Corpus.open(gold, "corpus")
    positions = np.arange(min(rows, lists.rows, texts.rows))
    return Lists.of_tables(texts.take(positions), lists.take(positions))


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


def compare(tokenizer: str, lists: Lists, repeats: int) -> dict[str, Any]:
    """Both on the same pairs, in turn."""
    if tokenizer == "none":
        lists = cut(lists)
    parts = list(lists.pieces(PIECES))
    references = lists.references.take(lists.owners).to_pylist()
    hypotheses = lists.texts.to_pylist()

    def ours(some: list[Lists] = parts) -> list[Any]:
        means = Means(bleu=SentenceBleu(tokenizer))  # with an empty cache of lines, where sacrebleu cuts them
        return [RULES["seqinter"](part, means) for part in some]

    def theirs() -> list[float]:
        scorer = BLEU(tokenize=tokenizer, effective_order=True)  # likewise
        pairs = zip(hypotheses, references, strict=True)
        return [scorer.sentence_score(hypothesis, [reference]).score for hypothesis, reference in pairs]

    found, wanted = np.concatenate(ours()), np.array(theirs())
    times = max(1, round(SECONDS / timed(ours, 3)))
    seconds: dict[str, list[float]] = {"sacrebleu": [], "one": [], "two": []}
    with ThreadPoolExecutor(2) as pool:

        def both() -> None:
            for part in [pool.submit(ours, parts[::2]), pool.submit(ours, parts[1::2])]:
                part.result()

        for _ in range(repeats):
            seconds["sacrebleu"].append(timed(theirs, 1))
            seconds["one"].append(timed(ours, times))
            seconds["two"].append(timed(both, times))
    speeds = {name: len(wanted) / np.array(values) for name, values in seconds.items()}
    firsts = lists.firsts[lists.counts > 0]
    best = [np.maximum.reduceat(scores, firsts) for scores in (found, wanted)]
    return {
        "tokenizer": tokenizer,
        "pairs": len(wanted),
        "k": float(lists.counts.mean()),
        "equal_scores": float(np.mean(found == wanted)),
        "equal_best": float(np.mean(best[0] == best[1])),
        "largest_difference": float(np.abs(found - wanted).max(initial=0.0)),
        "pairs_per_second": {name: float(values.max()) for name, values in speeds.items()},
        "speedup": statistics.median(speeds["one"] / speeds["sacrebleu"]),
        "two_cores": float(speeds["two"].max() / speeds["one"].max()),
    }


def markdown(result: dict[str, Any]) -> str:
    """The table."""
    lines = [
        "| tokenizer | K | pairs | sacrebleu, pairs/s | one core | x | two cores | x | equal scores |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for run in result["runs"]:
        theirs, one, two = (run["pairs_per_second"][name] for name in ("sacrebleu", "one", "two"))
        lines.append(
            f"| {run['tokenizer']} | {run['k']:.0f} | {run['pairs']:,} | {theirs:,.0f} | {one:,.0f} "
            f"| {run['speedup']:.1f} | {two:,.0f} | {run['two_cores']:.2f} | {run['equal_scores']:.2%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    pipeline = Path(os.environ.get("RUNS", "runs"), PIPELINE)
    parser.add_argument("--kbest", type=Path, default=pipeline / "kbest" / "beam5", help="(default: %(default)s)")
    parser.add_argument("--gold", type=Path, default=pipeline / "gold" / "train", help="(default: %(default)s)")
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--tokenizers", default=",".join(TOKENIZERS), help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    options = parser.parse_args()
    lists = read(options.kbest, options.gold, options.rows)
    runs = []
    for tokenizer in options.tokenizers.split(","):
        say(f"select, {tokenizer}")
        runs.append(compare(tokenizer, lists, options.repeats))
    result = {"machine": machine(), "rows": len(lists.ids), "runs": runs}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "select.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "select.md").write_text(markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
