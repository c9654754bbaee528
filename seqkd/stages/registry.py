"""Stages by name. A stage makes one output folder from one stage file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of the pipeline.

    Attributes:
        name: Its name in fingerprints.
        help: One line about it.
        settings: `module:attribute` of the class of its stage file.
        run: `module:attribute` of the function that runs it: `run(settings, out, *, overwrite, device)`.
        command: The command that runs it.
        option: The option by which a command that runs several stages chooses this one; "" for the one that it runs
            without any.
        shared: Whether several processes, or the nodes of a cluster, can share its shards. `run` then takes a `scale`.
    """

    name: str
    help: str
    settings: str
    run: str
    command: str
    option: str = ""
    shared: bool = False


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="prepare",
            help="Text files to gold corpora and a vocabulary",
            settings="seqkd.config.stages:PrepareConfig",
            run="seqkd.stages.prepare.prepare:run",
            command="prepare",
        ),
        Stage(
            name="monolingual",
            help="Monolingual text to sources of the other direction, for back-translation",
            settings="seqkd.config.stages:MonolingualConfig",
            run="seqkd.stages.prepare.monolingual:run",
            command="prepare",
            option="--monolingual",
        ),
        Stage(
            name="test",
            help="A further test set, encoded with the vocabulary of a data set",
            settings="seqkd.config.stages:FurtherTestConfig",
            run="seqkd.stages.prepare.further_test:run",
            command="prepare",
            option="--test",
        ),
        Stage(
            name="train",
            help="Corpora and an architecture to a model",
            settings="seqkd.config.stages:TrainConfig",
            run="seqkd.stages.train.train:run",
            command="train",
        ),
        Stage(
            name="distill",
            help="Teachers and a corpus to k-best lists",
            settings="seqkd.config.stages:DistillConfig",
            run="seqkd.stages.distill.distill:run",
            command="distill",
            shared=True,
        ),
        Stage(
            name="soft_targets",
            help="Teachers and a corpus to distributions at the corpus' own target positions",
            settings="seqkd.config.stages:SoftTargetsConfig",
            run="seqkd.stages.distill.soft_targets:run",
            command="distill",
            option="--soft-targets",
            shared=True,
        ),
        Stage(
            name="select",
            help="K-best lists to a distilled corpus",
            settings="seqkd.config.stages:SelectConfig",
            run="seqkd.stages.select.select:run",
            command="select",
            shared=True,
        ),
        Stage(
            name="evaluate",
            help="Quality and speed of a model on a test corpus",
            settings="seqkd.config.stages:EvaluateConfig",
            run="seqkd.stages.evaluate.evaluate:run",
            command="evaluate",
        ),
        Stage(
            name="report",
            help="Everything that a pipeline made, on one page",
            settings="seqkd.config.stages:ReportConfig",
            run="seqkd.report.stage:run",
            command="report",
        ),
    )
}
