"""Archives of public corpora: where they are, how they are checked, and how their members are read."""

from __future__ import annotations

import hashlib
import http.client
import tarfile
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

MIRROR = "SEQKD_DATA_MIRROR"
TIMEOUT_SECONDS = 60
PIECE_BYTES = 1 << 20

Download = Callable[[str, Path], None]


class FetchError(Exception):
    """The corpus cannot be fetched. The message gives the reason and the remedy."""


@dataclass(frozen=True)
class Archive:
    """A file of the web.

    Attributes:
        url: Its address. The last part is its name in a mirror and in the record of digests.
        digest: `sha256:HEX` or `md5:HEX`, as somebody else has published it; None if nobody has.
    """

    url: str
    digest: str | None = None

    @property
    def name(self) -> str:
        """Its file name."""
        return self.url.rsplit("/", 1)[1]


def downloaded(url: str, path: Path) -> None:
    """Write what `url` holds to `path`."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer, path.open("wb") as file:
        while piece := answer.read(PIECE_BYTES):
            file.write(piece)


def digest_of(path: Path, kind: str = "sha256") -> str:
    """Return the digest of a file, in hex."""
    found = hashlib.new(kind)
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            found.update(piece)
    return found.hexdigest()


def obtain(
    archive: Archive,
    *,
    mirror: Path | None,
    keep: Path,
    record: MutableMapping[str, str],
    download: Download,
) -> Path:
    """Return the path of an archive whose digest is right.

    Args:
        archive: Which one.
        mirror: The folder that holds it; None downloads it to `keep`.
        keep: Downloads are kept here, so that a fetch that failed later does not download them again.
        record: SHA-256 by name. It is compared, and gets the archive's entry.
        download: Writes what a URL holds to a file.

    Raises:
        FetchError: The archive cannot be had, or is not the one that is expected.
    """
    if mirror is not None:
        path = mirror / archive.name
        if not path.is_file():
            raise FetchError(f"{path}: no such file; the mirror must hold what {archive.url} holds")
    else:
        path = keep / archive.name
        if not path.is_file():
            _download(archive, path, download)
    try:
        _check(archive, path, record)
    except FetchError:
        if mirror is None:
            path.unlink()
        raise
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error}") from None
    return path


def _download(archive: Archive, path: Path, download: Download) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        download(archive.url, part)
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:  # urllib's errors and time-outs are OSErrors
        hint = f"check the network, or put the archive into a folder CORPUS of DIR and set {MIRROR}=DIR"
        raise FetchError(f"{archive.url} cannot be fetched: {error}\n  to do: {hint}") from None
    finally:
        part.unlink(missing_ok=True)


def _check(archive: Archive, path: Path, record: MutableMapping[str, str]) -> None:
    found = digest_of(path)
    if archive.digest is not None:
        kind, _, wanted = archive.digest.partition(":")
        if (given := found if kind == "sha256" else digest_of(path, kind)) != wanted:
            raise FetchError(
                f"{path} is not the archive that is expected: {kind} {given}\n  expected: {wanted}"
                "\n  to do: fetch it again; if that does not help, the archive has changed at its home"
            )
    compare(archive.name, found, record, path)


def compare(name: str, found: str, record: MutableMapping[str, str], place: Path) -> None:
    """Compare a SHA-256 with the recorded one; without a record it becomes the record.

    Raises:
        FetchError: They differ.
    """
    wanted = record.setdefault(name, found)
    if found != wanted:
        raise FetchError(
            f"{place} has changed since the first fetch: SHA-256 {found}\n  recorded: {wanted}"
            f"\n  to do: find out why; to accept the new file, remove the line of {name} from the record"
        )


@contextmanager
def members(path: Path, names: Mapping[str, str]) -> Iterator[Iterator[tuple[str, IO[bytes]]]]:
    """Read members of a compressed tar in one pass, in the archive's order.

    Args:
        path: The archive.
        names: The wanted members' file names without folders, each with the key to return it by.

    Raises:
        FetchError: The archive cannot be read, or lacks a member.
    """
    missing = dict(names)

    def found(archive: tarfile.TarFile) -> Iterator[tuple[str, IO[bytes]]]:
        for member in archive:
            name = PurePosixPath(member.name).name
            if member.isfile() and name in missing:
                file = archive.extractfile(member)
                assert file is not None
                yield missing.pop(name), file
            if not missing:
                return
        raise FetchError(f"{path} is cut, or another archive: it lacks {', '.join(missing)}")

    try:
        with tarfile.open(path, "r|*") as archive:
            yield found(archive)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise FetchError(f"{path} cannot be read as an archive: {error}") from None
