"""fairseq's files as a format of `seqkd import`. torch is imported only when a file is read."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from seqkd.interop.formats import ImportReport

_PICKLE = b"\x80\x02"  # the first bytes of files of torch.save before it wrote zip files


@dataclass(frozen=True, slots=True, kw_only=True)
class FairseqFiles:
    """The files that accompany a checkpoint, and the length limits of fairseq-generate."""

    dictionary: Annotated[Path, Field(description="the dict.txt file of the target, or of both sides")]
    source_dictionary: Annotated[Path | None, Field(description="the dict.txt file of the source, if it differs")] = (
        None
    )
    sentencepiece: Annotated[Path | None, Field(description="the SentencePiece model of the training text")] = None
    source_sentencepiece: Annotated[
        Path | None, Field(description="the SentencePiece model of the source, if it differs")
    ] = None
    max_len_a: Annotated[
        float | None,
        Field(
            ge=0.0, description="option --max-len-a of fairseq-generate; the import prints the equal limits of seqkd"
        ),
    ] = None
    max_len_b: Annotated[int | None, Field(ge=0, description="option --max-len-b of fairseq-generate")] = None


def sniff(path: Path) -> bool:
    """Whether a file was written by `torch.save`, as fairseq's checkpoints are."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("data.pkl") for name in archive.namelist())
        with path.open("rb") as file:
            return file.read(len(_PICKLE)) == _PICKLE
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: Path, out: Path, settings: FairseqFiles, *, overwrite: bool) -> ImportReport:
    """Convert a checkpoint to a model folder; see `import_checkpoint`."""
    from seqkd.interop.fairseq import import_checkpoint
    from seqkd.interop.fairseq_limits import MAX_LEN_A, MAX_LEN_B, limits_note

    report = import_checkpoint(
        path,
        out,
        dictionary=settings.dictionary,
        source_dictionary=settings.source_dictionary,
        sentencepiece=settings.sentencepiece,
        source_sentencepiece=settings.source_sentencepiece,
        overwrite=overwrite,
    )
    if settings.max_len_a is None and settings.max_len_b is None:
        return report
    a = MAX_LEN_A if settings.max_len_a is None else settings.max_len_a
    b = MAX_LEN_B if settings.max_len_b is None else settings.max_len_b
    return ImportReport(report.parameters, (*report.notes, limits_note(a, b)))
