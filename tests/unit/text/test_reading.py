from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqkd.errors import TextError
from seqkd.text.opening import detect_compression
from seqkd.text.reading import (
    INVALID_UTF8,
    WRONG_COLUMNS,
    RawPair,
    check_bitext,
    copy_pipes,
    read_bitext,
    read_lines,
)

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


def zstandard(text: bytes) -> bytes:
    return bytes(pa.compress(text, codec="zstd", asbytes=True))


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard,
}


@pytest.mark.parametrize("ending", COMPRESSORS)
def test_compressed_text_is_read_like_plain_text(tmp_path: Path, ending: str) -> None:
    pack = COMPRESSORS[ending]
    lines = [f"zeile {number} ä" for number in range(100_000)]
    text = "".join(f"{line}\n" for line in lines).encode()
    source, target = tmp_path / f"a.{ending}", tmp_path / "b"
    middle = len(text) // 2
    source.write_bytes(pack(text[:middle]) + pack(text[middle:]))  # in two pieces, as parallel compressors write it
    target.write_bytes(text)
    assert check_bitext(source, target) == check_bitext(target, target)
    assert [row.source for row in read_bitext(source, target)] == lines


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("damage", ["cut", "changed", "no such format"])
def test_damaged_compressed_text_is_one_message(tmp_path: Path, ending: str, damage: str) -> None:
    data = bytearray(COMPRESSORS[ending](bytes(random.Random(1).choices(b"abcdef \n", k=20_000))))
    if damage == "cut":
        del data[-20:]
    elif damage == "changed":
        data[20:60] = bytes(40)
    else:
        data = bytearray(b"plain text\n")
    path = tmp_path / f"text.{ending}"
    path.write_bytes(data)
    with pytest.raises(TextError, match=rf"text\.{ending}: cannot be decompressed"):
        check_bitext(path, None)
    with pytest.raises(TextError, match=rf"text\.{ending}: cannot be decompressed"):
        list(read_bitext(path, None))


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("wrong", ["", ".txt", ".gz", ".xz", ".zst", ".bz2"])
def test_text_compressed_under_another_name_is_told_the_format(tmp_path: Path, ending: str, wrong: str) -> None:
    if wrong == f".{ending}":
        return
    path = tmp_path / f"text{wrong}"
    path.write_bytes(COMPRESSORS[ending](b"text\n"))
    names = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "Zstandard"}
    with pytest.raises(TextError, match=rf"contains {names[ending]} data[^$]*ends with \.{ending}"):
        check_bitext(path, None)


@pytest.mark.parametrize(
    ("name", "head"), [("zip", b"PK\3\4rest"), ("LZ4", b"\4\x22\x4d\x18rest"), ("7-Zip", b"7z\xbc\xaf\x27\x1crest")]
)
def test_a_format_that_is_not_read_is_named(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / "text"
    path.write_bytes(head)
    with pytest.raises(TextError, match=f"contains {name} data[^$]*decompress it first"):
        check_bitext(path, None)


@given(st.text(max_size=20))
def test_no_text_is_taken_for_a_compressed_file(text: str) -> None:
    assert detect_compression(text.encode()[:10]) is None or text.startswith(("BZh", "PK\3\4"))


@pytest.mark.parametrize("ending", ["", ".gz", ".bz2", ".xz", ".zst"])
def test_a_byte_order_mark_is_not_text(tmp_path: Path, ending: str) -> None:
    plain, marked = tmp_path / "plain", tmp_path / f"marked{ending}"
    plain.write_bytes(b"one\n\xef\xbb\xbftwo\n")
    data = b"\xef\xbb\xbf" + plain.read_bytes()
    marked.write_bytes(COMPRESSORS[ending[1:]](data) if ending else data)
    assert [row.source for row in read_bitext(marked, plain)] == ["one", "\ufefftwo"]  # elsewhere it stays
    assert check_bitext(marked, None) == check_bitext(plain, None)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        TextError, match=r"pipe: is a pipe or a device, which can be read only once[^$]*to a file first"
    ):
        check_bitext(tmp_path / "pipe", None)
    with pytest.raises(TextError, match="only once"):
        list(read_lines([tmp_path / "pipe"]))


@pytest.mark.parametrize("order", [1, -1])
def test_pipes_are_copied_at_the_same_time(tmp_path: Path, order: int) -> None:
    """One process writes both, more than a pipe holds: whoever read one of them to its end would wait for ever."""
    source, target = tmp_path / "source", tmp_path / "target"
    os.mkfifo(source)
    os.mkfifo(target)
    lines = [f"{number} {'x' * 100}" for number in range(5000)]

    def write() -> None:
        first, second = (source, target)[::order]
        with first.open("w") as left, second.open("w") as right:
            for line in lines:
                print(line, file=left)
                print(line, file=right)

    writer = Thread(target=write, daemon=True)
    writer.start()
    with copy_pipes(source, target) as files:
        assert check_bitext(*files).rows == len(lines)
        assert [row.target for row in read_bitext(*files)] == lines
    writer.join()
    assert not any(file.exists() for file in files)


def test_files_are_not_copied_and_messages_name_the_pipe(tmp_path: Path) -> None:
    source, target = files(tmp_path, b"a\nb\n", b"a\n")
    with copy_pipes(source, target) as found:
        assert found == (source, target)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = Thread(target=lambda: pipe.write_bytes(b"a\nb\nc\n"), daemon=True)
    writer.start()
    with pytest.raises(TextError, match="different numbers of lines") as caught, copy_pipes(pipe, target) as found:
        check_bitext(*found)
    writer.join()
    assert f"{pipe} has 3, {target} has 1" in str(caught.value)


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


def test_a_nul_byte_is_a_problem_of_its_row(tmp_path: Path) -> None:
    source, target = files(tmp_path, b"a\nb\nc\0d\ne\n", b"\0a\nb\nc\nd\n")
    assert check_bitext(source, target).rows == 4
    rows = [(1, None, "NUL byte"), (2, "b", None), (3, None, "NUL byte"), (4, "e", None)]
    assert [(row.line, row.source, row.problem) for row in read_bitext(source, target)] == rows
    assert [row.problem for row in read_lines([source])] == [None, None, "NUL byte", None]
    both = tmp_path / "both.tsv"
    both.write_bytes(b"a\tb\nc\0\td\n")
    assert [row.problem for row in read_bitext(both, None)] == [None, "NUL byte"]


@given(st.lists(st.sampled_from([b"a", b"\0", b"b\0\0c", b"long " * 9]), min_size=1, max_size=9))
def test_a_file_is_binary_if_most_of_its_lines_hold_nul_bytes(lines: list[bytes]) -> None:
    bad = sum(b"\0" in line for line in lines)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text"
        path.write_bytes(b"\n".join(lines) + b"\n")
        if 2 * bad > len(lines):
            with pytest.raises(TextError, match="binary"):
                check_bitext(path, None)
        else:
            assert check_bitext(path, None).rows == len(lines)


def test_a_binary_file_is_refused_with_its_line(tmp_path: Path) -> None:
    source, target = files(tmp_path, b"a\nb\nc\0d\n\0\ne\0", b"a\nb\nc\nd\ne")
    with pytest.raises(TextError, match=r"line 3: is a binary file"):
        check_bitext(source, target)
    source.write_bytes("text\n".encode("utf-16"))
    with pytest.raises(TextError, match="UTF-16"):
        check_bitext(source, None)


def test_gzip_without_its_name_is_told(tmp_path: Path) -> None:
    path = tmp_path / "packed"
    path.write_bytes(gzip.compress(b"text\n", mtime=0))
    with pytest.raises(TextError, match=r"contains gzip data\n.*\n.*ends with \.gz"):
        check_bitext(path, None)


def test_line_numbers_go_on_over_blocks(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"abc\nde\nfg\0hij\0kl\n\0\n\0")
    with pytest.raises(TextError, match="line 3:"):
        check_bitext(path, None, block=4)
    path.write_bytes(b"abc\nde\nfg\0hij\0kl\n\0\n")  # two of four lines
    assert check_bitext(path, None, block=4).rows == 4
    path.write_bytes(b"abc\nde\nfghijkl\n")
    assert check_bitext(path, None, block=4).rows == 3


@pytest.mark.parametrize("name", ["empty", "empty.gz"])
def test_an_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"", mtime=0) if name.endswith("gz") else b"")
    with pytest.raises(TextError, match="the corpus is empty"):
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
