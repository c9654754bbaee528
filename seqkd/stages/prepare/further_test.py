"""`seqkd prepare --test`: a further test set, encoded with the vocabulary of a data set.

It is a separate stage, so that a further test set does not cause the data set or models to be made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from seqkd.config.stages import BitextConfig, FurtherTestConfig, FurtherText
from seqkd.config.written import find_neutral
from seqkd.corpus.manifest import Manifest, Provenance, StageOutput
from seqkd.corpus.unknowns import UNKNOWN_ROWS
from seqkd.errors import SeqkdError
from seqkd.progress import say
from seqkd.stages.prepare.encoding import NORMALIZED, corpus_manifest, encode_shards, raise_problems
from seqkd.stages.prepare.prepare import read_prepared
from seqkd.stages.prepare.references import ACCEPTED, check_text, copy_accepted, name_digests, read_text
from seqkd.stages.prepare.tags import describe_tag, read_tag
from seqkd.stopping import StopRequest
from seqkd.text.vocabularies import Vocabularies


def run(config: FurtherTestConfig, out: str | Path, *, overwrite: bool = False, device: str = "auto") -> None:  # noqa: ARG001
    """Encode a test set. The rows of the corpus are those of the files; the first reference is its `target`.

    Args:
        config: The settings of the stage.
        out: The output folder, a corpus.
        overwrite: Whether to start anew if the folder exists.
        device: Not used.

    Raises:
        CorpusError: `config.prepared` is not an output of `prepare`.
        InputError: The text cannot be used, or the test set of sacrebleu is not on this machine.
        ConflictError: `out` was made with other settings or text.
        WorkError: The files cannot be written, or the run was stopped.
    """
    out = Path(out)
    prepared = read_prepared(config.prepared)
    vocabularies = Vocabularies.load(config.prepared)
    bitext = config.text.find_files()
    problems: list[SeqkdError] = []
    facts, accepted = check_text(bitext, problems)
    raise_problems(problems)
    assert facts is not None  # otherwise there would be a problem
    languages: dict[str, Any] = {
        side: prepared.extra[side] for side in ("source_language", "target_language") if side in prepared.extra
    }
    tag = read_tag(prepared)
    languages |= describe_tag(tag)
    inputs = name_digests(facts.digests)
    inputs |= {"vocabulary": vocabularies.target.digest, "source_vocabulary": vocabularies.source.digest}
    made_by = Provenance(
        stage="test",
        settings=settings(config) | languages,
        inputs=inputs | ({"accepted": accepted} if accepted else {}),
        neutral=find_neutral(config),
    )
    with StageOutput.open(out, "corpus", made_by, overwrite=overwrite) as output:
        if output.complete:
            say(f"prepare: {out} is up to date")
            return
        if bitext.accepted is not None:
            copy_accepted(bitext.accepted, out / ACCEPTED)
        with StopRequest() as stop:
            shards = encode_shards(
                read_text(bitext),
                output,
                facts.rows,
                config.shard_rows,
                vocabularies,
                as_given=True,
                tag=tag,
                stop=stop,
            )
        manifest = corpus_manifest(output, shards, vocabularies, {}, as_given=True)
        manifest.extra.update(languages | _describe(config.text, bitext))
        output.commit(manifest)
    say(f"prepare: {_summarize(manifest, bitext)} in {out}")


def settings(config: FurtherTestConfig) -> dict[str, Any]:
    """Return the settings that the output depends on, as in the stage file."""
    return config.model_dump(mode="json", include={"shard_rows"})


def _describe(text: FurtherText, bitext: BitextConfig) -> dict[str, Any]:
    """Return facts about the text for `seqkd inspect`."""
    named = {} if text.sacrebleu is None else {"sacrebleu": f"{text.sacrebleu} {text.langpair}"}
    return {"references": max(len(bitext.references), 1), **named}


def _summarize(manifest: Manifest, bitext: BitextConfig) -> str:
    number = len(bitext.references)
    references = f" with {number} references each" if number > 1 else ""
    unknown = [f"{rows:,} {side}s" for side, rows in manifest.extra.get(UNKNOWN_ROWS, {}).items()]
    notes = f"; {' and '.join(unknown)} contain pieces that the vocabulary does not have" if unknown else ""
    if NORMALIZED in manifest.extra:
        notes += f"; normalisation changes {manifest.extra[NORMALIZED]:,} targets, which metrics compare as given"
    return f"{manifest.rows:,} rows for test{references}{notes}"
