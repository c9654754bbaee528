"""The power goes at random moments: what was not synced is lost, and the stage started again gives the same bytes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.torture import stages
from tests.torture.disk import Disk
from tests.torture.table import Record

MOMENTS = {False: 3, True: 30}  # in the short form, in full


@pytest.mark.slow
@pytest.mark.parametrize("stage", stages.STAGES)
def test_power_loss(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool, record: Record, stage: str
) -> None:
    def work(out: Path) -> tuple[int, Disk]:
        """Run the stage; how many fsyncs and renames that takes."""
        out.parent.mkdir()
        disk = Disk(out.parent)
        with monkeypatch.context() as patch:
            disk.record(patch, lambda number: at_event(number, disk))
            assert stages.run(stage, inputs, out) == 0
        disk.close()
        return disk.events, disk

    images: list[Path] = []
    moments: set[int] = set()

    def at_event(number: int, disk: Disk) -> None:
        if number in moments:
            for early in (False, True):
                images.append(tmp_path / f"image-{number}-{early}")
                disk.after_power_loss(images[-1], early=early)

    events, _ = work(tmp_path / "first" / "out")
    expected = stages.contents(tmp_path / "first" / "out")
    moments |= set(random.Random(stage).sample(range(1, events), MOMENTS[full] // 2 + 1))
    work(tmp_path / "again" / "out")
    assert len(images) == 2 * len(moments)
    for image in images:
        assert stages.run(stage, inputs, image / "out") == 0, image
        assert stages.contents(image / "out") == expected, image
    end = "parameters" if stage == "train" else "manifest and shards"
    record(
        f"`{stage}` loses power",
        "what was not fsynced is lost (modelled), renames late or early; then started again",
        len(images),
        f"same {end}, byte by byte",
    )


@pytest.mark.parametrize("early", [False, True])
def test_the_model_loses_what_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, early: bool) -> None:
    """Without it the test above could not fail."""
    root = tmp_path / "root"
    root.mkdir()
    disk = Disk(root)
    with monkeypatch.context() as patch:
        disk.record(patch, lambda _: None)
        for name, synced in (("kept", True), ("lost", False)):
            with (root / f".{name}").open("w") as file:
                file.write(name)
                file.flush()
                if synced:
                    os.fsync(file.fileno())
            (root / f".{name}").replace(root / name)
        if not early:
            folder = os.open(root, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            (root / "kept").replace(root / "renamed later")
    disk.after_power_loss(tmp_path / "image", early=early)
    disk.close()
    found = {path.name: path.read_text() for path in (tmp_path / "image").iterdir()}
    assert found == {"kept": "kept", "lost": ""}
