"""A look at a checkpoint's pickles before torch reads them."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from seqkd.errors import ModelError

MOST_LETTERS = 200  # of a class's or function's name
OLD_PICKLES = 5  # at the start of a file from before torch's zip format: a mark, versions, the contents, their keys


def check_pickles(path: Path) -> None:
    """Refuse what makes torch's safe unpickler work without end; everything else is for torch to judge.

    Its message about a name that is not allowed takes the square of the name's length, and a file that unpacks to more
    than its own size is none that torch wrote.

    Raises:
        ModelError: A name is longer than any program's, or the file is compressed.
        OSError: It cannot be read.
    """
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                for _ in range(OLD_PICKLES):
                    _check(file, path)
            return
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ModelError("its parts are larger than the file", where=str(path), expected="a file of torch.save")
            for entry in archive.infolist():
                if entry.filename.endswith("data.pkl"):
                    with archive.open(entry) as file:
                        _check(file, path)
    except (ModelError, OSError):
        raise
    except Exception:  # not a pickle, not a zip: torch comes no further than this, and says so
        return


def _check(file: IO[bytes], path: Path) -> None:
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST") and len(str(argument)) > MOST_LETTERS:
            raise ModelError(f"it names a class of {len(str(argument)):,} letters", where=str(path))
