"""What the runs say: medians, ratios, BLEU, how many outputs are equal to the reference's."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import sacrebleu

from seqkd.text.vocabularies import Vocabularies

REFERENCE = "fairseq float32"
OURS = "seqkd"


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over repeats."""
    if not runs:
        return {}
    return {
        "sentences_per_second": statistics.median(run["sentences_per_second"] for run in runs),
        "tokens_per_second": statistics.median(run["tokens"] / run["seconds"] for run in runs),
        "peak_rss_mb": max(run["peak_rss_mb"] for run in runs),
        "seconds": statistics.median(run["seconds"] for run in runs),
    }


def quality(runs: dict[str, list[dict[str, Any]]], references: list[str] | None, model: Path) -> dict[str, Any]:
    """For each entry: BLEU, and the share of sentences whose outputs are the reference's.

    Args:
        runs: Runs of each entry; their `outputs` are read.
        references: Target text; without it there is no BLEU.
        model: The model folder, for its vocabulary.
    """
    vocabulary = Vocabularies.load(model).target
    lists = {name: json.loads(Path(done[-1]["outputs"]).read_text()) for name, done in runs.items() if done}
    reference = lists.get(REFERENCE)
    found: dict[str, Any] = {}
    for name, kbest in lists.items():
        values: dict[str, Any] = {}
        if references is not None:
            texts = vocabulary.decode([hypotheses[0][0] for hypotheses in kbest])
            values["bleu"] = sacrebleu.corpus_bleu(texts, [references]).score
        if reference is not None:
            pairs = list(zip(kbest, reference, strict=True))
            values["same_best"] = sum(a[0][0] == b[0][0] for a, b in pairs) / len(pairs)
            values["same_lists"] = sum([h[0] for h in a] == [h[0] for h in b] for a, b in pairs) / len(pairs)
        found[name] = values
    return found


def markdown(result: dict[str, Any]) -> str:
    """The result as a page."""
    ours = {entry["name"]: entry["sentences_per_second"] for entry in result["peers"] if entry["name"].startswith(OURS)}
    best = max(ours.values(), default=None)
    plain = ours.get(f"{OURS} float32")
    machine = result["machine"]
    lines = [
        f"{result['sentences']:,} sentences, beam {result['beam']}, {result['nbest']}-best on {machine['cores']} cores "
        f"of {machine['cpu']}, device {machine['device']}; model: {result['model']}.",
        "",
        "| system | settings | sentences/s | target tokens/s | peak memory, MB | seqkd's best is | seqkd float32 is "
        "| BLEU | same 1-best | same lists |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for entry in result["peers"]:
        speed = entry["sentences_per_second"]
        cells = [
            entry["name"],
            entry["label"],
            f"{speed:,.1f}",
            f"{entry['tokens_per_second']:,.0f}",
            f"{entry['peak_rss_mb']:,}",
            "" if best is None else f"{best / speed:.2f} x",
            "" if plain is None else f"{plain / speed:.2f} x",
            _cell(entry.get("bleu"), "{:.2f}"),
            _cell(entry.get("same_best"), "{:.1%}"),
            _cell(entry.get("same_lists"), "{:.1%}"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    repeats = max((len(entry["runs"]) for entry in result["peers"]), default=0)
    lines += ["", f"Speeds are medians of {repeats} runs in turn; loading and warm-up are not counted. Memory is the"]
    lines += ["sum over processes, shared pages counted in each. `Same` compares with fairseq's outputs."]
    if result["beams"]:
        beams = list(result["beams"][0]["sentences_per_second"])
        lines += ["", "| sentences/s at beam | " + " | ".join(beams) + " |", "|---|" + "---:|" * len(beams)]
        for row in result["beams"]:
            speeds = [_cell(row["sentences_per_second"].get(beam), "{:.1f}") for beam in beams]
            lines.append(f"| {row['name']} | " + " | ".join(speeds) + " |")
    if result["tuning"]:
        lines += ["", "Settings tried, on a part of the sentences, one run each:", ""]
        lines += ["| system | settings | sentences/s |", "|---|---|---:|"]
        for tried in result["tuning"]:
            lines.append(f"| {tried['peer']} | {tried['label']} | {tried['sentences_per_second']:.1f} |")
    if result["failures"]:
        lines += ["", "Not possible here:", "", *(f"- {failure}" for failure in result["failures"])]
    return "\n".join(lines) + "\n"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
