"""The stages by name. A stage makes one output folder from one stage file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A stage of the pipeline.

    Attributes:
        name: The name of the stage in fingerprints.
        help: A description in one line.
        settings: `module:attribute` of the class of its stage file.
        run: `module:attribute` of the function that runs it: `run(settings, out, *, overwrite, device)`.
        command: The command that runs it.
        option: The option that selects this stage if one command runs several stages; "" for the default stage.
        estimate: `module:attribute` of the function that says what the stage would ask external workers:
            `estimate(settings, out, *, device, scale)`; "" if it asks none.
        shared: Whether several processes, or the nodes of a cluster, can share its shards. `run` then takes a `scale`.
    """

    name: str
    help: str
    settings: str
    run: str
    command: str
    option: str = ""
    shared: bool = False
    estimate: str = ""


STAGES = {
    stage.name: stage
    for stage in (
        Stage(
            name="prepare",
            help="Prepare gold corpora and a vocabulary from text files",
            settings="seqkd.config.stages:PrepareConfig",
            run="seqkd.stages.prepare.prepare:run",
            command="prepare",
        ),
        Stage(
            name="monolingual",
            help="Prepare monolingual text of the target language as sources for back-translation",
            settings="seqkd.config.stages:MonolingualConfig",
            run="seqkd.stages.prepare.monolingual:run",
            command="prepare",
            option="--monolingual",
        ),
        Stage(
            name="test",
            help="Prepare a further test set with the vocabulary of a data set",
            settings="seqkd.config.stages:FurtherTestConfig",
            run="seqkd.stages.prepare.further_test:run",
            command="prepare",
            option="--test",
        ),
        Stage(
            name="vocabulary",
            help="Learn a further vocabulary from the text of a data set",
            settings="seqkd.config.stages:FurtherVocabularyConfig",
            run="seqkd.stages.prepare.further_vocabulary:run",
            command="prepare",
            option="--vocabulary",
        ),
        Stage(
            name="encode",
            help="Encode the text of a corpus with another vocabulary",
            settings="seqkd.config.stages:EncodeConfig",
            run="seqkd.stages.prepare.encode:run",
            command="prepare",
            option="--encode",
        ),
        Stage(
            name="sample",
            help="Draw one target of each source of a corpus",
            settings="seqkd.config.stages:SampleConfig",
            run="seqkd.stages.prepare.sample:run",
            command="prepare",
            option="--sample",
        ),
        Stage(
            name="train",
            help="Train a model on one or several corpora",
            settings="seqkd.config.stages:TrainConfig",
            run="seqkd.stages.train.train:run",
            command="train",
        ),
        Stage(
            name="distill",
            help="Write k-best lists of teachers for a corpus",
            settings="seqkd.config.stages:DistillConfig",
            run="seqkd.stages.distill.distill:run",
            command="distill",
            shared=True,
            estimate="seqkd.stages.distill.distill:estimate",
        ),
        Stage(
            name="soft_targets",
            help="Write the teachers' distributions at the target positions of a corpus",
            settings="seqkd.config.stages:SoftTargetsConfig",
            run="seqkd.stages.distill.soft_targets:run",
            command="distill",
            option="--soft-targets",
            shared=True,
        ),
        Stage(
            name="select",
            help="Select a distilled corpus from k-best lists",
            settings="seqkd.config.stages:SelectConfig",
            run="seqkd.stages.select.select:run",
            command="select",
            shared=True,
            estimate="seqkd.stages.select.select:estimate",
        ),
        Stage(
            name="evaluate",
            help="Measure the quality and the speed of a model",
            settings="seqkd.config.stages:EvaluateConfig",
            run="seqkd.stages.evaluate.evaluate:run",
            command="evaluate",
        ),
        Stage(
            name="import",
            help="Import a model of another toolkit as a model folder",
            settings="seqkd.config.formats:ImportConfig",
            run="seqkd.stages.interop:run_import",
            command="import",
        ),
        Stage(
            name="export",
            help="Export a model folder to the format of another toolkit",
            settings="seqkd.config.formats:ExportConfig",
            run="seqkd.stages.interop:run_export",
            command="export",
        ),
        Stage(
            name="report",
            help="Write a page about all results of a pipeline",
            settings="seqkd.config.stages:ReportConfig",
            run="seqkd.report.stage:run",
            command="report",
        ),
    )
}
