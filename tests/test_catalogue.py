"""The catalogue: every shipped entry is whole, and every mistake in an entry is one sentence that names it."""

import re
import tomllib
from pathlib import Path

import pytest

from reidgen.catalogue import DEFAULT_SYNTH, Dataset, expand, get_dataset, load_catalogue, parse
from reidgen.data.synthetic import DOMAINS
from reidgen.errors import DataError

SHIPPED = Path(__file__).parents[1] / "datasets.toml"
CATALOGUE = load_catalogue()
GOOD = {"pattern": r"(?P<pid>\d+)_c(?P<camid>\d)\.jpg"}
FITTING = {
    "market": [("-1_c6s3_094992_04.jpg.jpg", ("-1", "6")), ("0000_c1s6_023071_04.jpg", ("0000", "1"))],
    "pku": [("001/01_8.png", ("001", "01")), ("somewhere/114/02_1.png", ("114", "02")), ("114_2_8.png", ("114", "2"))],
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_shipped_entries_say_everything(name: str) -> None:
    dataset = CATALOGUE[name]
    assert all([dataset.title, dataset.paper, dataset.licence, dataset.get])
    assert dataset.homepage.startswith("https://") or dataset.status == "built-in"
    assert parse(name, dataset.table(), where="again") == dataset
    for path, names in FITTING.get(name, [("0012_c3s1_000001_00.jpg", ("0012", "3"))]):
        assert dataset.match(path) == names
    assert dataset.match("Thumbs.db") is None


def test_built_in_entries_are_the_domains() -> None:
    synth = {name: dataset.title for name, dataset in CATALOGUE.items() if dataset.status == "built-in"}
    assert synth == {f"synth-{name}": f"synth: {domain.title}" for name, domain in DOMAINS.items()}
    assert expand(["market", "synth", DEFAULT_SYNTH]) == ["market", *synth]
    assert DEFAULT_SYNTH in synth


def test_known_keys_are_explained_at_the_top() -> None:
    head = SHIPPED.read_text().split("\n\n[")[0]
    keys = [key for key in Dataset.__dataclass_fields__ if key != "name"]
    assert [key for key in keys if not re.search(rf"\b{key}\b", head)] == []


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({}, "the key 'pattern' is missing"),
        (GOOD | {"titel": "x"}, "unknown key 'titel'; did you mean 'title'?"),
        (GOOD | {"title": 3}, "title = 3 should be a text"),
        (GOOD | {"status": "free"}, "status = 'free' should be one of open,"),
        (GOOD | {"splits": True, "test_identities": 1}, "splits = True should be a number"),
        (GOOD | {"splits": 0}, "splits = 0 should be a number from 1"),
        (GOOD | {"splits": 10}, "splits and test_identities come together"),
        (GOOD | {"junk": -1}, "junk = -1 should be a list of numbers"),
        (GOOD | {"query_cameras": ["a"]}, "query_cameras = ['a'] should be a list of numbers"),
        (GOOD | {"folders": {}}, "folders = {} should be a table"),
        (GOOD | {"folders": {"train": 1}}, "folders = {'train': 1} should be a table"),
        (GOOD | {"folders": {"training": "a"}}, "unknown part 'training'; did you mean 'train'?"),
        (GOOD | {"folders": {"query": "a"}}, "give query and gallery, or test"),
        (GOOD | {"folders": {"query": "a", "gallery": "b", "test": "c"}}, "give query and gallery, or test"),
        (GOOD | {"folders": {"train": "../a"}}, "folders = {'train': '../a'} should be a table"),
        (GOOD | {"folders": {"train": "a"}, "query_cameras": [1]}, "query_cameras works on the folder test"),
        (GOOD | {"counts": {"train": [1]}}, "counts = {'train': [1]} should be a table"),
        (GOOD | {"counts": {"test": [1, 2]}}, "unknown part 'test'"),
        ({"pattern": "(?P<pid>"}, "is no regular expression"),
        ({"pattern": r"(?P<pid>\d+)"}, "lacks the group camid"),
        (7, "expected a table, found 7"),
    ],
)
def test_every_mistake_names_file_entry_and_key(entry: object, sentence: str) -> None:
    with pytest.raises(DataError, match=re.escape(sentence)) as caught:
        parse("mine", entry, where="datasets.toml: [mine]")
    assert str(caught.value).startswith("datasets.toml: [mine]: ")


@pytest.mark.parametrize("name", ["synth", "a+b", "A", "", "../x", "a b"])
def test_names_that_no_folder_or_source_can_have(name: str) -> None:
    with pytest.raises(DataError, match="cannot name a data set"):
        parse(name, GOOD, where="here")


def test_own_entries_add_to_the_shipped_ones(tmp_path: Path) -> None:
    own = tmp_path / "datasets.toml"
    own.write_text(SHIPPED.read_text() + "\n[mine]\npattern = '(?P<pid>[^/]+)/(?P<camid>\\d+)_.*'\n")
    assert set(load_catalogue(own)) == {*CATALOGUE, "mine"}
    assert load_catalogue(tmp_path / "none.toml") == CATALOGUE
    (tmp_path / "link.toml").symlink_to(SHIPPED)
    assert load_catalogue(tmp_path / "link.toml") == CATALOGUE


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"[market]\npattern = '(?P<pid>a)(?P<camid>b)'", r"\[market\] differs from the entry that ships"),
        (b"[mine]\npattern = 3", r"\[mine\]: pattern = 3 should be a text"),
        (
            b"[mine]\nstatus = 'built-in'\npattern = '(?P<pid>a)(?P<camid>b)'",
            r"datasets.toml: \[mine\]: status = \"built-in\" is for",
        ),
        (b"[mine", "cannot read .*datasets.toml"),
        (b"\xff\xfe", "cannot read .*datasets.toml"),
    ],
)
def test_own_file_in_error(tmp_path: Path, text: bytes, sentence: str) -> None:
    (tmp_path / "datasets.toml").write_bytes(text)
    with pytest.raises(DataError, match=sentence):
        load_catalogue(tmp_path / "datasets.toml")


def test_mistyped_name_finds_the_nearest() -> None:
    assert get_dataset("market").counts["train"] == (751, 12_936)
    with pytest.raises(DataError, match="did you mean 'market'"):
        get_dataset("markt")


def test_file_is_toml_of_tables() -> None:
    assert all(isinstance(entry, dict) for entry in tomllib.loads(SHIPPED.read_text()).values())
