"""What must not stand in the code: pickles that run programs, archives that unpack anywhere, programs from text."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "seqkd").rglob("*.py"), *(ROOT / "data").rglob("*.py")])

# Calls that run code or write where a file says, and modules that are for that alone.
RUNS = {"eval", "exec", "compile", "__import__"}
UNPACKS = {"extractall", "extract", "unpack_archive"}
MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib"}


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str, str]]:
    """Every call, with its last name and what stands before that."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                yield node, node.func.attr, ast.unparse(node.func.value)
            elif isinstance(node.func, ast.Name):
                yield node, node.func.id, ""


def unsafe(text: str) -> list[str]:
    """What of all that a program holds, each with its line."""
    found = []
    tree = ast.parse(text)
    for call, name, owner in calls(tree):
        options = {option.arg: option.value for option in call.keywords}
        plain = isinstance(options.get("weights_only"), ast.Constant) and ast.unparse(options["weights_only"]) == "True"
        loads = (owner, name) == ("torch", "load") and not plain
        unpickles = owner in ("pickle", "_pickle") and name in ("load", "loads", "Unpickler")
        numpy = owner in ("np", "numpy") and name == "load" and "allow_pickle" in options
        runs = name in RUNS and (not owner or owner == "builtins")
        yaml = owner == "yaml" and name != "safe_load"
        if loads or unpickles or numpy or runs or yaml or name in UNPACKS:
            found.append(f"line {call.lineno}: {owner}.{name}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        else:
            names = [(node.module or "").split(".")[0]]
            taken = {alias.name for alias in node.names}
            if (names == ["torch"] and "load" in taken) or (names == ["pickle"] and taken & {"load", "loads"}):
                found.append(f"line {node.lineno}: hides what is called")
        found += [f"line {node.lineno}: {name}" for name in names if name in MODULES]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_from_a_file_is_run(path: Path) -> None:
    assert unsafe(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=trusted)",
        "pickle.loads(data)",
        "from torch import load",
        "from pickle import loads",
        "np.load(path, allow_pickle=True)",
        "eval(text)",
        "tarfile.open(path).extractall(out)",
        "import marshal",
        "yaml.load(text)",
    ],
)
def test_what_the_test_finds(text: str) -> None:
    assert unsafe(text)


def test_what_is_allowed() -> None:
    assert not unsafe("import pickle\ntorch.load(path, weights_only=True)\nmodel.eval()\nre.compile(x)\njson.loads(x)")
