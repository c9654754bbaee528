"""`seqkd inspect`: the contents of a folder, for people."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from seqkd.config.models import ObjectiveConfig
from seqkd.config.written import fill_in_neutral
from seqkd.corpus.cost import read_cost
from seqkd.corpus.files import is_kept
from seqkd.corpus.manifest import MANIFEST, Manifest, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.corpus.records import FORGOTTEN
from seqkd.corpus.schema import KINDS
from seqkd.errors import CorpusError, ModelError
from seqkd.models.registry import misfit

WEIGHTS = "model.safetensors"
HISTORY = "history.json"
PLAN = "plan.mk"  # a file in the run folder of a pipeline
FILE_WIDTH = 120  # letters, if the output is not a terminal
RESULTS = {"evaluation": "result.json", "report": "report.json"}

_TITLES = {
    "corpus": "Corpus",
    "kbest": "K-best lists",
    "soft": "Soft targets",
    "prepared": "Prepared data",
    "model": "Model",
    "evaluation": "Evaluation",
    "report": "Report",
}
_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_CORPUS = re.compile(r"^corpus\d*$")  # the training corpora among the inputs of a model


def inspect(path: str | Path, *, rows: int = 3, console: Console | None = None) -> None:
    """Print the contents of the folder `path`.

    Args:
        path: Output folder of a stage, a model folder, or a folder with such folders in it.
        rows: How many sample rows to show, spread over the whole.
        console: Where to print; stdout if None.

    Raises:
        CorpusError: The folder is damaged, or holds nothing that seqkd made.
        ModelError: The model cannot be read.
    """
    path = Path(path)
    console = console or make_console()
    if (path / MANIFEST).exists() or not path.is_dir():
        _print_folder(path, read_manifest(path), rows, console)
    elif (path / WEIGHTS).exists():
        _print_heading(console, "Model", path)
        _print_model(path, None, console)
    else:
        _print_folders(path, console)


def make_console() -> Console:
    """Make a console that prints on stdout."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else FILE_WIDTH)


def _print_folder(path: Path, manifest: Manifest, rows: int, console: Console) -> None:
    _print_heading(console, _TITLES.get(manifest.kind, manifest.kind), path)
    if manifest.kind == "model":
        _print_model(path, manifest, console)
        return
    facts: dict[str, Any] = {}
    if manifest.rows:
        facts["rows"] = manifest.rows
        facts["source tokens"] = manifest.source_tokens
        facts["target tokens"] = manifest.target_tokens
    if manifest.shards:
        facts["shards"] = f"{len(manifest.shards):,}, {sum(shard.bytes for shard in manifest.shards) / 1e6:,.1f} MB"
    if manifest.vocabulary:
        facts["vocabulary"] = manifest.vocabulary
    console.print(_make_table({**facts, **_flatten(manifest.extra)}))
    if manifest.extra.get(FORGOTTEN):
        console.print("rows: deleted on purpose, by seqkd forget")
    elif manifest.kind in KINDS:
        _print_rows(Corpus.open(path), rows, console)
    elif manifest.kind in RESULTS:
        console.print(_make_table(_flatten(_read_json(path / RESULTS[manifest.kind])), "result"))
    elif manifest.kind == "prepared":
        _print_folders(path, console)
    if manifest.counts:
        console.print(_make_table(manifest.counts, "rows by reason"))
    _print_cost(path, console)
    console.print(_make_table(_flatten(manifest.fingerprint), "made with"))


# --- corpora ------------------------------------------------------------------------------------------------------


def _print_rows(corpus: Corpus, number: int, console: Console) -> None:
    kind = corpus.manifest.kind
    lengths: dict[str, npt.NDArray[np.int32]] = {}
    if kind == "corpus":
        _, lengths["source"], lengths["target"] = corpus.lengths()
        _print_selection(corpus, console)
    elif kind == "kbest":
        lengths = _print_kbest(corpus, console)
    if corpus.rows and lengths:
        table = Table("tokens a row", "least", "mean", "median", "95 %", "most", title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for name, values in lengths.items():
            if not len(values):  # k-best lists without any hypothesis
                continue
            least, median, high, most = np.percentile(values, [0, 50, 95, 100])
            table.add_row(
                name,
                *(f"{value:,.0f}" for value in (least,)),
                f"{values.mean():,.1f}",
                *(f"{value:,.0f}" for value in (median, high, most)),
            )
        console.print(table)
    _print_samples(corpus, number, console)


def _print_selection(corpus: Corpus, console: Console) -> None:
    """Print the origins, scores and weights of the targets of a distilled corpus, reading one shard at a time."""
    there = [name for name in ("score", "origin", "weight", "rival_margin") if name in corpus.schema.names]
    scores: list[npt.NDArray[np.float32]] = []
    weights: list[npt.NDArray[np.float32]] = []
    margins: list[npt.NDArray[np.float32]] = []
    origins: Counter[str] = Counter()
    for table in corpus.tables(there) if there else ():
        if "score" in there:
            scores.append(table.column("score").drop_null().to_numpy())
        if "weight" in there:
            weights.append(table.column("weight").to_numpy())
        if "rival_margin" in there:
            margins.append(table.column("rival_margin").to_numpy())
        if "origin" in there:
            counts = pc.value_counts(_join_chunks(table.column("origin"))).to_pylist()
            origins.update({pair["values"]: pair["counts"] for pair in counts})
    facts: dict[str, Any] = {f"targets from {origin}": count for origin, count in sorted(origins.items())}
    for what, parts in (("scores", scores), ("weights", weights), ("margins over rivals", margins)):
        values = np.concatenate([np.zeros(0, dtype=np.float32), *parts])
        if not len(values):
            continue
        facts[f"{what}: mean"] = float(values.mean(dtype=np.float64))
        for name, percent in (("least", 0), ("5 %", 5), ("median", 50), ("95 %", 95), ("most", 100)):
            facts[f"{what}: {name}"] = float(np.percentile(values, percent))
    if facts:
        console.print(_make_table(facts))


def _print_kbest(corpus: Corpus, console: Console) -> dict[str, npt.NDArray[np.int32]]:
    """Print why hypotheses ended, and return the lengths of sources and best hypotheses. Read one shard at a time."""
    sources, best, sizes = [], [], []
    ended: Counter[str] = Counter()
    for table in corpus.tables(["source_ids", "hypotheses"]):
        lists = _join_chunks(table.column("hypotheses"))
        flat = lists.flatten()
        counts = _to_numpy(pc.list_value_length(lists))
        starts = (np.cumsum(counts) - counts)[counts > 0]
        sources.append(_to_numpy(pc.list_value_length(_join_chunks(table.column("source_ids")))))
        best.append(_to_numpy(pc.list_value_length(flat.field("ids")))[starts])
        sizes.append(counts)
        ended.update({pair["values"]: pair["counts"] for pair in pc.value_counts(flat.field("ended")).to_pylist()})
    if not sizes:
        return {}
    size = np.concatenate(sizes)
    facts: dict[str, Any] = {"hypotheses": int(size.sum()), "hypotheses a row": f"{size.min()} to {size.max()}"}
    facts |= {f"ended by {reason}": count for reason, count in sorted(ended.items())}
    console.print(_make_table(facts))
    return {"source": np.concatenate(sources), "best hypothesis": np.concatenate(best)}


def _print_samples(corpus: Corpus, number: int, console: Console) -> None:
    if not number or not corpus.rows or corpus.manifest.kind == "soft":
        return
    positions = np.unique(np.linspace(0, corpus.rows - 1, min(number, corpus.rows)).astype(np.int64))
    table = Table("id", "", "text", title="sample rows", title_justify="left", show_lines=True)
    for row in corpus.take(positions).to_pylist():
        if corpus.manifest.kind == "corpus":
            sides = [("source", row["source"]), ("target", row["target"])]
            sides += [("rival", row["rival"])] if "rival" in row else []
            sides += [
                (name, str(row[name]))
                for name in ("score", "rule", "origin", "weight", "rival_margin")
                if row.get(name) is not None
            ]
            sides += [
                (f"reference {number}", text)
                for number, text in enumerate(row.get("further_references") or (), start=2)
            ]
        else:
            sides = [(f"{best['score']:.3f}", best["text"]) for best in row["hypotheses"]]
        table.add_row(str(row["id"]), "\n".join(name for name, _ in sides), Text("\n".join(text for _, text in sides)))
    console.print(table)


def _join_chunks(column: pa.ChunkedArray) -> Any:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def _to_numpy(values: Any) -> npt.NDArray[np.int32]:
    result: npt.NDArray[np.int32] = values.to_numpy(zero_copy_only=False)
    return result


# --- other folders ------------------------------------------------------------------------------------------------


def _print_model(path: Path, manifest: Manifest | None, console: Console) -> None:
    weights, config = _count_weights(path / WEIGHTS), _read_json(path / "config.json")
    facts = {"architecture": config.get("arch"), "parameters": weights, **_describe_vocabularies(path)}
    unfit = misfit(str(config.get("arch")), config.get("settings") or {})
    if unfit is not None:
        facts["CPU kernels"] = unfit
    if manifest is not None:
        facts |= _describe_training(path, manifest)
    console.print(_make_table(facts))
    console.print(_make_table(_flatten(config.get("settings") or {}), "settings"))
    if manifest is None:
        return
    if manifest.counts:
        console.print(_make_table(manifest.counts, "rows left out"))
    _print_cost(path, console)
    made_with = _flatten(manifest.fingerprint)
    shown_above = ("config.model.", "config.objective.")
    console.print(
        _make_table({key: value for key, value in made_with.items() if not key.startswith(shown_above)}, "made with")
    )


def _describe_vocabularies(path: Path) -> dict[str, str]:
    from seqkd.text.vocabularies import Vocabularies, find_kind

    if find_kind(path) is None:
        return {}
    own = Vocabularies.load(path)
    same = own.source.digest == own.target.digest
    found = {"vocabulary": own.target} if same else {f"{side} vocabulary": each for side, each in own.sides()[::-1]}
    return {side: f"{own.size:,} pieces, {_format_value(own.digest)}" for side, own in found.items()}


def _describe_training(path: Path, manifest: Manifest) -> dict[str, Any]:
    """Describe the training of a model: its objective, corpora, length and validation results."""
    made_by, extra = manifest.fingerprint, manifest.extra
    facts: dict[str, Any] = {}
    objective = dict(made_by.get("config", {}).get("objective") or {})
    if objective:
        objective = {**fill_in_neutral(ObjectiveConfig, objective), "teachers": None, "soft_targets": None}
        kind = objective.pop("type", "")
        options = (f"{name} {_format_value(value)}" for name, value in objective.items() if value is not None)
        facts["objective"] = ", ".join([kind, *options])
    if manifest.rows:
        inputs, weights = made_by.get("inputs", {}), made_by.get("config", {}).get("weights", [1.0])
        digests = [inputs[key] for key in sorted(inputs, key=lambda key: (len(key), key)) if _CORPUS.match(key)]
        names = [_find_corpus_name(path, digest) for digest in digests]
        shares = zip(weights, names, strict=False)
        facts["trained on"] = " + ".join(f"{weight:g} {name}" if weight != 1.0 else name for weight, name in shares)
        facts["rows"] = manifest.rows
        if manifest.target_tokens:
            facts["source tokens"], facts["target tokens"] = manifest.source_tokens, manifest.target_tokens
    told = {"arch", "parameters", "source_vocabulary", "files"}  # shown above, or not useful
    facts |= {name.replace("_", " "): value for name, value in extra.items() if name not in told}
    if (path / HISTORY).exists():
        for line in _read_lines(path / HISTORY):
            if line.get("update") == extra.get("best_update"):
                facts["validation NLL"] = line.get("valid_nll")
                facts["validation BLEU"] = line.get("valid_bleu")
                facts |= {f"validation {name}": value for name, value in line.get("metrics", {}).items()}
    return {name: value for name, value in facts.items() if value is not None}


def _find_corpus_name(path: Path, digest: str) -> str:
    """Find the name of the corpus with this digest in the run folder of a model; the digest if it is not there."""
    run = next((folder for folder in path.resolve().parents[:2] if (folder / PLAN).exists()), None)
    if run is None:
        return _format_value(digest)
    for file in sorted(run.glob(f"*/*/{MANIFEST}")):
        if not _is_kept(file, run) and read_manifest(file.parent).digest() == digest:
            return str(file.parent.relative_to(file.parents[2]))
    return _format_value(digest)


def _print_cost(path: Path, console: Console) -> None:
    cost = read_cost(path)
    if cost is not None:
        console.print(_make_table(cost.facts(), "cost"))


def _count_weights(path: Path) -> str:
    """Count the numbers in a safetensors file by type, from its header alone."""
    from safetensors import SafetensorError, safe_open

    counts: Counter[str] = Counter()
    try:
        with safe_open(str(path), framework="np") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                part = file.get_slice(name)
                counts[part.get_dtype()] += int(np.prod(part.get_shape(), dtype=np.int64))
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot be read: {error}", where=str(path)) from None
    return ", ".join(f"{count:,} ({kind})" for kind, count in counts.items())


def _print_folders(path: Path, console: Console) -> None:
    """List the contents of the folders below, such as all outputs of a pipeline."""
    files = {file for pattern in ("*", "*/*") for file in path.glob(f"{pattern}/{MANIFEST}")}
    found = sorted(file.parent for file in files if not _is_kept(file, path))
    if not found:
        raise CorpusError(
            f"no {MANIFEST} here or in the folders below",
            where=str(path),
            expected="a folder that a seqkd stage wrote, a model folder, or a pipeline's run folder",
        )
    table = Table("folder", "holds", "rows", "target tokens", title_justify="left")
    for folder in found:
        manifest = read_manifest(folder)
        numbers = [f"{value:,}" if value else "" for value in (manifest.rows, manifest.target_tokens)]
        table.add_row(str(folder.relative_to(path)), _TITLES.get(manifest.kind, manifest.kind), *numbers)
    for column in table.columns[2:]:
        column.justify = "right"
    console.print(table)


def _is_kept(file: Path, root: Path) -> bool:
    """Whether a file below `root` belongs to an old folder that its stage has replaced."""
    return any(is_kept(part) for part in file.relative_to(root).parts)


def _read_json(path: Path) -> dict[str, Any]:
    values = _read_values(path)
    if not isinstance(values, dict):
        raise CorpusError("not a JSON object", where=str(path))
    return values


def _read_lines(path: Path) -> list[dict[str, Any]]:
    values = _read_values(path)
    if not isinstance(values, list) or not all(isinstance(line, dict) for line in values):
        raise CorpusError("not a list of JSON objects", where=str(path))
    return values


def _read_values(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot be read: {error}", where=str(path)) from None


# --- printing -----------------------------------------------------------------------------------------------------


def _print_heading(console: Console, title: str, path: Path) -> None:
    console.print(Text.assemble((f"{title} ", "bold"), str(path)))


def _make_table(values: Mapping[str, Any], title: str | None = None) -> Table:
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in values.items():
        table.add_row(Text(str(key)), Text(_format_value(value)))
    return table


def _format_value(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str):
        return f"{value[:12]}..." if _DIGEST.match(value) else value
    return json.dumps(value, ensure_ascii=False)


def _flatten(values: Mapping[str, Any], path: Sequence[str] = ()) -> dict[str, Any]:
    """Flatten nested tables into one, with dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flatten(value, (*path, str(key)))
        elif not isinstance(value, list) or _holds_no_tables(value):
            found[".".join((*path, str(key)))] = value
    return found


def _holds_no_tables(values: Iterable[Any]) -> bool:
    return not any(isinstance(value, (dict, list)) for value in values)
