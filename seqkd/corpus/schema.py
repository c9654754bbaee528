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
    ]
)
"""A corpus, gold or distilled. The last five columns are optional.

Where rows have weights, several may be hypotheses of one row: see `seqkd.corpus.row_ids` for what their ids say.
A test set with several references has the first one as `target` and the others as `further_references`.
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
"""K-best lists, best hypothesis first; `ids` hold no special ids, `ended` is "eos", "max_length" or "unknown".

A hypothesis has no score and no log-probability if its source gives none.

A row that could not be decoded has an empty list; the manifest counts such rows by reason, and rejected.tsv lists them.
"""

SOFT_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("target_ids", pa.list_(pa.int32())),
        ("topk_ids", pa.list_(pa.list_(pa.int32()))),
        ("topk_logprobs", pa.list_(pa.list_(pa.float16()))),
        ("tail_logprob", pa.list_(pa.float16())),
    ]
)
"""A teacher's distributions, position by position: its k most probable tokens and the log-mass of the rest."""

KINDS: dict[str, pa.Schema] = {"corpus": CORPUS_SCHEMA, "kbest": KBEST_SCHEMA, "soft": SOFT_SCHEMA}
PACKED = frozenset({"soft"})  # kinds whose shards are compressed; the others are read as they lie in the file
OPTIONAL = frozenset({"score", "rule", "origin", "weight", "further_references"})
NULLABLE = frozenset({"score", "logprob"})  # of a hypothesis

_OTHER_SIDE = {"source": "target", "target": "source", "source_ids": "target_ids", "target_ids": "source_ids"}


def exchanged(table: pa.Table) -> pa.Table:
    """A corpus table with source and target exchanged, columns in the same order; copies nothing."""
    return table.rename_columns([_OTHER_SIDE.get(name, name) for name in table.column_names]).select(table.column_names)


def required(kind: str) -> list[str]:
    """The columns that every shard of `kind` has."""
    return [name for name in KINDS[kind].names if name not in OPTIONAL]


def kind_of(columns: list[str]) -> str:
    """The kind that a table with these columns is of.

    Raises:
        ValueError: Of none: a column is missing, or one is there that no kind has.
    """
    for kind, schema in KINDS.items():
        if set(required(kind)) <= set(columns) <= set(schema.names) and len(set(columns)) == len(columns):
            return kind
    known = "; ".join(f"{kind}: {', '.join(schema.names)}" for kind, schema in KINDS.items())
    raise ValueError(f"columns {', '.join(columns)} are of no kind ({known}; optional: {', '.join(sorted(OPTIONAL))})")


def fits(schema: pa.Schema, kind: str) -> bool:
    """Whether a shard's schema is that of `kind`, with or without the optional columns."""
    return set(required(kind)) <= set(schema.names) and all(field in KINDS[kind] for field in schema)


def conform(table: pa.Table) -> pa.Table:
    """Bring a table to its kind's column order and types; it holds no metadata and one chunk a column afterwards.

    Raises:
        ValueError: Columns of no kind, a type that cannot be converted, or a null outside the optional columns.
    """
    kind = kind_of(table.column_names)
    fields = [field for field in KINDS[kind] if field.name in table.column_names]
    try:
        table = table.select([field.name for field in fields]).cast(pa.schema(fields))
    except pa.ArrowException as error:
        raise ValueError(f"a column is not of its type in a {kind} table: {error}") from error
    for name in required(kind):
        if table.column(name).null_count:
            raise ValueError(f"column {name} holds {table.column(name).null_count} nulls")
    # A copy by `take` is what makes equal rows equal bytes: it leaves behind what slices, chunks and null slots hide.
    return table.take(np.arange(table.num_rows)).combine_chunks()
