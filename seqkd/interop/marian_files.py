"""Marian's model files: their names, and how they are recognised."""

from __future__ import annotations

import zipfile
from pathlib import Path

MODEL = "model.npz"
DECODER = "decoder.yml"
CONFIG_KEY = "special:model.yml"  # the array of bytes that holds the configuration


def sniff(path: Path) -> bool:
    """Whether a file, or the model in a folder, was written by Marian or for it."""
    file = path / MODEL if path.is_dir() else path
    try:
        with zipfile.ZipFile(file) as archive:
            return f"{CONFIG_KEY}.npy" in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False
