"""The run folder that an earlier version wrote, unpacked for a test; see tests/fixtures/README.md."""

from __future__ import annotations

import tarfile
from pathlib import Path

FIXTURES = Path(__file__).parents[1] / "fixtures"
RUN = Path("runs/mini")  # relative to the folder that holds the unpacked files, as in its stage files


def unpack(folder: Path) -> Path:
    """Unpack the run of version 0.1.0 into `folder` and return its run folder."""
    with tarfile.open(FIXTURES / "run-0.1.0.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / RUN
