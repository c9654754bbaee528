from __future__ import annotations

import pyarrow as pa
import pytest

from seqkd.corpus.schema import CORPUS_SCHEMA, KINDS, conform, fits, kind_of, required_columns
from tests.unit.corpus.corpora import kbest_rows, rows


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_is_told_from_its_columns(kind: str) -> None:
    assert kind_of(KINDS[kind].names) == kind
    assert kind_of(list(reversed(required_columns(kind)))) == kind
    assert fits(KINDS[kind], kind)


@pytest.mark.parametrize("columns", [["id"], [*CORPUS_SCHEMA.names, "more"], ["id", *CORPUS_SCHEMA.names], []])
def test_other_columns_are_refused(columns: list[str]) -> None:
    with pytest.raises(ValueError, match="no kind has columns"):
        kind_of(columns)


def test_conform_orders_converts_and_drops_metadata() -> None:
    table = rows(0, 3)
    shuffled = table.select(list(reversed(table.column_names))).replace_schema_metadata({"a": "b"})
    shuffled = shuffled.set_column(shuffled.column_names.index("id"), "id", pa.array([0, 1, 2], pa.int32()))
    assert conform(shuffled).equals(table, check_metadata=True)


def test_nulls_and_wrong_types_are_refused() -> None:
    table = rows(0, 2)
    where = table.column_names.index("target")
    with pytest.raises(ValueError, match="target contains 1 nulls"):
        conform(table.set_column(where, "target", pa.array(["a", None])))
    with pytest.raises(ValueError, match="does not have its type"):
        conform(table.set_column(table.column_names.index("id"), "id", pa.array(["a", "b"])))


def test_optional_columns_may_be_null() -> None:
    table = rows(0, 2).append_column("score", pa.array([1.0, None], pa.float32()))
    assert conform(table).column("score").to_pylist() == [1.0, None]


def test_kbest_lists_may_be_empty() -> None:
    assert conform(kbest_rows(0, 3)).equals(kbest_rows(0, 3))
