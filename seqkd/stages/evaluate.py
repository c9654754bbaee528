"""`seqkd evaluate`: decode the test corpus with a model, and measure quality and speed."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from seqkd.config import EvaluateConfig
from seqkd.corpus.manifest import MANIFEST, Manifest, StageOutput, atomic_write, fingerprint, read_manifest
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.metrics.corpus import corpus_bleu, corpus_chrf, corpus_ter, share_valid
from seqkd.metrics.results import RESULT, BeamResult, EvaluationResult
from seqkd.models.checkpoint import model_digest
from seqkd.progress import Progress, say
from seqkd.search import BeamSearch, BeamSettings, Hypothesis, score_pairs
from seqkd.search.loading import SearchTeam, load_team, resolve_device, team_precision

WARM_UP = 8  # sentences decoded before the clock starts: first calls load kernels and allocate
LATENCY_SENTENCES = 50
MOST_REFERENCES = 16  # accepted translations a row that multi-reference BLEU looks at


def run(config: EvaluateConfig, out: Path, *, overwrite: bool = False, device: str = "auto") -> None:
    """Evaluate `config.model` on `config.corpus`: result.json, and the outputs of each beam as text.

    Where the prepared folder has accepted translations, the share of valid outputs and multi-reference BLEU are
    measured too.

    Args:
        config: The stage's settings.
        out: Output folder.
        overwrite: Start anew where `out` was made with other settings.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        CorpusError: The test corpus is missing, empty, or in another vocabulary than the model.
        ModelError: The model folder is damaged.
        ConflictError: `out` was made with other settings.
        WorkError: Logits are not finite, or the system refuses to write.
    """
    corpus = Corpus.open(config.corpus, "corpus")
    where = resolve_device(device)
    precision = team_precision([config.model], config.precision, where)
    accepted = config.corpus.parent / f"{config.corpus.name}.accepted.jsonl"
    inputs = {"corpus": corpus.manifest.digest(), "model": model_digest(config.model)}
    if accepted.is_file():
        inputs["accepted"] = hashlib.sha256(accepted.read_bytes()).hexdigest()
    settings = config.model_dump(mode="json", include={"name", "role", "trained_on", "beams", "batch_tokens"})
    settings["search"] = config.search.model_dump(mode="json", exclude={"beam", "nbest"})
    made_by = fingerprint("evaluate", {**settings, "precision": precision, "device": where.type}, inputs)
    with StageOutput.open(out, "evaluation", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"evaluate: {out} is up to date")
            return
        test = _read(corpus, accepted if "accepted" in inputs else None)
        team = load_team([config.model], device=str(where), precision=precision)
        _check_vocabulary(corpus, team, config)
        result, counts = _evaluate(config, test, team, out)
        atomic_write(out / RESULT, result.to_json().encode())
        extra = {"name": config.name, "role": config.role, "precision": precision, "device": where.type}
        output.commit(
            Manifest(
                kind="evaluation",
                fingerprint=made_by,
                rows=len(test.ids),
                vocabulary=corpus.manifest.vocabulary,
                counts=counts,
                extra=extra,
            )
        )
    for beam, found in sorted(result.beams.items()):
        valid = "" if found.valid is None else f", {found.valid:.1%} valid"
        say(
            f"evaluate: {config.name}, beam {beam}: BLEU {found.bleu:.2f}, chrF {found.chrf:.2f}, "
            f"TER {found.ter:.2f}{valid}, {found.sentences_per_second:,.1f} sentences/s on {result.device}"
        )


@dataclass(frozen=True, slots=True)
class _Test:
    """The test corpus; test corpora are small enough to hold."""

    ids: list[int]
    sources: list[list[int]]
    targets: list[list[int]]
    references: list[str]
    accepted: list[list[str]] | None


@dataclass(frozen=True, slots=True)
class _Decode:
    """One beam's output, in the corpus's order."""

    hypotheses: list[Hypothesis]
    texts: list[str]
    seconds: float


def _read(corpus: Corpus, accepted: Path | None) -> _Test:
    if not corpus.rows:
        raise CorpusError("has no rows to evaluate on", where=str(corpus.path))
    ids: list[int] = []
    sources: list[list[int]] = []
    targets: list[list[int]] = []
    references: list[str] = []
    for table in corpus.tables(["id", "source_ids", "target_ids", "target"]):
        ids += table.column("id").to_pylist()
        sources += table.column("source_ids").to_pylist()
        targets += table.column("target_ids").to_pylist()
        references += table.column("target").to_pylist()
    return _Test(ids, sources, targets, references, _read_accepted(accepted, ids) if accepted else None)


def _read_accepted(path: Path, ids: list[int]) -> list[list[str]]:
    """Accepted translations of each of `ids`; line n of the file, from 0, is row n."""
    try:
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        rows = [lines[row] for row in ids]
    except (ValueError, IndexError) as error:
        raise CorpusError(
            f"does not fit the test corpus: {error}", where=str(path), expected="a JSON list of texts for each row"
        ) from None
    return rows


def _check_vocabulary(corpus: Corpus, team: SearchTeam, config: EvaluateConfig) -> None:
    known = team.loaded[0].vocabulary.digest
    if corpus.manifest.vocabulary != known:
        raise CorpusError(
            "was made with another vocabulary than the model's",
            where=str(config.corpus),
            expected=f"vocabulary {known[:12]}..., found {corpus.manifest.vocabulary[:12]}...",
            hint="evaluate on a test corpus that was prepared with the model's vocabulary",
        )


def _evaluate(
    config: EvaluateConfig, test: _Test, team: SearchTeam, out: Path
) -> tuple[EvaluationResult, dict[str, int]]:
    beams = sorted(set(config.beams))
    found: dict[int, BeamResult] = {}
    signatures: dict[str, str] = {}
    best: list[Hypothesis] = []
    with Progress(f"evaluate {config.name}", len(beams) * len(test.ids), "sentences") as progress:
        for beam in beams:
            search = _search(config, team, beam)
            decode = _decode(search, test, team, config.batch_tokens, progress)
            found[beam], signatures = _score(test, decode)
            _write_texts(out / f"hypotheses.beam{beam}.txt", decode.texts)
            best = decode.hypotheses
    latency, sentences = _latency(_search(config, team, config.beams[0]), test, config.batch_tokens)
    perplexity, cut = _perplexity(test, team, config.batch_tokens)
    loaded = team.loaded[0]
    result = EvaluationResult(
        name=config.name,
        role=config.role,
        arch=loaded.arch,
        trained_on=config.trained_on,
        objective=_objective(config.model),
        parameters=sum(weight.numel() for weight in loaded.model.parameters()),
        rows=len(test.ids),
        beams=found,
        quality_beam=beams[-1],
        latency_beam=config.beams[0],
        perplexity=perplexity,
        mode_probability=statistics.fmean(math.exp(hypothesis.logprob) for hypothesis in best),
        latency_ms=latency,
        latency_sentences=sentences,
        signatures=signatures,
        device=describe(team.device),
        precision=team.precision,
    )
    return result, {"cut to the model's positions": cut} if cut else {}


def _search(config: EvaluateConfig, team: SearchTeam, beam: int) -> BeamSearch:
    settings = BeamSettings(**{**config.search.model_dump(), "beam": beam, "nbest": 1})
    return BeamSearch(team.engines, settings, fallback=team.fallback)


def _decode(search: BeamSearch, test: _Test, team: SearchTeam, batch_tokens: int, progress: Progress) -> _Decode:
    rows = list(enumerate(test.sources))
    for _ in search.decode(rows[:WARM_UP], batch_tokens=batch_tokens):
        pass
    started = time.perf_counter()
    hypotheses: list[Hypothesis | None] = [None] * len(rows)
    for row, nbest in search.decode(rows, batch_tokens=batch_tokens):
        hypotheses[row] = nbest[0]
        progress.advance()
    complete = [hypothesis for hypothesis in hypotheses if hypothesis is not None]
    texts = team.loaded[0].vocabulary.decode([hypothesis.ids for hypothesis in complete])
    return _Decode(complete, texts, time.perf_counter() - started)


def _score(test: _Test, decode: _Decode) -> tuple[BeamResult, dict[str, str]]:
    references = [[text] for text in test.references]
    bleu, chrf, ter = (metric(decode.texts, references) for metric in (corpus_bleu, corpus_chrf, corpus_ter))
    signatures = {"bleu": bleu.signature, "chrf": chrf.signature, "ter": ter.signature}
    several = valid = None
    if test.accepted is not None:
        several = corpus_bleu(decode.texts, [texts[:MOST_REFERENCES] for texts in test.accepted])
        signatures["bleu_accepted"] = several.signature
        valid = share_valid(decode.texts, test.accepted)
    reference_tokens = sum(map(len, test.targets))
    result = BeamResult(
        bleu=bleu.value,
        chrf=chrf.value,
        ter=ter.value,
        bleu_accepted=several.value if several else None,
        valid=valid,
        length_ratio=sum(len(hypothesis.ids) for hypothesis in decode.hypotheses) / max(reference_tokens, 1),
        cut=sum(hypothesis.ended == "max_length" for hypothesis in decode.hypotheses),
        sentences_per_second=len(decode.texts) / decode.seconds,
    )
    return result, signatures


def _latency(search: BeamSearch, test: _Test, batch_tokens: int) -> tuple[float, int]:
    """Median milliseconds of a sentence decoded alone, and of how many; they are spread over the corpus."""
    count = min(LATENCY_SENTENCES, len(test.sources))
    rows = [index * len(test.sources) // count for index in range(count)]
    times = []
    for row in rows:
        started = time.perf_counter()
        for _ in search.decode([(row, test.sources[row])], batch_tokens=batch_tokens):
            pass
        times.append(1000.0 * (time.perf_counter() - started))
    return statistics.median(times), count


def _perplexity(test: _Test, team: SearchTeam, batch_tokens: int) -> tuple[float, int]:
    """Perplexity of the references, and how many rows were longer than the model's positions and were cut."""
    model: Any = team.loaded[0].model
    limit = model.max_positions - 1
    pairs = [(source[:limit], target[:limit]) for source, target in zip(test.sources, test.targets, strict=True)]
    cut = sum(max(map(len, pair)) > limit for pair in zip(test.sources, test.targets, strict=True))
    scores = score_pairs([model], pairs, batch_tokens=batch_tokens, device=team.device)
    mean = sum(score.logprob for score in scores) / sum(score.tokens for score in scores)
    return math.exp(min(-mean, 700.0)), cut  # a float holds no more than e^709


def _write_texts(path: Path, texts: list[str]) -> None:
    """One output a line, in the corpus's order; a line break inside an output becomes a space."""
    lines = [text.replace("\r", " ").replace("\n", " ") + "\n" for text in texts]
    atomic_write(path, "".join(lines).encode())


def _objective(model: Path) -> str:
    """What the model's manifest says it was trained to minimise; "" for a model that was brought along."""
    if not (model / MANIFEST).is_file():
        return ""
    objective = read_manifest(model).fingerprint.get("config", {}).get("objective", {})
    return str(objective.get("type", "")) if isinstance(objective, dict) else str(objective)


def describe(device: torch.device) -> str:
    """The device in words: a GPU's name, or the processor's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' * (threads > 1)}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"
