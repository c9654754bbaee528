"""Checks of the pickles of a checkpoint before torch reads them."""

from __future__ import annotations

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from seqkd.errors import ModelError

MOST_LETTERS = 200  # longest name of a class or function
# Number of pickles at the start of a file from before torch's zip format: mark, version, system, contents and keys.
OLD_PICKLES = 5


def check_pickles(path: Path) -> None:
    """Refuse files that would keep torch's safe unpickler busy without end. torch checks everything else.

    The time of torch's message about a forbidden name is quadratic in the length of the name. torch does not write
    files that are larger when unpacked.

    Raises:
        ModelError: A name is longer than `MOST_LETTERS`, or the file is compressed.
        OSError: The file cannot be read.
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
    except Exception:  # neither a pickle nor a zip file; torch fails at the same place and reports it
        return


def _check(file: IO[bytes], path: Path) -> None:
    for code, argument, _ in pickletools.genops(file):
        if code.name in ("GLOBAL", "INST") and len(str(argument)) > MOST_LETTERS:
            raise ModelError(f"it names a class of {len(str(argument)):,} letters", where=str(path))
