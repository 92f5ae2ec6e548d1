"""Entries: every mistake is one sentence that names file, entry and key; a table comes back as it went in."""

import json
import re

import pytest

from reidgen import entries
from reidgen.entries import Archive, Dataset, check_name, parse, spelled_out
from reidgen.errors import DataError

GOOD = {"pattern": r"(?P<pid>\d+)_c(?P<camid>\d)\.jpg"}
HALVES = {"query": "q", "gallery": "g"}
LISTED = {"folders": {"train": "a", **HALVES}, "lists": {"train": "l.txt", "query": "l.csv", "gallery": "l.mat"}}
FULL = GOOD | {
    "title": "Mine",
    "status": "request",
    "family": "ours",
    "archives": [{"file": "a.zip", "urls": ["https://a.b/c.zip"], "md5": "0" * 32}, {"file": "b.mat"}],
    "known_as": ["Mine", "mine-1"],
    "folders": {"train": ["a", "b|c"], "query": "q", "gallery": "g"},
    "lists": {"train": ["one.txt", "two.txt"]},
    "skip": r"a/0\d+\.jpg",
    "cameras": {"a": 1, "b": 1},
    "junk": -1,
    "distractors": [0],
    "apart": True,
    "counts": {"train": [3, 9, 2], "query": [3, 5], "gallery": 4, "all": [7, 30]},
    "splits": 10,
    "test_identities": 2,
    "both_directions": True,
    "partitions": "halves.mat",
    "forms": [
        {"lists": {}, "pattern": r"(?P<pid>\d+)(?P<camid>)"},
        {"folders": {"test": "."}, "apart": False, "lists": {}},
    ],
}


def test_a_table_comes_back_as_it_went_in() -> None:
    dataset = parse("mine", FULL, where="here")
    assert dataset.archives[0] == Archive(file="a.zip", urls=("https://a.b/c.zip",), md5="0" * 32)
    assert dataset.folders == {"train": ("a", "b|c"), "query": ("q",), "gallery": ("g",)}
    assert dataset.counts == {"train": (3, 9, 2), "query": (3, 5), "gallery": (4,), "all": (7, 30)}
    assert (dataset.junk, dataset.distractors, dataset.apart) == ((-1,), (0,), True)
    assert parse("mine", dataset.table(), where="again") == dataset
    assert parse("mine", json.loads(json.dumps(dataset.table())), where="from a manifest") == dataset
    assert "title" not in parse("mine", GOOD, where="here").table()


def test_variants_are_the_entry_with_some_keys_changed() -> None:
    whole, first, second = parse("mine", FULL, where="here").variants()
    assert whole.forms == first.forms == second.forms == ()
    assert whole.lists == {"train": ("one.txt", "two.txt")} and first.lists == {} == second.lists
    assert first.folders == whole.folders and second.folders == {"test": (".",)}
    assert (first.pattern, second.pattern) == (r"(?P<pid>\d+)(?P<camid>)", GOOD["pattern"])
    assert first.counts == second.counts == whole.counts


def test_like_fills_in_what_a_table_does_not_say() -> None:
    tables = {"a": {"pattern": "x", "title": "A"}, "b": {"like": "a", "title": "B"}, "c": {"like": "b", "junk": 1}}
    assert spelled_out(tables)["c"] == {"pattern": "x", "title": "B", "junk": 1}
    assert tables["b"] == {"like": "a", "title": "B"}
    for name in ("nobody", "z", 3):
        with pytest.raises(DataError, match=r"here: like = .* should name an entry above it"):
            parse("y", spelled_out({"y": GOOD | {"like": name}, "z": GOOD})["y"], where="here")


@pytest.mark.parametrize(
    ("pattern", "path", "names"),
    [
        (r"(?P<pid>\d+)_(?P<camid>\d)\.png", "a/b/12_3.png", ("12", "3")),
        (r"(?P<pid>[^/]+)/(?P<camid>\d)\.png", "a/b/3.png", ("b", "3")),
        (r"P(?P<pair>\d)/cam(?P<camid>\d)/(?P<pid>\d+)_\d\.png", "x/P5/cam2/017_1.png", ("5-017", "5-2")),
        (r"v(?P<camid>\d)\.(?P<pid>\d)/(?P<pid2>\d+)_c(?P<camid2>\d+)\.jpg", "v3.1/33_c02.jpg", ("1-33", "3-02")),
        (r"p(?P<pid>\d+)_.*", "p7_s1.jpg", ("7", "1")),
        (r"(?P<pid>\d+)_.*", "x_7.jpg", None),
    ],
)
def test_match_reads_person_and_camera(pattern: str, path: str, names: tuple[str, str] | None) -> None:
    assert Dataset(name="x", pattern=pattern).match(path) == names


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ({}, "the key 'pattern' is missing"),
        (GOOD | {"titel": "x"}, "unknown key 'titel'; did you mean 'title'?"),
        (GOOD | {"title": 3}, "title = 3 should be a text"),
        (GOOD | {"status": "free"}, "status = 'free': should be one of open,"),
        (GOOD | {"splits": True, "test_identities": 1}, "splits = True should be a number"),
        (GOOD | {"splits": 0}, "splits = 0: should be a number from 1"),
        (GOOD | {"splits": 10}, "splits and test_identities come together"),
        (GOOD | {"splits": 2, "test_identities": -1}, "test_identities = -1: should be a number, 0 or more"),
        (GOOD | {"junk": "a"}, "junk = 'a' should be a number"),
        (GOOD | {"query_cameras": ["a"]}, "query_cameras = 'a' should be a number"),
        (GOOD | {"apart": 1}, "apart = 1 should be true or false"),
        (GOOD | {"apart": True}, "apart = True: needs a train and a test part"),
        (GOOD | {"folders": {}}, "folders = {}: the parts are train, query, gallery"),
        (GOOD | {"folders": "."}, "folders = '.' should be a table"),
        (GOOD | {"folders": {"train": 1}}, "folders.train = 1 should be a text"),
        (GOOD | {"folders": {"train": []}}, "folders = {'train': ()}: the parts are"),
        (GOOD | {"folders": {"training": "a"}}, "the parts are train, query, gallery, or test"),
        (GOOD | {"folders": {"query": "a"}}, "give both query and gallery, or test"),
        (GOOD | {"folders": {**HALVES, "test": "c"}}, "give query and gallery, or test, but not both"),
        (GOOD | {"folders": {"train": "../a"}}, "should be paths below the image root"),
        (GOOD | {"folders": {"train": "a|/b"}}, "should be paths below the image root"),
        (GOOD | {"lists": {"train": "a.txt"}}, "lists are for parts of folders: test"),
        (GOOD | {"lists": {"test": "../a.txt"}}, "should be paths below the image root"),
        (GOOD | {"partitions": "/a.mat"}, "partitions = '/a.mat': should be a path below the image root"),
        (GOOD | {"folders": {"train": "a"}, "query_cameras": [1]}, "query_cameras = (1,): works on the folder test"),
        (GOOD | {"single_shot": "both"}, 'single_shot = \'both\': should be "sides" or "gallery"'),
        (GOOD | {"folders": HALVES, "single_shot": "sides"}, "single_shot = 'sides': works on the folder test"),
        (GOOD | {"counts": {"train": []}}, "counts = {'train': ()}: should be like { train = [751, 12936, 6] }"),
        (GOOD | {"counts": {"train": [1, 2, 3, 4]}}, "identities, images, cameras"),
        (GOOD | {"counts": {"train": [-1]}}, "identities, images, cameras"),
        (GOOD | {"counts": {"test": [1, 2]}}, "the parts are train, query, gallery, and all of them"),
        (GOOD | {"counts": {"all": [-1]}}, "identities, images, cameras"),
        (GOOD | {"cameras": {"a": "b"}}, "cameras.a = 'b' should be a number"),
        (GOOD | {"known_as": ["a/b"]}, "known_as = ('a/b',): should be names of folders"),
        (GOOD | {"archives": "a.zip"}, "archives = 'a.zip' should be a table"),
        (GOOD | {"archives": {"url": "a"}}, "archives: unknown key 'url'; did you mean 'urls'?"),
        (GOOD | {"archives": {"md5": "0" * 32}}, "archives: the key 'file' is missing"),
        (GOOD | {"archives": {"file": "../a.zip"}}, "archives: file = '../a.zip': should be the name of a file"),
        (
            GOOD | {"archives": {"file": "a", "md5": "0" * 31}},
            "archives: md5 = '0000000000000000000000000000000': should be 32 digits",
        ),
        (
            GOOD | {"archives": {"file": "a", "urls": ["a.b/c"]}},
            "archives: urls = 'a.b/c': should be an address that begins with http",
        ),
        (GOOD | {"forms": {"forms": []}}, "forms[0] cannot have forms itself"),
        (GOOD | {"forms": [{}, {"patern": "x"}]}, "forms[1]: unknown key 'patern'; did you mean 'pattern'?"),
        (GOOD | {"forms": {"folders": {"query": "a"}}}, "forms[0]: folders = {'query': ('a',)}: give both"),
        ({"pattern": "(?P<pid>"}, "pattern = '(?P<pid>': is no regular expression"),
        (GOOD | {"skip": "("}, "skip = '(': is no regular expression"),
        ({"pattern": ".{1,99999999999}"}, "pattern = '.{1,99999999999}': is no regular expression"),
        (GOOD | {"skip": "(" * 5000 + ")" * 5000}, "is no regular expression"),
        (GOOD | {"title": ["x" * 1000] * 9}, "x... should be a text"),
        (GOOD | {"archives": {"file": "a", "urls": ["http://[::1"]}}, "should be an address"),
        ({"pattern": r"(?P<pid>\d+)"}, "lacks the group camid; write for example (?P<pid>"),
        ({"pattern": ".*"}, "lacks the groups camid and pid"),
        ({"pattern": ".*"} | LISTED, "lacks the group camid; write for example (?P<pid>"),
        (7, "expected a table, found 7"),
    ],
)
def test_every_mistake_names_file_entry_and_key(entry: object, sentence: str) -> None:
    with pytest.raises(DataError, match=re.escape(sentence)) as caught:
        parse("mine", entry, where="datasets.toml: [mine]")
    assert str(caught.value).startswith("datasets.toml: [mine]: ") and "\n" not in str(caught.value)


def test_patterns_need_no_group_that_nobody_reads() -> None:
    parse("mine", {"pattern": r"(?P<pid>\d+).*", "folders": {"train": "."}}, where="trained on only")
    parse("mine", {"pattern": r"(?P<pid>\d+).*", "single_shot": "sides"}, where="sides stand for cameras")
    parse("mine", {"pattern": r".*_(?P<camid>\d+)"} | LISTED, where="lists name the people")
    parse("mine", {"pattern": ".*", "lists": {"test": "mine.csv"}}, where="a table names both")


@pytest.mark.parametrize("name", ["synth", "protocols", "market-all", "a+b", "A", "", "../x", "a b"])
def test_names_that_no_folder_or_source_can_have(name: str) -> None:
    with pytest.raises(DataError, match="cannot name a data set"):
        parse(name, GOOD, where="here")
    check_name("market-alley")


@pytest.mark.parametrize("key", ["pattern", "skip"])
def test_a_catastrophic_pattern_has_a_time_limit(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its time would double with every letter."""
    monkeypatch.setattr(entries, "PATIENCE", 0.05)
    dataset = parse("mine", GOOD | {key: r"(?P<pid>(a+)+)(?P<camid>\d)_c\d"}, where="here")
    act = dataset.match if key == "pattern" else dataset.skips
    with pytest.raises(DataError, match=f"mine: {key} = .* takes too long on names such as 'a*!'; write it without"):
        act("a" * 60 + "!")
    assert Dataset(name="x", pattern=GOOD["pattern"]).match("1_c2.jpg") == ("1", "2")


def test_odd_patterns_are_read_without_a_warning() -> None:
    parse("mine", {"pattern": r"(?P<pid>[[a]\d+)_c(?P<camid>\d)"}, where="here")
