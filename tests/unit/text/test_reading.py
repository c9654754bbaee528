from __future__ import annotations

import gzip
import hashlib
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.errors import TextError
from seqkd.text.reading import INVALID_UTF8, WRONG_COLUMNS, RawPair, check_bitext, read_bitext

LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n\r\0\t")), min_size=1)


def files(folder: Path, source: bytes, target: bytes) -> tuple[Path, Path]:
    left, right = folder / "text.src", folder / "text.tgt"
    left.write_bytes(source)
    right.write_bytes(target)
    return left, right


def test_rows_come_with_line_numbers_from_1(tmp_path: Path) -> None:
    source, target = files(tmp_path, b"one\ntwo\n", b"eins\nzwei\n")
    assert list(read_bitext(source, target)) == [RawPair(1, "one", "eins", None), RawPair(2, "two", "zwei", None)]


def test_a_last_line_needs_no_line_end(tmp_path: Path) -> None:
    source, target = files(tmp_path, b"one\ntwo", b"eins\nzwei\n")
    assert [row.source for row in read_bitext(source, target)] == ["one", "two"]
    assert check_bitext(source, target).rows == 2


def test_only_newlines_end_a_line_and_only_they_are_stripped(tmp_path: Path) -> None:
    text = " a\u2028b\u0085c\x0bd\x0ce\x1cf\rg \t"
    source, target = files(tmp_path, f"{text}\r\nx\n".encode(), b"y\nz\n")
    assert [row.source for row in read_bitext(source, target)] == [text, "x"]
    assert check_bitext(source, target).rows == 2


@given(lines=LINES)
def test_what_was_written_is_read_back(lines: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target = files(Path(folder), "".join(f"{line}\n" for line in lines).encode(), b"x\n" * len(lines))
        assert [row.source for row in read_bitext(source, target)] == lines
        assert check_bitext(source, target).rows == len(lines)


def test_gzip_by_name_and_in_any_mixture(tmp_path: Path) -> None:
    source, target = tmp_path / "a.gz", tmp_path / "b"
    source.write_bytes(gzip.compress("ä\n".encode()) + gzip.compress(b"second\n", mtime=0))
    target.write_bytes(b"x\ny\n")
    assert [(row.source, row.target) for row in read_bitext(source, target)] == [("ä", "x"), ("second", "y")]
    assert check_bitext(source, target).digests[0] == hashlib.sha256("ä\nsecond\n".encode()).hexdigest()


def test_tsv_has_two_columns(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"one\teins\nlonely\na\tb\tc\n\t\nbad \xff\tx\n")
    assert list(read_bitext(path, None)) == [
        RawPair(1, "one", "eins", None),
        RawPair(2, None, None, WRONG_COLUMNS),
        RawPair(3, None, None, WRONG_COLUMNS),
        RawPair(4, "", "", None),
        RawPair(5, None, None, INVALID_UTF8),
    ]
    assert check_bitext(path, None).rows == 5


@pytest.mark.parametrize(
    ("source", "target"), [(b"good\n\xc3\xa9t\xc3\n", b"a\nb\n"), (b"a\nb\n", b"good\n\xe9t\xe9\n")]
)
def test_invalid_utf8_is_told_per_row(tmp_path: Path, source: bytes, target: bytes) -> None:
    rows = list(read_bitext(*files(tmp_path, source, target)))
    assert [row.problem for row in rows] == [None, INVALID_UTF8]
    assert rows[1].source is rows[1].target is None


@pytest.mark.parametrize("longer", ["source", "target"])
def test_unequal_line_counts_name_both(tmp_path: Path, longer: str) -> None:
    texts = {"source": b"a\nb\n", "target": b"a\nb\n"}
    texts[longer] = b"a\n" * 1234
    source, target = files(tmp_path, texts["source"], texts["target"])
    with pytest.raises(TextError, match=r"1,234") as caught:
        check_bitext(source, target)
    assert f"{source} has {'1,234' if longer == 'source' else '2'}" in str(caught.value)
    assert f"{target} has {'1,234' if longer == 'target' else '2'}" in str(caught.value)
    with pytest.raises(TextError, match=r"1,234"):
        list(read_bitext(source, target))


def test_a_binary_file_is_refused_with_its_line(tmp_path: Path) -> None:
    source, target = files(tmp_path, b"a\nb\nc\0d\n", b"a\nb\nc\n")
    with pytest.raises(TextError, match=r"line 3: a binary file"):
        check_bitext(source, target)
    source.write_bytes("text\n".encode("utf-16"))
    with pytest.raises(TextError, match="UTF-16"):
        check_bitext(source, None)


def test_gzip_without_its_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    path.write_bytes(gzip.compress(b"text\n", mtime=0))
    with pytest.raises(TextError, match=r"ends with \.gz"):
        check_bitext(path, None)


def test_line_numbers_go_on_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seqkd.text.reading._BLOCK", 4)
    path = tmp_path / "text"
    path.write_bytes(b"abc\nde\nfghijkl\n\0")
    with pytest.raises(TextError, match="line 4:"):
        check_bitext(path, None)
    path.write_bytes(b"abc\nde\nfghijkl\n")
    assert check_bitext(path, None).rows == 3


@pytest.mark.parametrize("name", ["empty", "empty.gz"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"", mtime=0) if name.endswith("gz") else b"")
    with pytest.raises(TextError, match="empty corpus"):
        check_bitext(path, None)


@pytest.mark.parametrize(
    "content", [b"no gzip at all\n", gzip.compress(b"text\n" * 1000, mtime=0)[:-12], b"\x1f\x8b\x08\x00garbage"]
)
def test_damaged_gzip_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "text.gz"
    path.write_bytes(content)
    with pytest.raises(TextError, match=r"text\.gz: cannot be decompressed"):
        check_bitext(path, None)
    with pytest.raises(TextError, match=r"text\.gz: cannot be decompressed"):
        list(read_bitext(path, None))


def test_a_missing_file_and_a_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="no such file"):
        check_bitext(tmp_path / "nowhere", None)
    with pytest.raises(TextError, match="cannot be read"):
        check_bitext(tmp_path, None)


def test_the_digest_is_that_of_the_text(tmp_path: Path) -> None:
    plain, packed = tmp_path / "a", tmp_path / "a.gz"
    plain.write_bytes(b"x\ty\n")
    packed.write_bytes(gzip.compress(b"x\ty\n", mtime=0))
    assert check_bitext(plain, None).digests == check_bitext(packed, None).digests
    assert check_bitext(plain, packed).digests == check_bitext(plain, None).digests * 2
