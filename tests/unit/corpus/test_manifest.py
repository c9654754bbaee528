from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.corpus import manifest as manifest_module
from seqkd.corpus.manifest import Manifest, ShardInfo, read_manifest, shard_index, shard_name, write_manifest
from seqkd.corpus.schema import KINDS
from seqkd.errors import CorpusError


def shard(index: int, rows: int = 1) -> ShardInfo:
    return ShardInfo(name=shard_name(index), rows=rows, sha256="0" * 64, bytes=10)


def example(**changes: Any) -> Manifest:
    whole = Manifest(
        kind="corpus",
        fingerprint={"stage": "prepare", "config": {"rate": 0.1}},
        rows=3,
        source_tokens=7,
        target_tokens=9,
        shards=[shard(0, 2), shard(1)],
        vocabulary="f" * 64,
        counts={"too long": 2},
        extra={"note": "ä"},
    )
    return dataclasses.replace(whole, **changes)


def test_reads_what_was_written(tmp_path: Path) -> None:
    write_manifest(tmp_path, example())
    assert read_manifest(tmp_path) == example()


@given(st.integers(0, 10**7))
def test_shard_numbers_come_back(index: int) -> None:
    assert shard_index(shard_name(index)) == index


@pytest.mark.parametrize(
    "name",
    ["shard-1.arrow", "shard-00001.arrow.tmp", "shard-000001.arrow", ".shard-00001.arrow", "shard-0000\u0661.arrow"],
)
def test_other_names_are_no_shards(name: str) -> None:
    assert shard_index(name) is None


def test_shards_are_listed_by_number_not_by_name(tmp_path: Path) -> None:
    write_manifest(tmp_path, example(shards=[shard(100_000), shard(99_999), shard(7)]))
    names = ["shard-00007.arrow", "shard-99999.arrow", "shard-100000.arrow"]
    assert sorted(names) != names
    assert [entry.name for entry in read_manifest(tmp_path).shards] == names
    assert [entry["name"] for entry in json.loads((tmp_path / "manifest.json").read_text())["shards"]] == names


def test_digest_ignores_the_version_and_the_order_of_keys(tmp_path: Path) -> None:
    before = example().digest()
    write_manifest(tmp_path, example())
    values = json.loads((tmp_path / "manifest.json").read_text())
    assert values["seqkd"] != "9.9"
    (tmp_path / "manifest.json").write_text(json.dumps({**values, "seqkd": "9.9"}))
    assert read_manifest(tmp_path).digest() == before
    assert example(fingerprint={"config": {"rate": 0.1}, "stage": "prepare"}).digest() == before


@pytest.mark.parametrize(
    "change", [{"rows": 4}, {"kind": "soft"}, {"vocabulary": "0"}, {"extra": {}}, {"shards": [shard(0, 3)]}]
)
def test_digest_changes_with_the_contents(change: dict[str, Any]) -> None:
    assert example(**change).digest() != example().digest()


def test_the_file_names_no_place_and_no_time(tmp_path: Path) -> None:
    write_manifest(tmp_path, example())
    values = json.loads((tmp_path / "manifest.json").read_text())
    assert values.keys() == {"format", "seqkd", *(field.name for field in dataclasses.fields(Manifest))}
    assert str(tmp_path) not in (tmp_path / "manifest.json").read_text()


def test_only_folders_that_earlier_versions_cannot_read_have_a_new_format() -> None:
    formats = {kind: json.loads(dataclasses.replace(example(), kind=kind).to_json())["format"] for kind in KINDS}
    assert formats == {"corpus": 2, "kbest": 2, "soft": 3}


@pytest.mark.parametrize("shards", [[shard(0)], [shard(0, 2), shard(0)]])
def test_shards_that_do_not_fit_are_not_written(tmp_path: Path, shards: list[ShardInfo]) -> None:
    with pytest.raises(ValueError, match="shard"):
        write_manifest(tmp_path, example(shards=shards))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_without_manifest_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"not a finished .*: no manifest.json"):
        read_manifest(tmp_path)
    with pytest.raises(CorpusError, match="no such folder"):
        read_manifest(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(CorpusError, match="not a folder"):
        read_manifest(tmp_path / "file")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "3"}, "`rows`"),
        ({"rows": 4}, "add up"),
        ({"kind": None}, "`kind`"),
        ({"counts": []}, "`counts`"),
        ({"shards": [{"name": "../../etc/passwd", "rows": 3, "sha256": "0" * 64, "bytes": 1}]}, "`shards.0`"),
        ({"shards": [{"name": "shard-00000.arrow", "rows": 3, "sha256": "x", "bytes": 1}]}, "`shards.0`"),
        ({"shards": ["shard-00000.arrow"]}, "`shards.0`"),
        ({"format": 99}, "newer"),
        ({"format": None}, "not written by seqkd"),
    ],
)
def test_damage_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    values = {**json.loads(example().to_json()), **change}
    (tmp_path / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(CorpusError, match=message) as caught:
        read_manifest(tmp_path)
    assert caught.value.where == str(tmp_path / "manifest.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "an extension", "manifest_version": 3}', "\ufeff{}"])
def test_other_peoples_manifests_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(CorpusError):
        read_manifest(tmp_path)


def test_public_names_are_there() -> None:
    assert all(hasattr(manifest_module, name) for name in manifest_module.__all__)
