"""The folders that a folder was made from, found by the digests in its fingerprint."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqkd.config.toml import read_toml
from seqkd.corpus.files import is_kept
from seqkd.corpus.manifest import MANIFEST, Manifest, read_manifest
from seqkd.corpus.reader import reverse_manifest
from seqkd.corpus.records import FORGOTTEN
from seqkd.errors import ConfigError, CorpusError, SeqkdError
from seqkd.stages.registry import STAGES

WEIGHTS = "model.safetensors"
PLAN = "plan.mk"  # a file in the run folder of a pipeline
DEPTH = 3  # folders below a run folder: RUN/gold/train is two

# Roles in fingerprints: files outside the folders of stages (text, vocabularies, foreign checkpoints, curves, measured
# speeds, outputs, and inputs of sources of other packages), folders with a manifest, and models, which their files
# identify.
_FILES = re.compile(
    r"^((train|valid|test)\.(source|target\d*|accepted)|source|target\d*|text\d+|accepted|checkpoint|baseline\.outputs"
    r"|(source_)?vocabulary|vocab(\.source)?\.model|.+\.(speed|history|result)\.json|source\..+|languages\..+)$"
)
_FOLDERS = re.compile(
    r"^(prepared|(train|valid)(@.+)?|corpus\d*|gold|kbest|soft_targets(@.+)?|shared_sources|agreement"
    r"|(corpora|distill|soft_targets|evaluations|backtranslation|selftraining|targets)\..+)$"
)
_PART = re.compile(r"^(train|valid|test)$|^valid@")  # corpora of a prepared folder
_MODELS = re.compile(r"^(model\d*|teacher\d*(@.+)?|forward|reverse|init_from|rescore_with|speed_against)$")
_ROWS = {
    "kbest": ("corpus",),
    "soft": ("corpus",),
    "corpus": ("kbest", "gold"),
}  # by kind: the roles of the inputs that have the same rows


@dataclass(slots=True)
class Link:
    """A folder to check.

    Attributes:
        path: The folder.
        manifest: The manifest; None for a model that was brought along without one.
        rows_from: Folders with the same rows, by id and shard, by their role.
    """

    path: Path
    manifest: Manifest | None
    rows_from: dict[str, Link] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The kind, as in the manifest."""
        return "model" if self.manifest is None else self.manifest.kind

    @property
    def forgotten(self) -> bool:
        """Whether the shards were deleted on purpose."""
        return self.manifest is not None and bool(self.manifest.extra.get(FORGOTTEN))

    @property
    def bytes(self) -> int:
        """The number of bytes that are read to check the folder."""
        if self.forgotten:
            return 0
        if self.kind != "model":
            return sum(shard.bytes for shard in self.manifest.shards) if self.manifest else 0
        return sum(file.stat().st_size for file in self.path.glob("*.*") if file.is_file())


class Shelf:
    """Folders in which to look for inputs.

    These are the run folder (without one, the neighbours of the folder), the folders that the stage files of the run
    name, and the folders that the user gives.

    Args:
        path: The folder to verify.
        inputs: The folders that the user gives.

    Raises:
        CorpusError: One of `inputs` is not a folder.
    """

    def __init__(self, path: Path, inputs: Sequence[Path]) -> None:
        for folder in inputs:
            if not folder.is_dir():
                raise CorpusError("no such folder", where=str(folder), expected="a folder to look for inputs in")
        run = _find_run(path)
        self.roots = [run, *inputs, *_find_named_folders(run)]
        self._manifests: dict[str, tuple[Path, Manifest]] = {}
        self._models: list[Path] = []
        self._unreadable: list[Path] = []
        for folder in dict.fromkeys(folder for root in self.roots for folder in walk(root)):
            manifest = None
            if (folder / MANIFEST).is_file():
                try:
                    manifest = read_manifest(folder)
                except CorpusError:
                    self._unreadable.append(folder)
                else:
                    self._manifests.setdefault(manifest.digest(), (folder, manifest))
            if (folder / WEIGHTS).is_file() or (manifest is not None and manifest.kind == "model"):
                self._models.append(folder)
        self._digests: dict[str, Path] | None = None
        self._turned: dict[str, Path] | None = None

    def find_folder(self, digest: str) -> Path | None:
        """Find the folder whose manifest has this digest, as it is or with the sides of its corpus exchanged."""
        known = self._manifests.get(digest)
        if known is not None:
            return known[0]
        if self._turned is None:
            self._turned = {
                reverse_manifest(manifest, exchanged=True).digest(): folder
                for folder, manifest in self._manifests.values()
                if manifest.kind == "corpus"
            }
        return self._turned.get(digest)

    def find_model(self, digest: str) -> Path | None:
        """Find the model folder whose files had this digest when written. Files without a record are hashed."""
        if self._digests is None:
            self._digests = {}
            for folder in self._models:
                self._digests.setdefault(_model_digest(folder), folder)
        return self._digests.get(digest)

    def explain_absence(self, role: str) -> str:
        """Explain why an input may not have been found: folders that cannot be read."""
        if self._unreadable and not _MODELS.match(role):
            return f"; {', '.join(map(str, self._unreadable))} cannot be read"
        return ""

    def find_shard(self, digest: str) -> str | None:
        """Find the shard, in any folder, that was written with this SHA-256."""
        for folder, manifest in self._manifests.values():
            for shard in manifest.shards:
                if shard.sha256 == digest:
                    return str(folder / shard.name)
        return None


def find_chain(path: Path, shelf: Shelf) -> tuple[list[Link], list[str], list[str]]:
    """Find `path` and all folders that it was made from, each once, nearest first.

    Returns:
        The folders, the problems, and notes on inputs that were not looked for.

    Raises:
        CorpusError: The folder contains nothing that seqkd made.
    """
    links: dict[Path, Link] = {}
    problems: list[str] = []
    notes: list[str] = []
    given = _find_folders(path)
    waiting = []
    for folder in given:
        try:
            waiting.append(_make_link(folder, links))
        except CorpusError as error:
            if len(given) == 1:
                raise
            problems.append(f"{error.where}: {error.what}")
    while waiting:
        link = waiting.pop(0)
        made_by: dict[str, Any] = link.manifest.fingerprint if link.manifest is not None else {}
        digests = made_by.get("inputs")
        if link.manifest is None:
            notes.append(f"{link.path}: has no manifest, so its files cannot be compared with a record")
        elif link.kind == "model" and "files" not in link.manifest.extra:
            notes.append(f"{link.path}: its manifest does not record the SHA-256 of its files")
        if link.manifest is not None and made_by.get("stage") not in STAGES:
            notes.append(
                f"{link.path}: this version does not know the stage {made_by.get('stage')!r} that made it, and has not "
                "looked for its inputs"
            )
            digests = {}
        if not isinstance(digests, dict):
            digests = {}
        for role, digest in sorted(digests.items()):
            if not isinstance(digest, str):
                problems.append(f"{link.path}: its input `{role}` is named by {digest!r}, which is not a digest")
                continue
            if _FILES.match(role):
                continue
            if _MODELS.match(role):
                found = shelf.find_model(digest)
            elif _FOLDERS.match(role):
                found = shelf.find_folder(digest)
            else:
                notes.append(f"{link.path}: this version does not know the input `{role}`, and has not looked for it")
                continue
            if found is None:
                where = ", ".join(map(str, shelf.roots))
                problems.append(
                    f"{link.path}: its input `{role}` ({str(digest)[:12]}...) is not in {where}: missing, changed or "
                    f"made again{shelf.explain_absence(role)}; --inputs FOLDER names a further folder to look in"
                )
                continue
            new = found.resolve() not in links
            origin = _make_link(found, links)
            if new:
                waiting.append(origin)
            if role in _ROWS.get(link.kind, ()):
                link.rows_from[role] = origin
        for part in _check_parts(link, problems):
            new = part.resolve() not in links
            below = _make_link(part, links)
            if new:
                waiting.append(below)
    return list(links.values()), problems, notes


def walk(root: Path) -> Iterator[Path]:
    """Iterate over `root` and the folders below it, down to `DEPTH`, without old folders that stages have replaced."""
    for folder, names, _ in os.walk(root):
        below = len(Path(folder).relative_to(root).parts)
        names[:] = sorted(name for name in names if not name.startswith(".") and not is_kept(name))
        if below >= DEPTH:
            names.clear()
        yield Path(folder)


def _find_folders(path: Path) -> list[Path]:
    if (path / MANIFEST).exists() or (path / WEIGHTS).exists() or not path.is_dir():
        return [path]
    found = [folder for folder in walk(path) if (folder / MANIFEST).exists() or (folder / WEIGHTS).exists()]
    if not found:
        read_manifest(path)  # raises an error that describes the problem
    return found


def _make_link(folder: Path, links: dict[Path, Link]) -> Link:
    key = folder.resolve()
    if key not in links:
        bare = (folder / WEIGHTS).exists() and not (folder / MANIFEST).exists()
        links[key] = Link(folder, None if bare else read_manifest(folder))
    return links[key]


def _check_parts(link: Link, problems: list[str]) -> Iterator[Path]:
    """Check the corpora of a prepared folder, whose manifest holds the digests of their manifests."""
    if link.kind != "prepared" or link.manifest is None:
        return
    for part in filter(_PART.match, link.manifest.extra):  # a further vocabulary has validation text alone
        folder = link.path / part
        try:
            digest = read_manifest(folder).digest()
        except CorpusError as error:
            problems.append(f"{error.where}: {error.what}")
            continue
        if digest != link.manifest.extra.get(part):
            problems.append(
                f"{folder}: not the corpus that {link.path} was finished with: it is from another run, or changed"
            )
        yield folder


def _find_run(path: Path) -> Path:
    """Find the run folder that `path` is or is in. Without a run folder, return its parent."""
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        if (folder / PLAN).is_file():
            return Path(os.path.relpath(folder)) if not path.is_absolute() else folder
    return path if _holds_folders(path) else path.parent


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and not (path / MANIFEST).exists() and not (path / WEIGHTS).exists()


def _find_named_folders(run: Path) -> list[Path]:
    """Find folders outside the run that its stage files name, such as a teacher that was brought along."""
    found: dict[Path, None] = {}
    for file in sorted(run.glob("config/*.toml")):
        try:
            values = list(_iterate_texts(read_toml(file)))
        except ConfigError:
            continue  # stage files are not verified here
        for text in values:
            folder = Path(text)
            if folder.is_dir() and ((folder / MANIFEST).is_file() or (folder / WEIGHTS).is_file()):
                found[folder] = None
    inside = run.resolve()
    return [folder for folder in found if inside not in folder.resolve().parents]


def _iterate_texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _iterate_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _iterate_texts(item)


def _model_digest(folder: Path) -> str:
    # torch is loaded only if an input is a model
    from seqkd.models.checkpoint import combine_digests, model_digest

    try:
        if (folder / MANIFEST).is_file():
            files = read_manifest(folder).extra.get("files")
            if isinstance(files, dict):
                return combine_digests(files)  # changes of the files are reported when the folder is checked
        return model_digest(folder)
    except SeqkdError:
        return ""
