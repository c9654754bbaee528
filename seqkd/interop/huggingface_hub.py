"""Models on Hugging Face's hub: a local folder with the files of a model, downloaded by huggingface-hub."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqkd.errors import ModelError

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TEXT = ("*.json", "*.txt", "*.model", "*.spm")
_WEIGHTS = ("*.safetensors", "*.bin")  # in order of preference


def locate(path: str | Path, revision: str | None = None, *, download: Callable[..., str] | None = None) -> Path:
    """Return the folder of a model: the path itself if it is a folder, otherwise a copy of the model on the hub.

    Args:
        path: A folder, or the name of a model on the hub, such as `Helsinki-NLP/opus-mt-en-de`.
        revision: A branch, tag or commit on the hub; None for the newest.
        download: `huggingface_hub.snapshot_download`, which is imported if None.

    Raises:
        ModelError: There is no such folder, and the model cannot be downloaded.
    """
    folder = Path(path)
    if folder.is_dir():
        if revision is not None:
            raise ModelError("a revision is for models on the hub", where=str(path), hint="leave out the revision")
        return folder
    if folder.exists() or not _NAME.fullmatch(str(path)):
        raise ModelError(
            "is not a folder",
            where=str(path),
            expected="a Hugging Face model folder, or the name of a model on the hub (OWNER/NAME)",
            hint="check the path",
        )
    fetch = download or _library()
    found = _fetch(fetch, str(path), revision, (*_TEXT, _WEIGHTS[0]))
    if not any(found.glob(_WEIGHTS[0])):
        found = _fetch(fetch, str(path), revision, (*_TEXT, *_WEIGHTS))
    return found


def _fetch(download: Callable[..., str], name: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    try:
        return Path(download(repo_id=name, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the library, its HTTP client and the system raise errors of many classes
        line = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelError(
            f"there is no such folder here, and the model cannot be downloaded from the hub: {line}",
            where=name,
            expected="a Hugging Face model folder, or the name of a model on the hub (OWNER/NAME)",
            hint="check the name and the network; or download the model elsewhere and give the path of its folder",
        ) from None


def _library() -> Any:
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ModelError(
            f"models on the hub need huggingface-hub, which cannot be imported: {error}",
            hint='pip install "seqkd[hf]"',
        ) from None
    return snapshot_download
