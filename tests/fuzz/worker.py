"""Feed mutated files of one kind to what reads them: `python -m tests.fuzz.worker KIND FIRST COUNT FOLDER`.

Runs in a process of its own, because a library's crash takes the process with it. Writes each seed to stdout before its
file is read, and a line for each file that is answered neither with a SeqkdError nor with a result that is right.
"""

from __future__ import annotations

import faulthandler
import importlib
import resource
import sys
import traceback
from pathlib import Path

from seqkd.errors import SeqkdError
from tests.fuzz.mutations import mutated

SECONDS = 20.0  # for one file; most take a few milliseconds
MORE_MEMORY = 2 << 30  # bytes of address space, beyond what the libraries take
READERS = {
    "shard": "arrow",
    "hostile_shard": "arrow",
    "manifest": "arrow",
    "safetensors": "checkpoints",
    "model_config": "checkpoints",
    "state": "checkpoints",
    "fairseq": "checkpoints",
    "dictionary": "checkpoints",
    "sentencepiece": "texts",
    "charsmap": "texts",
    "toml": "texts",
    "text": "texts",
}


def main(kind: str, first: int, count: int, folder: Path) -> int:
    """Read `count` files, from seed `first` on; 1 if one was not answered as it should be."""
    make = getattr(importlib.import_module(f"tests.fuzz.{READERS[kind]}"), kind)
    files, read = make(folder)
    for data in files:
        read(data)  # what is not mutated is read
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MORE_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    failed = refused = 0
    for seed in range(first, first + count):
        print(f"seed {seed}", flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        data = mutated(files, seed)
        try:
            read(data)
        except SeqkdError:
            refused += 1
        except BaseException as error:
            failed += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            print(f"FAILED seed {seed}: {type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})")
    faulthandler.cancel_dump_traceback_later()
    print(f"{count} files, {refused} refused, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))
