"""The stages of back-translation (Sennrich et al. 2016): ordinary ones, in the other direction."""

from __future__ import annotations

from seqkd.config.stages import MonolingualConfig, SelectConfig, TrainConfig, VocabularyConfig
from seqkd.pipeline.file import BACK_TRANSLATION, PipelineConfig
from seqkd.pipeline.folders import Folders, Stage, distill_stage, seed_of, seeded, weighted
from seqkd.pipeline.rounds import Round


def with_tag(pipeline: PipelineConfig) -> VocabularyConfig:
    """The vocabulary's settings, with the tag among the pieces that are never split."""
    settings, part = pipeline.prepare.vocabulary, pipeline.backtranslation
    if part is None or not part.tag or part.tag in settings.symbols:
        return settings
    return settings.model_copy(update={"symbols": (*settings.symbols, part.tag)})


def monolingual(pipeline: PipelineConfig, folders: Folders) -> list[Stage]:
    """The monolingual text, encoded; it serves all rounds."""
    part = pipeline.backtranslation
    if part is None:
        return []
    cleaning = pipeline.prepare.cleaning
    config = MonolingualConfig(
        text=tuple(folders.text / path for path in part.text),
        prepared=folders.gold.folder,
        ratio=part.ratio,
        max_length=cleaning.max_length,
        drop_duplicates=cleaning.drop_duplicates,
        shard_rows=pipeline.prepare.shard_rows,
        seed=seed_of(pipeline.seed, "monolingual"),
    )
    # With a fetch step the text is made with the gold one; a text that is missing is not named to Make.
    files = [] if pipeline.data.fetch is not None else [path for path in config.text if path.exists()]
    return [
        Stage(
            name="monolingual",
            command="prepare",
            goal="prepare",
            config=config,
            out=folders.monolingual.folder,
            needs=(folders.gold.file, *dict.fromkeys(files)),
            options=("--monolingual",),
        )
    ]


def back_translated(pipeline: PipelineConfig, made: Round, folders: Folders) -> list[Stage]:
    """A round's reverse model, what it writes, and the pairs that are made of it."""
    part = made.backtranslation
    if part is None:
        return []
    corpora = [folders.corpus(share.name) for share in part.corpora]
    text, reverse, name = folders.monolingual, folders.reverse(made), made.named(BACK_TRANSLATION)
    kbest = folders.kbest(name)
    return [
        Stage(
            name=made.named("reverse"),
            command="train",
            goal="distill",
            config=TrainConfig(
                role="teacher",
                prepared=folders.gold.folder,
                corpus=corpora[0].folder if isinstance(part.corpus, str) else weighted(part.corpus, folders),
                model=part.model,
                objective=part.objective,
                training=seeded(part.training, pipeline.seed, "reverse"),
                reverse=True,
            ),
            out=reverse.folder,
            needs=tuple(dict.fromkeys((folders.gold.file, *(corpus.file for corpus in corpora)))),
        ),
        distill_stage(name, part, [reverse], text, folders),
        Stage(
            name=f"select.{name}",
            command="select",
            goal="distill",
            config=SelectConfig(
                kbest=kbest.folder,
                gold=text.folder,
                prepared=folders.gold.folder,
                rule="seqkd",
                filters=part.filters,
                reverse=True,
                tag=part.tag,
            ),
            out=folders.corpus(name).folder,
            needs=(kbest.file, text.file),
        ),
    ]
