from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DATA = Path(__file__).parents[3] / "data"


@pytest.fixture(scope="session")
def toy() -> Iterator[dict[str, ModuleType]]:
    """The toy corpus's modules by name; they are scripts, not part of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DATA / "toy"))
        modules = {name: importlib.import_module(name) for name in ("lexicon", "grammar", "generate")}
        yield modules
        for name in modules:
            sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def fetching() -> Iterator[ModuleType]:
    """`data/multi30k/fetch.py` as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DATA / "multi30k"))
        yield importlib.import_module("fetch")
        sys.modules.pop("fetch", None)


@pytest.fixture(scope="session")
def benchmarks() -> Iterator[ModuleType]:
    """`data/benchmarks/fetch.py` as a module, with those that it imports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DATA / "benchmarks"))
        spec = importlib.util.spec_from_file_location("fetch_benchmark", DATA / "benchmarks" / "fetch.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
        for name in ("archives", "corpora", "tiny"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def koran() -> ModuleType:
    """`data/koran/fetch.py` as a module."""
    spec = importlib.util.spec_from_file_location("fetch_koran", DATA / "koran" / "fetch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def teaching() -> Iterator[ModuleType]:
    """`data/opus-mt/teacher.py` as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(DATA / "opus-mt"))
        yield importlib.import_module("teacher")
        sys.modules.pop("teacher", None)
