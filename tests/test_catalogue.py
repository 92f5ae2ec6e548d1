"""The catalogue: every shipped entry is whole, agrees with the published facts, and a user's file adds to it."""

import re
import tomllib
from pathlib import Path

import pytest

from reidgen.catalogue import DEFAULT_SYNTH, expand, get_dataset, load_catalogue
from reidgen.entries import PARTS, Dataset, parse
from reidgen.errors import DataError
from reidgen.synth.domains import DOMAINS

SHIPPED = Path(__file__).parents[1] / "datasets.toml"
CATALOGUE = load_catalogue()
FITTING = {
    "market": [("-1_c6s3_094992_04.jpg.jpg", ("-1", "6")), ("0000_c1s6_023071_04.jpg", ("0000", "1"))],
    "duke": [("0005_c2_f0046985.jpg", ("0005", "2"))],
    "cuhk03-detected": [("5_049_2_10.png", ("5-049", "2"))],
    "cuhk02": [("Dataset/P3/cam2/017_1.png", ("3-017", "3-2"))],
    "cuhk01": [("campus/0001004.png", ("0001", "004"))],
    "cuhk-sysu": [("p11422_s16929_1.jpg", ("11422", "1")), ("p00001_n01_s00001_hard0.png", ("00001", "1"))],
    "msmt17-v1": [("0000/0000_000_01_0303morning_0008_0.jpg", ("0000", "01"))],
    "prid": [("single_shot/cam_b/person_0749.png", ("0749", "b"))],
    "grid": [("probe/0001_1_25004_107_32_106_221.jpeg", ("0001", "1"))],
    "viper": [("cam_a/000_45.bmp", ("000", "a"))],
    "ilids": [("Persons/0119003.jpg", ("0119", "1"))],
    "sensereid": [("test_probe/00017_1.jpg", ("00017", "1"))],
    "pku": [("001/01_8.png", ("001", "01")), ("somewhere/114/02_1.png", ("114", "02")), ("114_2_8.png", ("114", "2"))],
    "randperson": [("000000_s00_c00_f000264.jpg", ("000000", "s00_c00"))],
    "clonedperson": [("700000_s02_c00_f023389.jpg", ("700000", "02-00"))],
    "unrealperson": [("unreal_v3.1/images/333_c001_78.jpg", ("1-333", "3-001"))],
    "personx": [("0001_c12s1_09.jpg", ("0001", "12"))],
}
# part -> identities and images, and all images of all parts; from the papers and toolkits, not from the file under test
FACTS = {
    "market": ("751/12936 750/3368 751/15913", 32_217),
    "duke": ("702/16522 702/2228 1110/17661", 36_411),
    "cuhk03-np-labelled": ("767/7368 700/1400 700/5328", 14_096),
    "cuhk03-np-detected": ("767/7365 700/1400 700/5332", 14_097),
    "msmt17-v1": ("1041/32621 3060/11659 3060/82161", 126_441),
    "msmt17-v2": ("1041/32621 3060/11659 3060/82161", 126_441),
    "msmt17-v2-noval": ("1041/30248 3060/11659 3060/82161", 126_441 - 2373),
    "cuhk02": ("1816/7264", 4 * 1816),
    "cuhk-sysu": ("11934/34574", 34_574),
    "personx": ("410/9840 856/5136 856/30816", 45_792),
    "prid": ("100/100 649/649", 749),
    "viper": ("316/316 316/316", 632),
    "ilids": ("60/60 60/60", 120),
    "grid": ("125/250 125/125 126/900", 1275),
    "sensereid": ("522/1040 1717/3388", 4428),
}


@pytest.mark.parametrize("name", CATALOGUE)
def test_shipped_entries_say_everything(name: str) -> None:
    dataset = CATALOGUE[name]
    assert all([dataset.title, dataset.paper, dataset.licence, dataset.get])
    assert dataset.homepage.startswith("http") or dataset.status == "built-in"
    assert dataset.known_as or dataset.status == "built-in"
    assert parse(name, dataset.table(), where="again") == dataset
    for path, names in FITTING.get(name, []):
        assert dataset.match(path) == names
    assert dataset.match("Thumbs.db") is None


def test_every_set_of_the_field_is_there() -> None:
    names = """market market-500k duke cuhk03-np-detected cuhk03-np-labelled cuhk03-detected cuhk03-labelled cuhk02 cuhk01
        cuhk-sysu msmt17-v1 msmt17-v2 msmt17-v1-noval msmt17-v2-noval prid grid viper ilids sensereid pku randperson
        clonedperson unrealperson personx"""
    assert sorted(names.split()) == sorted(name for name, one in CATALOGUE.items() if one.status != "built-in")
    families = {name: one.family or name for name, one in CATALOGUE.items()}
    of = {family: sorted(name for name, one in families.items() if one == family) for family in set(families.values())}
    assert of["market"] == ["market", "market-500k"] and of["cuhk02"] == ["cuhk01", "cuhk02"]
    assert len(of["cuhk03"]) == len(of["msmt17"]) == 4
    assert [name for name, one in CATALOGUE.items() if one.status == "withdrawn"] == ["duke"]


@pytest.mark.parametrize("name", FACTS)
def test_counts_are_the_published_ones(name: str) -> None:
    counts = {part: one for part, one in CATALOGUE[name].counts.items() if part in PARTS}
    text, total = FACTS[name]
    assert " ".join(f"{one[0]}/{one[1]}" for one in counts.values()) == text
    assert sum(one[1] for one in counts.values()) == total


def test_what_is_drawn_from_is_counted_whole() -> None:
    """Halves and single shots have their size however little of a set is there; so all of it is counted too."""
    found = {name: one.counts["all"] for name, one in CATALOGUE.items() if "all" in one.counts}
    assert found == {
        "cuhk03-detected": (1467, 14_097),
        "cuhk03-labelled": (1467, 14_096),
        "cuhk01": (971, 3884),
        "prid": (749, 949),
        "grid": (251, 1275),
        "viper": (632, 1264),
        "ilids": (119, 476),
    }
    assert set(found) == {name for name, one in CATALOGUE.items() if one.splits > 1 or one.single_shot}


def test_checksums_are_the_published_ones() -> None:
    found = {one.file: one.md5 for dataset in CATALOGUE.values() for one in dataset.archives if one.md5}
    assert found == {
        "Market-1501-v15.09.15.zip": "65005ab7d12ec1c44de4eeafe813e68a",
        "DukeMTMC-reID.zip": "2f93496f9b516d1ee5ef51c1d5e7d601",
        "cuhk03_release.zip": "728939e58ad9f0ff53e521857dd8fb43",
        "CUHK01.zip": "e6d55c0da26d80cda210a2edeb448e98",
        "VIPeR.v1.0.zip": "1c2d9fc1cc800332567a0da25a1ce68c",
        "cuhk03_new_protocol_config_detected.mat": "27237df9b418c99ee4f82ceefa641a91",
        "cuhk03_new_protocol_config_labeled.mat": "cd0a6a651ecbbbd7b4af919e2b08c0b1",
    }


def test_what_is_not_given_freely_has_no_address() -> None:
    """Only the files of CUHK03's new protocol, which hold no images, are published by others."""
    urls = [
        url
        for dataset in CATALOGUE.values()
        if dataset.status in ("request", "withdrawn")
        for archive in dataset.archives
        if not archive.file.endswith(".mat")
        for url in archive.urls
    ]
    assert urls == []


def test_built_in_entries_are_the_domains() -> None:
    synth = {name: dataset.title for name, dataset in CATALOGUE.items() if dataset.status == "built-in"}
    assert synth == {f"synth-{name}": f"synth: {domain.title}" for name, domain in DOMAINS.items()}
    assert expand(["market", "synth", DEFAULT_SYNTH]) == ["market", *synth]
    assert DEFAULT_SYNTH in synth
    for name in synth:
        assert CATALOGUE[name].match("0012_c3s1_000001_00.jpg") == ("0012", "3")


def test_known_keys_are_explained_at_the_top() -> None:
    head = SHIPPED.read_text().split("\n\n[")[0]
    keys = [key for key in (*Dataset.__dataclass_fields__, "like") if key != "name"]
    assert [key for key in keys if not re.search(rf"^# (.*, )?{key}\b", head, re.MULTILINE)] == []


def test_own_entries_add_to_the_shipped_ones(tmp_path: Path) -> None:
    own = tmp_path / "datasets.toml"
    pattern = "pattern = '(?P<pid>[^/]+)/(?P<camid>\\d+)_.*'"
    own.write_text(f"{SHIPPED.read_text()}\n[mine]\n{pattern}\n[mine2]\nlike = 'mine'\ntitle = 'Two'\n")
    assert set(load_catalogue(own)) == {*CATALOGUE, "mine", "mine2"}
    assert load_catalogue(own)["mine2"].pattern == load_catalogue(own)["mine"].pattern
    assert load_catalogue(tmp_path / "none.toml") == CATALOGUE
    (tmp_path / "link.toml").symlink_to(SHIPPED)
    assert load_catalogue(tmp_path / "link.toml") == CATALOGUE


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"[market]\npattern = '(?P<pid>a)(?P<camid>b)'", r"\[market\] differs from the entry that ships"),
        (b"[mine]\npattern = 3", r"\[mine\]: pattern = 3 should be a text"),
        (b"[mine]\nlike = 'market'", r"\[mine\]: like = 'market' should name an entry above it in the same file"),
        (
            b"[mine]\nstatus = 'built-in'\npattern = '(?P<pid>a)(?P<camid>b)'",
            r"datasets.toml: \[mine\]: status = \"built-in\" is for",
        ),
        (b"mine = 3", r"\[mine\]: expected a table, found 3"),
        (b"[mine", "cannot read .*datasets.toml"),
        (b"\xff\xfe", "cannot read .*datasets.toml"),
    ],
)
def test_own_file_in_error(tmp_path: Path, text: bytes, sentence: str) -> None:
    (tmp_path / "datasets.toml").write_bytes(text)
    with pytest.raises(DataError, match=sentence):
        load_catalogue(tmp_path / "datasets.toml")


def test_mistyped_name_finds_the_nearest() -> None:
    assert get_dataset("market").counts["train"] == (751, 12_936, 6)
    with pytest.raises(DataError, match="did you mean 'market'"):
        get_dataset("markt")


def test_file_is_toml_of_tables() -> None:
    assert all(isinstance(entry, dict) for entry in tomllib.loads(SHIPPED.read_text()).values())


def test_a_byte_order_mark_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "datasets.toml").write_text("\ufeff[mine]\npattern = '(?P<pid>x)(?P<camid>y)'\n", encoding="utf-8")
    assert load_catalogue(tmp_path / "datasets.toml")["mine"].pattern == "(?P<pid>x)(?P<camid>y)"
