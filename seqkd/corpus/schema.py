"""The columns of each kind of Arrow folder."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

CORPUS_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("source", pa.string()),
        ("target", pa.string()),
        ("source_ids", pa.list_(pa.int32())),
        ("target_ids", pa.list_(pa.int32())),
        ("score", pa.float32()),
        ("rule", pa.string()),
        ("origin", pa.string()),
        ("weight", pa.float32()),
        ("further_references", pa.list_(pa.string())),
        ("source_row", pa.int64()),
        ("rival", pa.string()),
        ("rival_ids", pa.list_(pa.int32())),
        ("rival_margin", pa.float32()),
    ]
)
"""A corpus, gold or distilled. The last nine columns are optional.

`source_row` joins data sets that share sources: it is the id of the first row of another data set with the same source,
or null if that data set has no such row.
Where rows have weights, several may be hypotheses of one row: see `seqkd.corpus.row_ids` for what their ids say.
In training text with several targets for each source, `source_row` is the id of the first row with the same source.
A test set with several references has the first one as `target` and the others as `further_references`.
`rival` is a worse hypothesis that the target is to be preferred to, and `rival_margin` the sentence BLEU of the target,
0 to 1, minus that of the rival. A row without such a hypothesis has its target as the rival, and the margin 0.
"""

KBEST_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("source_ids", pa.list_(pa.int32())),
        (
            "hypotheses",
            pa.list_(
                pa.struct(
                    [
                        ("ids", pa.list_(pa.int32())),
                        ("text", pa.string()),
                        ("score", pa.float32()),
                        ("logprob", pa.float32()),
                        ("ended", pa.string()),
                    ]
                )
            ),
        ),
    ]
)
"""K-best lists, best hypothesis first. `ids` contains no special ids; `ended` is "eos", "max_length" or "unknown".

The score and the log-probability of a hypothesis are null if its source gives none. A row that could not be decoded has
an empty list; the manifest counts such rows by reason, and rejected.tsv lists them.
"""

SOFT_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("target_ids", pa.list_(pa.int32())),
        ("sizes", pa.list_(pa.int32())),
        ("entries", pa.large_binary()),
        ("spans", pa.list_(pa.float16())),
        ("tail_logprob", pa.list_(pa.float16())),
    ]
)
"""The distributions of a teacher by position: the k most probable tokens and the log-probability of all others.

`sizes` has the number of stored tokens, and `entries` the packed tokens and probabilities (`seqkd.corpus.soft`).
"""

SOFT_SCHEMA_1 = pa.schema(
    [
        ("id", pa.int64()),
        ("target_ids", pa.list_(pa.int32())),
        ("topk_ids", pa.list_(pa.list_(pa.int32()))),
        ("topk_logprobs", pa.list_(pa.list_(pa.float16()))),
        ("tail_logprob", pa.list_(pa.float16())),
    ]
)
"""The first version of soft targets, which is only read."""

KINDS: dict[str, pa.Schema] = {"corpus": CORPUS_SCHEMA, "kbest": KBEST_SCHEMA, "soft": SOFT_SCHEMA}
EARLIER: dict[str, pa.Schema] = {"soft": SOFT_SCHEMA_1}
COMPRESSED = frozenset({"kbest", "soft"})  # kinds whose shards are compressed; the others are read as they lie there
LOOKED_UP = frozenset({"soft"})  # compressed kinds of which a reader needs single rows, in any order
RIVALS = ("rival", "rival_ids", "rival_margin")
OPTIONAL = frozenset({"score", "rule", "origin", "weight", "further_references", "source_row", *RIVALS})
NULLABLE = frozenset({"score", "logprob"})  # of a hypothesis

_OTHER_SIDE = {"source": "target", "target": "source", "source_ids": "target_ids", "target_ids": "source_ids"}


def exchange_sides(table: pa.Table) -> pa.Table:
    """Exchange source and target of a corpus table without copying. The order of the columns stays the same."""
    return table.rename_columns([_OTHER_SIDE.get(name, name) for name in table.column_names]).select(table.column_names)


def required_columns(kind: str) -> list[str]:
    """Return the columns that every shard of `kind` has."""
    return [name for name in KINDS[kind].names if name not in OPTIONAL]


def kind_of(columns: list[str]) -> str:
    """Return the kind of a table with these columns.

    Raises:
        ValueError: No kind has these columns: one is missing, or one is unknown.
    """
    for kind, schema in KINDS.items():
        if set(required_columns(kind)) <= set(columns) <= set(schema.names) and len(set(columns)) == len(columns):
            return kind
    known = "; ".join(f"{kind}: {', '.join(schema.names)}" for kind, schema in KINDS.items())
    raise ValueError(f"no kind has columns {', '.join(columns)} ({known}; optional: {', '.join(sorted(OPTIONAL))})")


def fits(schema: pa.Schema, kind: str) -> bool:
    """Whether a schema is that of `kind`, with or without the optional columns, or that of an earlier version."""
    if kind in EARLIER and schema.equals(EARLIER[kind]):
        return True
    return set(required_columns(kind)) <= set(schema.names) and all(field in KINDS[kind] for field in schema)


def conform(table: pa.Table) -> pa.Table:
    """Convert a table to the column order and types of its kind, without metadata and with one chunk a column.

    Raises:
        ValueError: No kind has the columns, a type cannot be converted, or a required column contains a null.
    """
    kind = kind_of(table.column_names)
    fields = [field for field in KINDS[kind] if field.name in table.column_names]
    try:
        table = table.select([field.name for field in fields]).cast(pa.schema(fields))
    except pa.ArrowException as error:
        raise ValueError(f"a column does not have its type in a {kind} table: {error}") from error
    for name in required_columns(kind):
        if table.column(name).null_count:
            raise ValueError(f"column {name} contains {table.column(name).null_count} nulls")
    # A copy by `take` makes equal rows equal bytes: it drops the hidden contents of slices, chunks and null slots.
    return table.take(np.arange(table.num_rows)).combine_chunks()
