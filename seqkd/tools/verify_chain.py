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
PLAN = "plan.mk"  # lies in a pipeline's run folder
DEPTH = 3  # folders below a run folder: RUN/gold/train is two

# Roles in fingerprints: folders with a manifest, models, which are known by their files, and files outside any folder
# of a stage: text, vocabularies, foreign checkpoints, curves, measured speeds, outputs, and what sources of
# other packages name.
_FILES = re.compile(
    r"^((train|valid|test)\.(source|target\d*|accepted)|source|target\d*|text\d+|accepted|checkpoint|baseline\.outputs"
    r"|(source_)?vocabulary|vocab(\.source)?\.model|.+\.(speed|history|result)\.json|source\..+)$"
)
_FOLDERS = re.compile(
    r"^(prepared|train|valid|corpus\d*|gold|kbest|soft_targets|(corpora|distill|soft_targets|evaluations|backtranslation)\..+)$"
)
_MODELS = re.compile(r"^(model\d*|teacher\d*|forward|reverse|init_from|rescore_with|speed_against)$")
_ROWS = {"kbest": ("corpus",), "soft": ("corpus",), "corpus": ("kbest", "gold")}  # by kind: whose rows these are
_STAGES = {*STAGES, "import", "export"}


@dataclass(slots=True)
class Link:
    """One folder to look at.

    Attributes:
        path: The folder.
        manifest: None for a model that was brought along without one.
        rows_from: Folders whose rows, by id and shard, are its own, by their role.
    """

    path: Path
    manifest: Manifest | None
    rows_from: dict[str, Link] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """As in the manifest."""
        return "model" if self.manifest is None else self.manifest.kind

    @property
    def forgotten(self) -> bool:
        """Whether its shards were deleted on purpose."""
        return self.manifest is not None and bool(self.manifest.extra.get(FORGOTTEN))

    @property
    def bytes(self) -> int:
        """What is read to look at it."""
        if self.forgotten:
            return 0
        if self.kind != "model":
            return sum(shard.bytes for shard in self.manifest.shards) if self.manifest else 0
        return sum(file.stat().st_size for file in self.path.glob("*.*") if file.is_file())


class Shelf:
    """Folders in which inputs are looked for.

    These are the run that the folder lies in (without one, its neighbours), what the run's stage files name, and what
    the user gives.

    Args:
        path: The folder to verify.
        inputs: Given by the user.

    Raises:
        CorpusError: One of `inputs` is no folder.
    """

    def __init__(self, path: Path, inputs: Sequence[Path]) -> None:
        for folder in inputs:
            if not folder.is_dir():
                raise CorpusError("no such folder", where=str(folder), expected="a folder to look for inputs in")
        run = _run(path)
        self.roots = [run, *inputs, *_named_by(run)]
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

    def folder(self, digest: str) -> Path | None:
        """The folder whose manifest has this digest, as it is or with the sides of its corpus exchanged."""
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

    def model(self, digest: str) -> Path | None:
        """The model folder whose files had this digest when they were written; those without a record are hashed."""
        if self._digests is None:
            self._digests = {}
            for folder in self._models:
                self._digests.setdefault(_model_digest(folder), folder)
        return self._digests.get(digest)

    def like(self, role: str) -> str:
        """What may be in an input's place: damaged, or made again."""
        if self._unreadable and not _MODELS.match(role):
            return f"; {', '.join(map(str, self._unreadable))} cannot be read"
        return ""

    def shard(self, digest: str) -> str | None:
        """The shard, of whatever folder, that was written with this SHA-256."""
        for folder, manifest in self._manifests.values():
            for shard in manifest.shards:
                if shard.sha256 == digest:
                    return str(folder / shard.name)
        return None


def chain(path: Path, shelf: Shelf) -> tuple[list[Link], list[str], list[str]]:
    """`path` and all folders that it was made from, each once, nearest first; problems; and what was not looked for.

    Raises:
        CorpusError: There is nothing that seqkd made.
    """
    links: dict[Path, Link] = {}
    problems: list[str] = []
    notes: list[str] = []
    given = _given(path)
    waiting = []
    for folder in given:
        try:
            waiting.append(_link(folder, links))
        except CorpusError as error:
            if len(given) == 1:
                raise
            problems.append(f"{error.where}: {error.what}")
    while waiting:
        link = waiting.pop(0)
        made_by: dict[str, Any] = link.manifest.fingerprint if link.manifest is not None else {}
        digests = made_by.get("inputs")
        if link.manifest is None:
            notes.append(f"{link.path}: has no manifest, so nothing says what its files were")
        elif link.kind == "model" and "files" not in link.manifest.extra:
            notes.append(f"{link.path}: its manifest does not record its files' SHA-256")
        if link.manifest is not None and made_by.get("stage") not in _STAGES:
            notes.append(
                f"{link.path}: this version does not know the stage {made_by.get('stage')!r} that made it, and has not "
                "looked for its inputs"
            )
            digests = {}
        if not isinstance(digests, dict):
            digests = {}
        for role, digest in sorted(digests.items()):
            if not isinstance(digest, str):
                problems.append(f"{link.path}: its input `{role}` is named by {digest!r}, which is no digest")
                continue
            if _FILES.match(role):
                continue
            if _MODELS.match(role):
                found = shelf.model(digest)
            elif _FOLDERS.match(role):
                found = shelf.folder(digest)
            else:
                notes.append(f"{link.path}: this version does not know the input `{role}`, and has not looked for it")
                continue
            if found is None:
                where = ", ".join(map(str, shelf.roots))
                problems.append(
                    f"{link.path}: its input `{role}` ({str(digest)[:12]}...) is not in {where}: missing, changed or "
                    f"made again{shelf.like(role)}; --inputs FOLDER names where else it may be"
                )
                continue
            new = found.resolve() not in links
            origin = _link(found, links)
            if new:
                waiting.append(origin)
            if role in _ROWS.get(link.kind, ()):
                link.rows_from[role] = origin
        for part in _parts(link, problems):
            new = part.resolve() not in links
            below = _link(part, links)
            if new:
                waiting.append(below)
    return list(links.values()), problems, notes


def walk(root: Path) -> Iterator[Path]:
    """`root` and the folders below it, down to `DEPTH`, without those that their stages have replaced."""
    for folder, names, _ in os.walk(root):
        below = len(Path(folder).relative_to(root).parts)
        names[:] = sorted(name for name in names if not name.startswith(".") and not is_kept(name))
        if below >= DEPTH:
            names.clear()
        yield Path(folder)


def _given(path: Path) -> list[Path]:
    if (path / MANIFEST).exists() or (path / WEIGHTS).exists() or not path.is_dir():
        return [path]
    found = [folder for folder in walk(path) if (folder / MANIFEST).exists() or (folder / WEIGHTS).exists()]
    if not found:
        read_manifest(path)  # says what is wrong with the folder
    return found


def _link(folder: Path, links: dict[Path, Link]) -> Link:
    key = folder.resolve()
    if key not in links:
        bare = (folder / WEIGHTS).exists() and not (folder / MANIFEST).exists()
        links[key] = Link(folder, None if bare else read_manifest(folder))
    return links[key]


def _parts(link: Link, problems: list[str]) -> Iterator[Path]:
    """The corpora of a prepared folder; its manifest names their manifests' digests."""
    if link.kind != "prepared" or link.manifest is None:
        return
    for part in ("train", "valid", "test"):
        folder = link.path / part
        try:
            digest = read_manifest(folder).digest()
        except CorpusError as error:
            problems.append(f"{error.where}: {error.what}")
            continue
        if digest != link.manifest.extra.get(part):
            problems.append(f"{folder}: not the corpus that {link.path} was finished with: of another run, or changed")
        yield folder


def _run(path: Path) -> Path:
    """The run folder that `path` is or lies in; its parent where it lies in none."""
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        if (folder / PLAN).is_file():
            return Path(os.path.relpath(folder)) if not path.is_absolute() else folder
    return path if _holds_folders(path) else path.parent


def _holds_folders(path: Path) -> bool:
    return path.is_dir() and not (path / MANIFEST).exists() and not (path / WEIGHTS).exists()


def _named_by(run: Path) -> list[Path]:
    """Folders outside the run that its stage files name, such as a teacher that was brought along."""
    found: dict[Path, None] = {}
    for file in sorted(run.glob("config/*.toml")):
        try:
            values = list(_texts(read_toml(file)))
        except ConfigError:
            continue  # not what is verified here
        for text in values:
            folder = Path(text)
            if folder.is_dir() and ((folder / MANIFEST).is_file() or (folder / WEIGHTS).is_file()):
                found[folder] = None
    inside = run.resolve()
    return [folder for folder in found if inside not in folder.resolve().parents]


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _model_digest(folder: Path) -> str:
    # torch is not loaded where no input is a model
    from seqkd.models.checkpoint import combine_digests, model_digest

    try:
        if (folder / MANIFEST).is_file():
            files = read_manifest(folder).extra.get("files")
            if isinstance(files, dict):
                return combine_digests(files)  # whether the files are still these is told where the folder is looked at
        return model_digest(folder)
    except SeqkdError:
        return ""
