"""Files of two runs, to be compared byte by byte."""

from __future__ import annotations

import json
from pathlib import Path


def comparable(path: Path) -> bytes:
    """A file's bytes; of a manifest without what the folder has cost, which differs from run to run."""
    data = path.read_bytes()
    if path.name != "manifest.json":
        return data
    values = json.loads(data)
    values["extra"].pop("cost", None)
    return json.dumps(values).encode()
