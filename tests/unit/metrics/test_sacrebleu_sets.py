"""Test sets by the names that sacrebleu has for them, from a folder that is made up here."""

from __future__ import annotations

from pathlib import Path

import pytest
from sacrebleu.dataset import DATASETS
from sacrebleu.dataset.wmt_xml import WMTXMLDataset

from seqkd.errors import InputError
from seqkd.metrics.sacrebleu_sets import _references, sacrebleu_files


def written(folder: Path, name: str, *files: str) -> list[Path]:
    """Files of a test set in a folder like sacrebleu's."""
    (folder / name).mkdir(parents=True)
    paths = [folder / name / file for file in files]
    for path in paths:
        path.write_text("x\n")
    return paths


@pytest.mark.parametrize(
    ("name", "langpair", "files"),
    [
        ("wmt14", "en-de", ["wmt14.en-de.src", "wmt14.en-de.ref"]),
        ("wmt14/full", "en-de", ["wmt14_full.en-de.src", "wmt14_full.en-de.ref"]),
        ("wmt20", "de-en", ["wmt20.de-en.src", "wmt20.de-en.ref"]),
        ("wmt21", "en-de", ["wmt21.en-de.src", "wmt21.en-de.ref-A"]),
        ("wmt21/AC", "en-de", ["wmt21_AC.en-de.src", "wmt21_AC.en-de.ref-A", "wmt21_AC.en-de.ref-C"]),
    ],
)
def test_the_files_are_found_under_sacrebleus_names(name: str, langpair: str, files: list[str], tmp_path: Path) -> None:
    if name not in DATASETS or langpair not in DATASETS[name].langpairs:
        pytest.skip("not in this version of sacrebleu")
    there = written(tmp_path, name, *files)
    assert list(sacrebleu_files(name, langpair, folder=tmp_path)) == there


def test_the_references_are_those_that_sacrebleu_scores_against() -> None:
    """Asking a set in the XML of WMT for its files would download it, so that its choice is looked up."""
    for dataset in DATASETS.values():
        for langpair in dataset.langpairs:
            found = _references(dataset, langpair)
            if isinstance(dataset, WMTXMLDataset):
                assert found == dataset._get_langpair_allowed_refs(langpair)  # type: ignore[no-untyped-call]
            else:
                fields = [field for field in dataset.fieldnames(langpair) if field.startswith("ref")]
                assert found == fields


def test_a_file_has_the_name_that_sacrebleu_gives_it() -> None:
    for name, langpair in (("wmt14/full", "en-de"), ("wmt21", "en-de")):
        dataset = DATASETS[name]
        for field in ("src", *_references(dataset, langpair)):
            own = Path(dataset._get_txt_file_path(langpair, field))  # type: ignore[no-untyped-call]
            with pytest.raises(InputError) as caught:
                sacrebleu_files(name, langpair, folder=Path("/nowhere"))
            assert own.name in caught.value.expected
            assert own.parent == own.parents[len(Path(name).parts)] / name


def test_a_set_that_is_not_there_is_told_with_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        sacrebleu_files("wmt14", "en-de", folder=tmp_path)
    assert caught.value.what == f"sacrebleu's test set 'wmt14' (en-de) is not on this machine, in {tmp_path / 'wmt14'}"
    assert caught.value.expected == "wmt14.en-de.src, wmt14.en-de.ref"
    assert "`sacrebleu --download wmt14 --language-pair en-de`" in caught.value.hint
    assert not list(tmp_path.iterdir())
    written(tmp_path, "wmt14", "wmt14.en-de.src")
    with pytest.raises(InputError, match="not on this machine"):
        sacrebleu_files("wmt14", "en-de", folder=tmp_path)


def test_unknown_sets_and_pairs_are_told_with_near_names(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no test set 'wmt-14'") as caught:
        sacrebleu_files("wmt-14", "en-de", folder=tmp_path)
    assert "wmt14" in caught.value.expected
    with pytest.raises(InputError, match="'wmt14' has no language pair 'de-eng'") as caught:
        sacrebleu_files("wmt14", "de-eng", folder=tmp_path)
    assert "de-en" in caught.value.expected
    with pytest.raises(InputError, match="no test set '~'") as caught:
        sacrebleu_files("~", "en-de", folder=tmp_path)
    assert f"one of its {len(DATASETS)}, such as " in caught.value.expected
