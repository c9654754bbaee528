"""The test sets that sacrebleu knows by name, in its folder on this machine. Nothing is downloaded."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seqkd.errors import InputError

NEAR_NAMES = 5  # the most names in a message
LEAST_SIMILARITY = 0.5  # the least similarity of a name that a message suggests


def sacrebleu_files(name: str, langpair: str, *, folder: Path | None = None) -> tuple[Path, ...]:
    """Find the files of a test set: the source, and each reference that sacrebleu itself scores against.

    Args:
        name: The set, e.g. `wmt14`.
        langpair: The language pair, e.g. `en-de`.
        folder: The folder of the sets; None for sacrebleu's default, `$SACREBLEU` or `~/.sacrebleu`.

    Raises:
        InputError: sacrebleu does not have the set or the pair, or the files are not in the folder.
    """
    from sacrebleu.dataset import DATASETS
    from sacrebleu.utils import SACREBLEU_DIR

    folder = Path(SACREBLEU_DIR) if folder is None else folder
    if name not in DATASETS:
        raise InputError(
            f"sacrebleu has no test set {name!r}",
            expected=_near(name, DATASETS),
            hint="`sacrebleu --list` names all of them",
        )
    dataset = DATASETS[name]
    if langpair not in dataset.langpairs:
        raise InputError(
            f"sacrebleu's test set {name!r} has no language pair {langpair!r}",
            expected=_near(langpair, dataset.langpairs),
        )
    file_name = name.replace("/", "_")
    files = tuple(
        folder / name / f"{file_name}.{langpair}.{field.replace(':', '-')}"
        for field in ("src", *_references(dataset, langpair))
    )
    if not all(file.is_file() for file in files):
        raise InputError(
            f"sacrebleu's test set {name!r} ({langpair}) is not on this machine, in {folder / name}",
            expected=", ".join(file.name for file in files),
            hint=f"`sacrebleu --download {name} --language-pair {langpair}` fetches it to the folder that SACREBLEU "
            "names, or to ~/.sacrebleu",
        )
    return files


def _references(dataset: Any, langpair: str) -> list[str]:
    """List the fields of a set that hold references, as `get_reference_files` of the set chooses them.

    Sets in the XML of WMT name their references in the registry. Asking such a set for its fields downloads it.
    """
    from sacrebleu.dataset.wmt_xml import WMTXMLDataset

    if not isinstance(dataset, WMTXMLDataset):
        return [field for field in dataset.fieldnames(langpair) if field.startswith("ref")]
    pair, usual = dataset.langpairs[langpair], dataset.kwargs.get("refs", [])
    labels = pair.get("refs", usual) if isinstance(pair, dict) else usual
    return [f"ref:{label}" if label else "ref" for label in labels]


def _near(name: str, known: Iterable[str]) -> str:
    """Suggest names that are similar to an unknown one; the first names if none is similar."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=NEAR_NAMES, cutoff=LEAST_SIMILARITY)
    if near or len(names) <= NEAR_NAMES:
        return f"one of its sets or pairs, such as {', '.join(near or names)}"
    return f"one of its {len(names)}, such as {', '.join(names[:NEAR_NAMES])}"
