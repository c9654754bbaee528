"""A teacher: a CTranslate2 model folder with `source.spm` and `target.spm`, SentencePiece models, beside its weights.

Its environment needs `pip install ctranslate2 sentencepiece`. In a pipeline file:

    [teacher]
    source = { command = ["ct2/bin/python", "docs/workers/ctranslate2_teacher.py", "models/ct2", "5"],
               name = "opus-ct2", version = "1", batch = 256, parallel = 2 }

The second argument is the beam, which is also the number of translations.
"""

import json
import sys

import ctranslate2
import sentencepiece

folder, beam = sys.argv[1], int(sys.argv[2])
translator = ctranslate2.Translator(folder, device="auto", inter_threads=1)
source = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/source.spm")
target = sentencepiece.SentencePieceProcessor(model_file=f"{folder}/target.spm")

rows = []
for line in sys.stdin:
    rows.append(json.loads(line))
    if rows[-1]["left"]:  # further rows of this request follow
        continue
    pieces = [[*source.encode(row["source"], out_type=str), "</s>"] for row in rows]
    found = translator.translate_batch(
        pieces, beam_size=beam, num_hypotheses=beam, max_batch_size=4096, batch_type="tokens", return_scores=True
    )
    for row, result in zip(rows, found, strict=True):
        pairs = zip(result.hypotheses, result.scores, strict=True)
        answer = {"id": row["id"], "hypotheses": [{"text": target.decode(one), "score": score} for one, score in pairs]}
        print(json.dumps(answer))
    sys.stdout.flush()
    rows = []
