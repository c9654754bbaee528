"""fairseq's files as a format of `seqkd import`. torch is imported only when a file is read."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from seqkd.interop.formats import ImportReport

if TYPE_CHECKING:
    from seqkd.interop.fairseq_vocabularies import Sides

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
    bpe_codes: Annotated[
        Path | None,
        Field(
            description="the byte-pair codes of the training text, by subword-nmt or fastBPE, in place of SentencePiece"
        ),
    ] = None
    source_bpe_codes: Annotated[Path | None, Field(description="the byte-pair codes of the source, if they differ")] = (
        None
    )
    moses_source: Annotated[
        str | None, Field(description="the language of the Moses tokeniser for sources; left out: text has blanks")
    ] = None
    moses_target: Annotated[str | None, Field(description="the language of the Moses tokeniser for targets")] = None
    moses_no_dash_splits: Annotated[
        bool, Field(description="words are not split at dashes, as with fairseq's option")
    ] = False
    moses_no_escape: Annotated[bool, Field(description="characters are not escaped, as with fairseq's option")] = False
    max_len_a: Annotated[
        float | None,
        Field(
            ge=0.0, description="option --max-len-a of fairseq-generate; the import prints the equal limits of seqkd"
        ),
    ] = None
    max_len_b: Annotated[int | None, Field(ge=0, description="option --max-len-b of fairseq-generate")] = None

    def __post_init__(self) -> None:
        if self.bpe_codes is not None and (self.sentencepiece or self.source_sentencepiece):
            raise ValueError("give either --bpe-codes or --sentencepiece: text is split in one way")
        if self.source_bpe_codes is not None and self.bpe_codes is None:
            raise ValueError("--source-bpe-codes needs --bpe-codes, the codes of the target")
        if (self.moses_source is None) != (self.moses_target is None):
            raise ValueError("--moses-source and --moses-target go together")
        if self.bpe_codes is None and self.moses_source is not None:
            raise ValueError("--moses-source and --moses-target need --bpe-codes")
        if self.moses_source is None and (self.moses_no_dash_splits or self.moses_no_escape):
            raise ValueError("--moses-no-dash-splits and --moses-no-escape need --moses-source and --moses-target")


def split_paths(path: Path) -> list[Path]:
    """Return the checkpoints that a path names. Colons separate those of an ensemble, as for fairseq-generate."""
    return [path] if path.exists() else [Path(part) for part in str(path).split(":") if part]


def sniff(path: Path) -> bool:
    """Whether all files were written by `torch.save`, as fairseq's checkpoints are."""
    return all(_sniff(part) for part in split_paths(path))


def _sniff(path: Path) -> bool:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("data.pkl") for name in archive.namelist())
        with path.open("rb") as file:
            return file.read(len(_PICKLE)) == _PICKLE
    except (OSError, zipfile.BadZipFile):
        return False


def read(path: Path, out: Path, settings: FairseqFiles, *, overwrite: bool) -> ImportReport:
    """Convert a checkpoint to a model folder, or several to one folder each; see `import_ensemble`."""
    from seqkd.interop.fairseq import import_ensemble
    from seqkd.interop.fairseq_limits import MAX_LEN_A, MAX_LEN_B, limits_note

    sides = _build_sides(settings)
    report = import_ensemble(split_paths(path), out, sides, overwrite=overwrite)
    if settings.max_len_a is None and settings.max_len_b is None:
        return report
    a = MAX_LEN_A if settings.max_len_a is None else settings.max_len_a
    b = MAX_LEN_B if settings.max_len_b is None else settings.max_len_b
    return ImportReport(report.parameters, (*report.notes, limits_note(a, b)))


def _build_sides(settings: FairseqFiles) -> Sides:
    from seqkd.interop.fairseq_vocabularies import Codes, build_codes, build_vocabularies
    from seqkd.text.codes import MosesSettings

    if settings.bpe_codes is None:
        return build_vocabularies(
            settings.dictionary, settings.source_dictionary, settings.sentencepiece, settings.source_sentencepiece
        )
    source, target = (
        MosesSettings(
            language=language or "",
            dash_splits=not settings.moses_no_dash_splits,
            escape=not settings.moses_no_escape,
        )
        for language in (settings.moses_source, settings.moses_target)
    )
    codes = Codes(target=settings.bpe_codes, source=settings.source_bpe_codes, moses_source=source, moses_target=target)
    return build_codes(codes, settings.dictionary, settings.source_dictionary)
