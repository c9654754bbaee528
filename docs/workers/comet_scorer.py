"""A scorer: COMET. Its environment needs `pip install unbabel-comet`; the argument is the name of a COMET model.

In a pipeline file:

    rerank = { type = "worker", command = ["comet/bin/python", "docs/workers/comet_scorer.py",
               "Unbabel/wmt22-comet-da"], name = "comet", version = "wmt22-comet-da", reference = true, batch = 64 }

A model without references, such as Unbabel/wmt22-cometkiwi-da, goes without `reference`.
"""

import json
import sys

answers, sys.stdout = sys.stdout, sys.stderr  # messages of libraries must not come between the answers

from comet import download_model, load_from_checkpoint  # noqa: E402

model = load_from_checkpoint(download_model(sys.argv[1]))

rows = []
for line in sys.stdin:
    rows.append(json.loads(line))
    if rows[-1]["left"]:  # further rows of this request follow
        continue
    pairs = [
        {"src": row["source"], "mt": text, **({"ref": row["reference"]} if "reference" in row else {})}
        for row in rows
        for text in row["hypotheses"]
    ]
    scores = iter(model.predict(pairs, batch_size=64, gpus=0, progress_bar=False).scores)  # gpus=1 with a GPU
    for row in rows:
        answer = {"id": row["id"], "scores": [float(next(scores)) for _ in row["hypotheses"]]}
        print(json.dumps(answer), file=answers)
    answers.flush()
    rows = []
