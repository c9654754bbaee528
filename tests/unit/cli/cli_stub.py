"""Runs `seqkd select`, whose stage the fixture `stage` puts a stand-in in the place of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from seqkd.cli.main import main

STAGES = ("prepare", "train", "distill", "select", "evaluate", "report")

Run = Callable[..., None]


def failing(error: BaseException) -> Run:
    def run(*_: Any, **__: Any) -> None:
        raise error

    return run


def call(config: Path, *words: str) -> int:
    return main(["select", "--config", str(config), "--out", str(config.with_name("out")), *words])
