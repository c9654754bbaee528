"""`seqkd train`: train a model on one or several corpora."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.tensorboard.writer import SummaryWriter

from seqkd.config.stages import TrainConfig
from seqkd.config.written import find_neutral
from seqkd.corpus.cost import Meter
from seqkd.corpus.files import atomic_path, make_folder, work_error
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput, atomic_write
from seqkd.corpus.reader import Corpus
from seqkd.corpus.revisions import training_revisions
from seqkd.corpus.sensors import sensors
from seqkd.corpus.vocabularies import write_vocabularies
from seqkd.errors import CorpusError
from seqkd.kernels.build import missing_kernels
from seqkd.metrics.registry import NLL
from seqkd.models.checkpoint import (
    model_files,
    save_model,
)
from seqkd.models.protocol import Marks, PairLengths
from seqkd.models.registry import misfit
from seqkd.models.settings import stored_settings
from seqkd.objectives.loss import Loss
from seqkd.progress import say
from seqkd.search.loading import resolve_device
from seqkd.stages.rejected import REJECTED
from seqkd.stages.slower import slow_path_note
from seqkd.stages.train.building import build_loss, build_model
from seqkd.stages.train.inputs import Inputs
from seqkd.stages.train.rejecting import count_rejected, describe_rejected, write_rejected
from seqkd.stages.train.validating import (
    Language,
    ValidationText,
    find_languages,
    list_metrics,
    make_validate,
    score_teachers,
)
from seqkd.training.alternating import AlternatingData
from seqkd.training.data import CorpusData, SpecialIds, TrainingData
from seqkd.training.groups import find_weights, name_measure
from seqkd.training.hooks import Hook, Training, build_hook
from seqkd.training.loop import LoopSettings, TrainResult, fit
from seqkd.training.mixing import MixedData
from seqkd.training.noise import Noise
from seqkd.training.optim import OptimSettings
from seqkd.training.precision import Precision, choose_precision, slow_precision
from seqkd.training.runtime import group_left, keep_freed_memory, lost_processes_told, make_fabric
from seqkd.training.soft import SoftTable
from seqkd.training.state import Validation, checkpoint_path

HISTORY = "history.json"
REJECTED_VALID = "rejected.valid.tsv"
STATE = "state"
TENSORBOARD = "tensorboard"
TRAINING_KERNELS = ("attention", "dropout", "products", "decoding")  # the last one for validation BLEU


def run(config: TrainConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:
    """Train a model on `config.corpus` and write it to the model folder `out`; torchrun may start several processes.

    Args:
        config: The settings of the stage.
        out: The output folder.
        overwrite: Whether to start anew if `out` was made with other settings.
        device: auto, cpu, cuda or cuda:N.

    Raises:
        ConfigError: Settings contradict each other.
        InputError: The tokenizer of validation BLEU is not installed.
        CorpusError: A corpus is missing or damaged, was made with another vocabulary, or has no usable row; or soft
            targets are missing or belong to another corpus.
        ModelError: The model cannot be built from its settings, `init_from` is not a suitable model, the teacher folder
            does not contain a model, or the teacher was trained with a different vocabulary.
        ConflictError: `out` was made with other settings.
        WorkError: The loss is not finite, the run was stopped, another process of the run has ended, or a file cannot
            be written.
    """
    out = Path(out)
    keep_freed_memory()
    with lost_processes_told(), group_left():
        _run(config, out, overwrite, device)


def _run(config: TrainConfig, out: Path, overwrite: bool, device: str) -> None:
    inputs = Inputs(config)
    where = resolve_device(device)
    precision = choose_precision(config.training.precision, where)
    made_by = _made_by(config, inputs, where, precision)
    fabric = make_fabric(where, precision)
    first = fabric.is_global_zero
    unfit = misfit(config.model.arch, config.model.model_dump()) if where.type == "cpu" else None
    if fabric.broadcast(first and StageOutput.up_to_date(out, "model", made_by, overwrite=overwrite)):
        if first:
            say(f"train: {out} is up to date")
        return
    if first and (slow := slow_precision(precision, where)) is not None:
        say(f"train: {slow}")
    if first and unfit is not None:
        say(f"train: {unfit}; it trains and decodes in plain torch, more slowly")
    inputs.check_ids()
    work = _Work.of(config, inputs, fabric)  # what can be wrong is found before the folder is begun
    gpu = str(fabric.device)
    output = StageOutput.open(out, "model", made_by, overwrite=overwrite, device=gpu) if first else None
    if fabric.broadcast(output is not None and output.complete):
        return  # by another process, while this one has looked
    meter = None if first else _helping_meter(out, fabric)
    try:
        result = _train(config, work, fabric, out)
        if meter is not None:
            meter.close()
        fabric.barrier()  # from here on the first process adds up what the others have spent
        if output is not None:
            reasons = [unfit, *(why for name, why in missing_kernels().items() if name in TRAINING_KERNELS)]
            manifest = _write(config, inputs, work, result, out, made_by, slow_path_note(*reasons))
            output.commit(manifest)
            if not config.training.keep_state:
                shutil.rmtree(out / STATE)
            metrics = list_metrics(config.training)
            measured = "".join(f", {each.label} {result.best.value(each.name):.2f}" for each in metrics)
            say(
                f"train: {manifest.extra['parameters']:,} parameters, {result.updates:,} updates; best at "
                f"{result.best.update:,}: NLL {result.best.valid_nll:.4f}{measured}; {out}"
            )
        fabric.barrier()
    finally:
        if meter is not None:
            meter.close()
        if output is not None:
            output.close()


def _helping_meter(out: Path, fabric: Fabric) -> Meter:
    """Measures a process that trains together with the one that has opened the folder."""
    # The first process of a machine measures what all processes there share: the energy of its CPU packages.
    read = sensors(str(fabric.device), packages=fabric.local_rank == 0)
    return Meter(out, read, name=f"rank-{fabric.global_rank}-of-{fabric.world_size}", attempts=False)


def settings(config: TrainConfig) -> dict[str, Any]:
    """Return the settings on which the output depends, as written in the stage file."""
    values = config.model_dump(mode="json", include={"role", "model", "training"}, exclude={"training": {"keep_state"}})
    values["objective"] = config.objective.model_dump(mode="json", exclude={"teachers", "soft_targets"})
    if config.reverse:
        values["reverse"] = True
    if config.alternate is not None:
        values["alternate"] = [block.updates for block in config.alternate]
    elif config.mixed:
        values["weights"] = [part.weight for part in config.corpora]
    if config.groups:
        values["groups"] = [part.group for part in config.corpora]
    if config.corpus_temperature is not None:
        values["corpus_temperature"] = config.corpus_temperature
    if any(part.noise is not None for part in config.corpora):
        values["noise"] = [None if part.noise is None else part.noise.choices for part in config.corpora]
    if config.hooks:
        values["hooks"] = [hook.model_dump(mode="json") for hook in config.hooks]
    if config.init_from is not None and config.init_from.choices:
        values["init_from"] = config.init_from.choices
    return values


def _made_by(config: TrainConfig, inputs: Inputs, where: torch.device, precision: Precision) -> Provenance:
    return Provenance(
        stage="train",
        settings=settings(config),
        inputs=inputs.digests(),
        formerly={} if config.groups else {"prepared": ("valid", inputs.prepared.digest())},
        neutral=find_neutral(config),
        worked={"device": where.type, "precision": precision, "batch_tokens": config.training.batch_tokens},
        revisions=training_revisions(precision),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """The model, its objective and its data.

    Attributes:
        model: The model with its initial weights.
        loss: The objective.
        hooks: The hooks of the training loop.
        parts: The usable rows of each corpus.
        data: The training batches.
        text: The validation text of each group.
    """

    model: nn.Module
    loss: Loss
    hooks: list[Hook]
    parts: list[CorpusData]
    data: TrainingData
    text: ValidationText

    @staticmethod
    def of(config: TrainConfig, inputs: Inputs, fabric: Fabric) -> _Work:
        training = config.training
        languages = find_languages(training, inputs.languages)
        torch.manual_seed(training.seed)
        model: Any = build_model(config, inputs)
        teams = inputs.teaching.teams(fabric.device)
        loss = build_loss(config, model, teams.teacher)
        special = SpecialIds(pad=model.pad_id, eos=model.eos_id, start=model.start_id)

        def unusable(lengths: PairLengths) -> dict[str, Marks]:
            reasons: dict[str, Marks] = model.unusable(lengths)
            return reasons | teams.unusable(lengths)

        def data_of(corpus: Corpus, soft: SoftTable | None = None) -> CorpusData:
            data = CorpusData(
                corpus,
                special,
                unusable=unusable,
                batch_tokens=training.batch_tokens,
                window=training.window,
                seed=training.seed,
                rank=fabric.global_rank,
                world=fabric.world_size,
                soft=soft,
                rivals=config.objective.reads_rivals,
            )
            if not data.rows:
                raise CorpusError(
                    "has no row that the model can be trained on",
                    where=str(corpus.path),
                    expected="shorter rows, or a larger model.max_positions or model.upsample; left out were "
                    + describe_rejected(data)
                    if corpus.rows
                    else "at least one row",
                )
            return data

        soft = inputs.teaching.soft()
        parts = [
            data_of(corpus, soft.get("") or soft.get(str(part.group)))
            for corpus, part in zip(inputs.corpora, config.corpora, strict=True)
        ]
        data: TrainingData = parts[0]
        groups = [str(part.group) for part in config.corpora] if len(config.groups) > 1 else None
        if config.alternate is not None:
            updates = [block.updates for block in config.alternate]
            data = AlternatingData(parts, updates, accumulate=training.accumulate, groups=groups)
        elif inputs.mixed:
            data = MixedData(
                parts,
                _find_shares(config, parts),
                batch_tokens=training.batch_tokens,
                window=training.window,
                seed=training.seed,
                groups=groups,
                rank=fabric.global_rank,
                world=fabric.world_size,
                noises=[
                    None if words is None else Noise(words, seed=training.seed, number=number, unusable=unusable)
                    for number, words in enumerate(inputs.noises)
                ],
            )
        held_out = {group: data_of(corpus) for group, corpus in inputs.valid.items()}
        text = ValidationText(held_out=held_out, languages=languages, vocabularies=inputs.vocabularies)
        run = Training(
            model=model,
            loss=loss,
            groups=tuple(held_out) if len(held_out) > 1 else (),
            measured=(NLL, *(metric.name for metric in list_metrics(training))),
            score_teachers=partial(score_teachers, fabric, loss, text, teams, inputs.teaching.folders),
        )
        hooks = [build_hook(each.record, each.settings, run) for each in config.hooks or ()]
        return _Work(
            model=model,
            loss=loss,
            hooks=hooks,
            parts=parts,
            data=data,
            text=text,
        )


def _find_shares(config: TrainConfig, parts: Sequence[CorpusData]) -> list[float]:
    """Return the weights of the corpora, which a temperature determines by their numbers of usable rows."""
    if config.corpus_temperature is None:
        return [part.weight for part in config.corpora]
    groups = [str(part.group) for part in config.corpora]
    return find_weights([part.rows for part in parts], groups, config.corpus_temperature)


def _train(config: TrainConfig, work: _Work, fabric: Fabric, out: Path) -> TrainResult:
    training = config.training
    for data in (*work.parts, *work.text.held_out.values()):
        if fabric.is_global_zero and data.rows < data.corpus.rows:
            say(f"train: left out of {data.corpus.rows:,} rows of {data.corpus.path}: {describe_rejected(data)}")
    validate = make_validate(config, fabric, work.loss, work.text)
    state = out / STATE
    try:
        make_folder(state)
    except OSError as error:
        raise work_error(error, state, "cannot be made") from error
    options = training.model_dump(
        include={"max_updates", "accumulate", "clip_norm", "validate_every", "patience", "average", "keep", "seed"}
    )
    optim = training.model_dump(
        include={"optimizer", "learning_rate", "betas", "weight_decay", "schedule", "warmup_updates", "max_updates"}
    )
    observer = _Observer(out, writes=fabric.is_global_zero)
    try:
        return fit(
            fabric=fabric,
            model=work.model,
            loss=work.loss,
            data=work.data,
            validate=validate,
            settings=LoopSettings(**options, best_by=training.chooses_by, optim=OptimSettings(**optim)),
            precision=choose_precision(training.precision, fabric.device),
            folder=state,
            observer=observer,
            hooks=work.hooks,
        )
    finally:
        observer.close()


class _Observer:
    """Writes history.json and TensorBoard events."""

    def __init__(self, out: Path, *, writes: bool) -> None:
        self.out = out
        self._writer: SummaryWriter | None = None
        self._writes = writes

    def trained(self, update: int, values: dict[str, float]) -> None:
        """Write points of the training curves."""
        self._add("train", update, values)

    def validated(self, history: Sequence[Validation]) -> None:
        """Write all validations so far, and the last one to the curves."""
        lines = [line.to_json() for line in history]
        atomic_write(self.out / HISTORY, (json.dumps(lines, indent=2) + "\n").encode())
        last = history[-1]
        values = {"nll": last.valid_nll} | ({} if last.valid_bleu is None else {"bleu": last.valid_bleu}) | last.metrics
        self._add("valid", last.update, values)

    def close(self) -> None:
        """Write all buffered events."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, group: str, update: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        if self._writer is None:
            # Hide the points that an earlier run wrote after the state from which this run continues.
            self._writer = SummaryWriter(str(self.out / TENSORBOARD), purge_step=update)
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, update)


def _write(
    config: TrainConfig,
    inputs: Inputs,
    work: _Work,
    result: TrainResult,
    out: Path,
    made_by: Provenance,
    noted: dict[str, str],
) -> Manifest:
    vocabularies = inputs.vocabularies
    write_rejected(out / REJECTED, *work.parts)
    write_rejected(out / REJECTED_VALID, *work.text.held_out.values())
    kept = sorted({update for update in config.training.keep if update <= result.updates})  # patience may have ended it
    for update in kept:
        path = checkpoint_path(out, update)
        with atomic_path(path) as temporary:
            shutil.copyfile(out / STATE / path.name, temporary)
    write_vocabularies(out, vocabularies)
    save_model(out, work.model, arch=config.model.arch, settings=stored_settings(config.model.settings), vocab=out)
    return Manifest(
        kind="model",
        fingerprint=made_by.fingerprint,
        rows=sum(part.rows for part in work.parts),
        source_tokens=sum(part.source_tokens for part in work.parts),
        target_tokens=sum(part.target_tokens for part in work.parts),
        vocabulary=vocabularies.target.digest,
        counts=count_rejected(work.parts),
        extra={
            **made_by.extra,
            "source_vocabulary": vocabularies.source.digest,
            "role": config.role,
            "arch": config.model.arch,
            "parameters": int(np.sum([weight.numel() for weight in work.model.parameters()])),
            "updates": result.updates,
            "best_update": result.best.update,
            "averaged_updates": result.averaged,
            "files": model_files(out),
            **({"kept": kept} if kept else {}),
            **noted,
            **_describe_tokenizers(work.text.languages),
        },
    )


def _describe_tokenizers(languages: Mapping[str, Language]) -> dict[str, str]:
    """Return the entries of the manifest for tokenizers of BLEU other than the usual one."""
    return {
        name_measure("valid_tokenizer", group): language.tokenizer
        for group, language in languages.items()
        if language.tokenizer != "13a"
    }
