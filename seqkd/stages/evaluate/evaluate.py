"""`seqkd evaluate`: decode the test corpus with a model, and measure quality and speed."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from seqkd.config.stages import EvaluateConfig
from seqkd.corpus.manifest import Manifest, StageOutput, atomic_write
from seqkd.corpus.reader import Corpus
from seqkd.errors import CorpusError
from seqkd.kernels.processors import model_name
from seqkd.metrics.registry import METRICS, Outputs, main_metric
from seqkd.metrics.results import BLEU, FIELDS, RESULT, Baseline, DecodeResult, EvaluationResult
from seqkd.metrics.speed import Speed, measure, read_load
from seqkd.metrics.tokenizers import Tokenizer, choose_tokenizer
from seqkd.models.protocol import SOURCE_TOO_LONG
from seqkd.progress import Progress, say
from seqkd.search import Hypothesis
from seqkd.search.gpu.graphs import ORDINARY_RUNS
from seqkd.search.loading import SearchTeam, resolve_device, team_precision
from seqkd.search.paths import slow_path
from seqkd.stages.evaluate.comparing import TEXT, BaselineOutputs
from seqkd.stages.evaluate.likelihood import measure_likelihood
from seqkd.stages.evaluate.messages import describe_uncompared, say_results
from seqkd.stages.evaluate.models import Models, find_recipe
from seqkd.stages.evaluate.provenance import provenance
from seqkd.stages.evaluate.recoding import open_recoded
from seqkd.stages.evaluate.references import read_accepted, read_further_references
from seqkd.stages.evaluate.scoring import Quality, check_accepted, measure_quality
from seqkd.stages.evaluate.targets import Pairs, TargetCorpora, measure_targets
from seqkd.stages.evaluate.ways import Way, find_baseline_way, find_quick, list_ways
from seqkd.stages.prepare.encode import find_text
from seqkd.stages.prepare.references import accepted_file
from seqkd.stages.slower import slow_path_note
from seqkd.text.languages import has_blanks

# A shape that is met once in a decode has its graph captured in the last of these.
GPU_PASSES = ORDINARY_RUNS + 1
BASELINE = ""  # the key of the baseline beside the names of decodes, none of which is empty
TOO_LONG_TO_SCORE = "source or reference longer than max_positions"


def run(config: EvaluateConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:
    """Evaluate `config.model` on `config.corpus`, and write result.json and the outputs of each decode as text.

    The model decodes and scores as an ensemble with the models in `config.ensemble`. Decodes that `config.baseline`
    also has are compared with its outputs by both tests of `seqkd.metrics.significance`.

    If the prepared folder has accepted translations, the share of valid outputs and multi-reference BLEU are measured,
    too. `config.speed_against` is timed in turn with the model; the speed-ups of a teacher are relative to itself.
    Without `config.timed` no speed is measured. On a CPU `config.threads` threads do all the work. The result records
    the load of the machine.

    A row whose source, with its end of sentence, is longer than the model's positions is not decoded. Its output is
    empty and counts as such in every score, so that models with different positions are scored on the same rows.
    Perplexity, mode probability and speed leave such rows out. The rows are counted.

    With `config.targets` the log-probability of the targets of these corpora is measured, too.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if `out` was made with other settings.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        CorpusError: The test corpus is missing or empty, its vocabulary is not that of the model, or no row fits the
            positions of the models; or the evaluation of the baseline is missing, damaged or has another test text.
        ModelError: A model folder is damaged.
        InputError: A decode does not fit the model, or the tokenizer of BLEU is not installed.
        ConflictError: `out` was made with other settings.
        WorkError: Logits are not finite, or a file cannot be written.
    """
    with _set_threads(config.threads):
        _run(config, Path(out), overwrite, device)


@contextmanager
def _set_threads(count: int) -> Iterator[None]:
    """Let torch, and engines that are made meanwhile, use this number of threads; 0: as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(config: EvaluateConfig, out: Path, overwrite: bool, device: str) -> None:
    corpus = Corpus.open(config.corpus, "corpus")
    tokenizer = choose_tokenizer(config.tokenizer, corpus.manifest.extra.get("target_language"))
    where = resolve_device(device)
    precision = team_precision([config.model, *config.ensemble], config.precision, where)
    accepted = accepted_file(config.corpus)
    rival = None if config.baseline is None else BaselineOutputs.open(config.baseline, corpus)
    targets = TargetCorpora.open(config.targets, config.target_rows)
    made_by = provenance(config, corpus, accepted, rival, targets, where, precision)
    if StageOutput.up_to_date(out, "evaluation", made_by, overwrite=overwrite):
        say(f"evaluate: {out} is up to date{describe_uncompared(out, rival)}")
        return
    # Problems are found before the folder is created.
    check_accepted(config.metrics or (), accepted)
    models = Models.load(config, str(where))
    models.check(corpus, config)
    test = _read(corpus, accepted if "accepted" in made_by.inputs else None, tokenizer)
    recoded = models.recode(test.sources, test.texts)
    timed = models.select_fitting(test.sources, corpus, recoded)
    pairs = targets.find_pairs(models.team)
    ways = list_ways(config, models.team, models.judge)
    with StageOutput.open(out, "evaluation", made_by, overwrite=overwrite, device=str(where)) as output:
        if output.complete:
            return  # another process has finished it meanwhile
        over = None
        if models.over is not None and config.timed:
            over = ways[-1] if models.over is models.team else find_baseline_way(config, models.over)
            over = replace(over, open=open_recoded(over.open, recoded))
        result, counts = _evaluate(config, test, models, timed, ways, over, rival, pairs, out)
        atomic_write(out / RESULT, result.to_json().encode())
        extra = {"name": config.name, "role": config.role, **made_by.extra}
        extra |= {TEXT: text} if (text := find_text(corpus.manifest)) != corpus.manifest.digest() else {}
        extra |= slow_path_note(slow_path([config.model, *config.ensemble], precision, where))
        output.commit(
            Manifest(
                kind="evaluation",
                fingerprint=made_by.fingerprint,
                rows=len(test.ids),
                vocabulary=corpus.manifest.vocabulary,
                counts=counts,
                extra=extra,
            )
        )
    say_results(config, result, rival)


@dataclass(frozen=True, slots=True)
class _TestCorpus:
    """The test corpus. Test corpora are small enough to be held in memory."""

    ids: list[int]
    sources: list[list[int]]
    targets: list[list[int]]
    texts: list[str]  # of the sources
    references: list[str]
    further: list[list[str]]  # of each row; empty if each row has one reference
    accepted: list[list[str]] | None
    tokenizer: Tokenizer
    blanks: bool  # whether its language puts blanks between words


@dataclass(frozen=True, slots=True)
class _Decode:
    """The outputs of a decode, in the order of the corpus. Rows that are too long have None and an empty text."""

    hypotheses: list[Hypothesis | None]
    texts: list[str]
    retried: int
    unjudged: int


def _read(corpus: Corpus, accepted: Path | None, tokenizer: Tokenizer) -> _TestCorpus:
    if not corpus.rows:
        raise CorpusError("has no rows to evaluate on", where=str(corpus.path))
    ids: list[int] = []
    sources: list[list[int]] = []
    targets: list[list[int]] = []
    texts: list[str] = []
    references: list[str] = []
    for table in corpus.tables(["id", "source", "source_ids", "target_ids", "target"]):
        ids += table.column("id").to_pylist()
        sources += table.column("source_ids").to_pylist()
        targets += table.column("target_ids").to_pylist()
        texts += table.column("source").to_pylist()
        references += table.column("target").to_pylist()
    language = corpus.manifest.extra.get("target_language")
    return _TestCorpus(
        ids,
        sources,
        targets,
        texts,
        references,
        read_further_references(corpus),
        read_accepted(accepted, ids) if accepted else None,
        tokenizer,
        blanks=language is None or has_blanks(language),
    )


def _evaluate(
    config: EvaluateConfig,
    test: _TestCorpus,
    models: Models,
    timed: list[list[int]],
    ways: list[Way],
    over: Way | None,
    rival: BaselineOutputs | None,
    pairs: Mapping[str, Pairs],
    out: Path,
) -> tuple[EvaluationResult, dict[str, int]]:
    team, loaded = models.team, models.team.loaded[0]
    decoded: dict[str, _Decode] = {}
    with Progress(f"evaluate {config.name}", len(ways) * len(test.ids), "sentences") as progress:
        for way in ways:
            decoded[way.name] = _decode(way, test, team, config.batch_tokens, progress)
            _write_texts(out / way.file, decoded[way.name].texts)
    load, speeds, baseline = None, dict[str, Speed](), None
    if config.timed:
        load = read_load(torch.get_num_threads())
        speeds, baseline = _measure_speeds(ways, over, timed, config, team.device)
    decodes: dict[str, DecodeResult] = {}
    signatures: dict[str, str] = {}
    metrics = [METRICS.get(name) for name in config.metrics or METRICS.own]
    compared = rival if len(test.ids) > 1 else None
    for way in ways:
        theirs = None if compared is None else compared.texts.get(way.file)
        quality = measure_quality(_make_outputs(test, decoded[way.name]), metrics, theirs)
        signatures = quality.signatures
        decodes[way.name] = _make_result(test, decoded[way.name], quality, way.engine, speeds.get(way.name), baseline)
    likelihood, mode, unscored = None, None, 0
    retried = sum(decode.retried for decode in decoded.values())
    if not team.parallel:
        rows = list(zip(test.sources, test.targets, test.references, strict=True))
        likelihood, unscored, scored_again = measure_likelihood(rows, team, config.batch_tokens)
        retried += scored_again
        mode = _measure_mode_probability(test, decoded[ways[-1].name].hypotheses)
    too_long = sum(hypothesis is None for hypothesis in decoded[ways[-1].name].hypotheses)
    objective, recipe = find_recipe(config.model)
    result = EvaluationResult(
        name=config.name,
        role=config.role,
        arch=loaded.arch,
        trained_on=config.trained_on,
        objective=objective,
        recipe=recipe,
        parameters=sum(weight.numel() for member in team.loaded for weight in member.model.parameters()),
        rows=len(test.ids),
        decodes=decodes,
        quality=ways[-1].name,
        quick=find_quick(config, ways),
        parallel=team.parallel,
        perplexity=None if likelihood is None else likelihood.per_token,
        perplexity_per_character=None if likelihood is None else likelihood.per_character,
        vocabulary=loaded.vocabularies.target.digest,
        pieces=loaded.vocabularies.target.size,
        mode_probability=mode,
        target_logprobs=measure_targets(pairs, team, config.batch_tokens),
        target_rows=len(next(iter(pairs.values()), [])),
        too_long=too_long,
        baseline=baseline,
        compared_with="" if compared is None else compared.name,
        load=load,
        signatures=signatures,
        device=describe_device(team.device),
        precision=team.precision,
    )
    counts = {
        SOURCE_TOO_LONG: too_long,
        TOO_LONG_TO_SCORE: unscored,
        "candidates longer than the rescoring model's max_positions": sum(one.unjudged for one in decoded.values()),
        "retried in float32": retried,
    }
    return result, {reason: count for reason, count in counts.items() if count}


def _measure_speeds(
    ways: Sequence[Way], over: Way | None, sources: list[list[int]], config: EvaluateConfig, device: torch.device
) -> tuple[dict[str, Speed], Baseline | None]:
    """Measure the speed of each way, and of the baseline, in turn in one run."""
    timed = {way.name: way.open for way in ways}
    own = over in ways  # a teacher that is compared with itself is timed once
    if over is not None and not own:
        timed = {BASELINE: over.open, **timed}
    passes = 0 if device.type == "cpu" else GPU_PASSES
    speeds = measure(timed, sources, batch_tokens=config.batch_tokens, passes=passes)
    if over is None:
        return speeds, None
    return speeds, Baseline(decode=over.name, speed=speeds[over.name if own else BASELINE], engine=over.engine)


def _decode(way: Way, test: _TestCorpus, team: SearchTeam, batch_tokens: int, progress: Progress) -> _Decode:
    hypotheses: list[Hypothesis | None] = [None] * len(test.sources)
    decoder = way.open()
    for row, nbest in decoder.decode(enumerate(test.sources), batch_tokens=batch_tokens):
        hypotheses[row] = nbest[0] if nbest else None
        progress.advance()
    ids = [[] if hypothesis is None else hypothesis.ids for hypothesis in hypotheses]
    texts = team.loaded[0].vocabularies.target.decode(ids)
    return _Decode(hypotheses, texts, len(decoder.retried), len(decoder.unjudged))


def _make_outputs(test: _TestCorpus, decode: _Decode) -> Outputs:
    return Outputs(
        hypotheses=decode.texts,
        references=test.references,
        further_references=test.further,
        sources=test.texts,
        accepted=test.accepted,
        tokenizer=test.tokenizer,
        blanks=test.blanks,
    )


def _make_result(
    test: _TestCorpus, decode: _Decode, quality: Quality, engine: str, speed: Speed | None, baseline: Baseline | None
) -> DecodeResult:
    values = quality.values
    reference_tokens = sum(map(len, test.targets))
    written = [hypothesis for hypothesis in decode.hypotheses if hypothesis is not None]
    speedup, speedup_batch1 = _compute_speedups(speed, baseline)
    return DecodeResult(
        bleu=values.get("bleu"),
        chrf=values.get("chrf"),
        ter=values.get("ter"),
        bleu_accepted=values.get("bleu_accepted"),
        valid=values.get("valid"),
        length_ratio=sum(len(hypothesis.ids) for hypothesis in written) / max(reference_tokens, 1),
        cut=sum(hypothesis.ended == "max_length" for hypothesis in written),
        unjudged=decode.unjudged,
        speed=speed,
        speedup=speedup,
        speedup_batch1=speedup_batch1,
        engine=engine,
        further={name: value for name, value in values.items() if name not in FIELDS},
        main=main_metric(values) or BLEU,
        significance=quality.significance,
    )


def _compute_speedups(speed: Speed | None, baseline: Baseline | None) -> tuple[float | None, float | None]:
    """Compute the speed relative to the baseline, in batches and one sentence at a time."""
    if speed is None or baseline is None:
        return None, None
    ours, theirs = speed, baseline.speed
    return (
        ours.sentences_per_second / theirs.sentences_per_second,
        ours.sentences_per_second_batch1 / theirs.sentences_per_second_batch1,
    )


def _measure_mode_probability(test: _TestCorpus, hypotheses: Sequence[Hypothesis | None]) -> float | None:
    """Compute the mean probability of the outputs of decoded sources that have tokens; None if there are none."""
    found = [
        math.exp(hypothesis.logprob)
        for source, hypothesis in zip(test.sources, hypotheses, strict=True)
        if source and hypothesis is not None
    ]
    return statistics.fmean(found) if found else None


def _write_texts(path: Path, texts: list[str]) -> None:
    """Write one output per line, in the order of the corpus. A line break in an output becomes a space."""
    lines = [text.replace("\r", " ").replace("\n", " ") + "\n" for text in texts]
    atomic_write(path, "".join(lines).encode())


def describe_device(device: torch.device) -> str:
    """Describe the device: the name of a GPU, or of the processor with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{model_name()}, {threads} thread{'s' * (threads > 1)}"
