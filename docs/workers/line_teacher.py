"""A teacher: any program that reads a sentence on each line and writes its translation on the same line.

Such programs are `seqkd translate`, Marian's `marian-decoder`, Apertium, and most scripts around a service. They must
write the translations of the lines that they have read before more lines arrive. In a pipeline file:

    [teacher]
    source = { command = ["{python}", "docs/workers/line_teacher.py", "./translate.sh", "--fast"], name = "mine" }

The arguments are the program and its own arguments.
"""

import json
import subprocess
import sys
import threading

program = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def write(lines):
    """Write in a thread of its own: a program may fill the pipe of its output before it has read everything."""
    program.stdin.write("".join(lines).encode())
    program.stdin.flush()


rows = []
for line in sys.stdin:
    rows.append(json.loads(line))
    if rows[-1]["left"]:  # further rows of this request follow
        continue
    lines = [" ".join(row["source"].split()) + "\n" for row in rows]
    writing = threading.Thread(target=write, args=(lines,), daemon=True)
    writing.start()
    for row in rows:
        answer = program.stdout.readline().decode()
        if not answer.endswith("\n"):
            sys.exit(f"the program ended with exit code {program.wait()} before it translated row {row['id']}")
        text = answer.strip()
        print(json.dumps({"id": row["id"], "hypotheses": [{"text": text}] if text else []}))
    writing.join()
    sys.stdout.flush()
    rows = []
