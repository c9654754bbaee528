"""The package in tests/plugins, as a Python process finds it once pip has installed it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PLUGINS = ROOT / "tests" / "plugins"


def environment(folder: Path) -> dict[str, str]:
    """The environment of a process that has the package installed, whether or not this one has.

    Args:
        folder: Where to write what pip would leave in site-packages.
    """
    project = tomllib.loads((PLUGINS / "pyproject.toml").read_text())["project"]
    there = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    there.mkdir(parents=True)
    (there / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in project["entry-points"].items()
    ]
    (there / "entry_points.txt").write_text("\n".join(groups))
    path = os.pathsep.join(map(str, (ROOT, PLUGINS, folder)))
    return os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
