"""A filter: bicleaner-ai. Its environment needs `pip install bicleaner-ai`; the arguments are a model and a threshold.

In a pipeline file:

    filters = { worker = { command = ["bicleaner/bin/python", "docs/workers/bicleaner_filter.py",
                "bitextor/bicleaner-ai-full-en-de", "0.5"], name = "bicleaner", version = "en-de 0.5", batch = 5000 } }

The program loads its model for each request. Therefore `batch` is large.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

model, threshold = sys.argv[1], float(sys.argv[2])
program = str(Path(sys.executable).with_name("bicleaner-ai-classify"))  # in the environment of this Python
command = [shutil.which(program) or "bicleaner-ai-classify", "--scol", "1", "--tcol", "2", "--score_only"]
command += ["--disable_hardrules", "-", "-", model]

rows = []
for line in sys.stdin:
    rows.append(json.loads(line))
    if rows[-1]["left"]:  # further rows of this request follow
        continue
    pairs = "".join("\t".join(" ".join(row[side].split()) for side in ("source", "target")) + "\n" for row in rows)
    done = subprocess.run(command, input=pairs, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    for row, score in zip(rows, map(float, done.stdout.split()), strict=True):
        answer = {"id": row["id"], "keep": score >= threshold, "reason": "low score of bicleaner"}
        print(json.dumps(answer))
    sys.stdout.flush()
    rows = []
