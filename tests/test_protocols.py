"""Protocols: what they say, what of them can be run, and that nothing that is trained on is ever an unseen target."""

import functools
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import layouts
import pandas as pd
import pytest

from reidgen.catalogue import family_of, load_catalogue, split_all, trained_whole, variants
from reidgen.data.batches import origins, training_images
from reidgen.data.manifest import load_index, load_prepared
from reidgen.data.manifest import tested_part as rows_tested
from reidgen.data.prepare import prepare
from reidgen.entries import Protocol
from reidgen.errors import DataError, SharedImagesError
from reidgen.evaluation import is_seen, refuse_shared_images
from reidgen.protocols import get_protocol, load_protocols, resolve
from reidgen.recipe import Recipe

SETS = load_catalogue()
PROTOCOLS = load_protocols()
NAMES = {name for one in PROTOCOLS.values() for source, targets in one.cells.items()
         for name in (*(split_all(part)[0] for part in source.split("+")), *targets)}  # fmt: skip
EVERY = [name for name in SETS if any(name in variants(one, SETS) for one in NAMES)]  # all that a protocol may mean
FAMILIES = [variants(name, SETS) for name in sorted(NAMES) if len(variants(name, SETS)) > 1]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every set that a protocol may mean, generated in its original layout and prepared."""
    data, raw = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("raw")
    for name in (*EVERY, "cuhk03-detected"):
        form = "images" if family_of(name, SETS) == "cuhk03" else ""  # its archive is unpacked in other tests
        prepare(name, data=data, source=layouts.build(name, raw / name, form=form), accept_counts=True)
    return data


def digests(rows: pd.DataFrame, root: Path) -> set[str]:
    """Return the SHA-256 of the files themselves, whatever the index says."""
    return {hashlib.sha256((root / path).read_bytes()).hexdigest() for path in rows["path"].unique()}


def cells(protocol: Protocol) -> Iterator[tuple[str, str]]:
    """Yield every source and target that a protocol can mean, whichever set of each family is prepared."""
    for chosen in itertools.product(*FAMILIES):
        here = [name for name in EVERY if name in chosen or not any(name in family for family in FAMILIES)]
        for source, targets in resolve(protocol, here, SETS)[0].items():
            yield from ((source, target) for target in targets)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_no_image_file_is_in_a_source_and_in_an_unseen_target(protocol: Protocol, data: Path) -> None:
    @functools.cache
    def trained(source: str) -> set[str]:
        prepared, rows = training_images(source, data=data)
        return digests(rows, prepared.root)

    @functools.cache
    def tested(target: str) -> set[str]:
        prepared = load_prepared(target, data)
        return digests(rows_tested(prepared), prepared.root)

    pairs = {(one, target) for source, target in cells(protocol) for one in source.split("+")}
    assert len({target for _, target in pairs}) >= len({one for some in protocol.cells.values() for one in some})
    for one, target in pairs:
        assert trained(one) and tested(target) and not trained(one) & tested(target), (one, target)


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=lambda protocol: protocol.name)
def test_a_leak_in_any_cell_is_refused(protocol: Protocol, data: Path) -> None:
    """The mutation: the digest of one file of a source in the place of a query's."""
    for source, targets in resolve(protocol, EVERY, SETS)[0].items():
        recipe = Recipe(source=source)
        sources = origins(recipe, data=data)
        for number, target in enumerate(targets):
            rows, one = rows_tested(load_prepared(target, data)), recipe.sources[number % len(recipe.sources)]
            families = [family_of(split_all(name)[0], SETS) for name in recipe.sources]
            prepared = load_prepared(target, data)
            assert is_seen(sources, prepared) == (family_of(target, SETS) in families)
            refuse_shared_images(sources, prepared, rows, data=data)
            stolen = training_images(one, data=data)[1].iloc[-1]
            key = "path" if one == target else "sha256"
            leaking = rows.assign(**{key: [stolen[key], *rows[key].iloc[1:]]})
            with pytest.raises(
                SharedImagesError, match=f"target {target} shares 1 image files .* source {re.escape(one)}"
            ):
                refuse_shared_images(sources, prepared, leaking, data=data)


def refuse(source: str, target: str, tested: pd.DataFrame, data: Path) -> None:
    refuse_shared_images(origins(Recipe(source=source), data=data), load_prepared(target, data), tested, data=data)


def test_whether_a_target_was_seen_does_not_depend_on_the_working_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A datasets.toml in the working folder cannot make a family of what was prepared as two."""
    sources, viper = origins(Recipe(source="market"), data=data), load_prepared("viper", data)
    entry = viper.dataset
    assert not is_seen(sources, viper)
    kin = replace(viper, dataset=replace(entry, family="market"))  # as its manifest would say
    assert is_seen(sources, kin)
    monkeypatch.chdir(tmp_path)
    assert not is_seen(sources, viper) and is_seen(sources, kin)


def test_an_image_copied_into_a_target_is_refused(data: Path, tmp_path: Path) -> None:
    """The same with a file that was really copied, and prepared as a user would."""
    other = tmp_path / "data"
    other.mkdir()
    for name in EVERY:
        if name != "viper":
            (other / name).symlink_to(data / name)
    folder = layouts.build("viper", tmp_path)
    prepared, rows = training_images("cuhk-sysu", data=data)
    next(folder.rglob("cam_b/*.bmp")).write_bytes((prepared.root / rows["path"].iloc[3]).read_bytes())
    prepare("viper", data=other, source=folder, accept_counts=True)
    [(source, _)] = resolve(get_protocol("p1"), EVERY, SETS)[0].items()
    tested = rows_tested(load_prepared("viper", other))
    with pytest.raises(SharedImagesError, match=r"target viper shares 1 image files .* source cuhk-sysu"):
        refuse(source, "viper", tested, other)
    refuse("market", "viper", tested, other)


def test_a_source_that_was_trained_on_whole_has_no_seen_target(data: Path) -> None:
    def tested(name: str) -> pd.DataFrame:
        return rows_tested(load_prepared(name, data))

    refuse("market", "market", tested("market"), data)
    refuse("msmt17-v1", "msmt17-v2", tested("msmt17-v2"), data)
    for source, target in (("market-all", "market"), ("duke+msmt17-v2-all", "msmt17-v1"), ("cuhk02", "cuhk01")):
        sources = origins(Recipe(source=source), data=data)
        prepared = replace(load_prepared("market", data), dataset=SETS[target])
        assert is_seen(sources, prepared)
        with pytest.raises(SharedImagesError, match=f"target {target} shows people whose images were all trained on"):
            refuse_shared_images(sources, prepared, tested("market").iloc[:0], data=data)
    assert not trained_whole("cuhk01-all", "cuhk03-np-detected", SETS)
    # the classic splits of CUHK03 test people whom the new protocol trains on
    with pytest.raises(SharedImagesError, match="target cuhk03-detected shares"):
        refuse("cuhk03-np-detected", "cuhk03-detected", tested("cuhk03-detected"), data)


def test_one_file_of_both_parts_is_told_by_its_path(data: Path) -> None:
    """Market-1501 may hold equal files in both parts; but the same path in both parts is a leak, seen or not."""
    tested = rows_tested(load_prepared("market", data))
    trained = load_index(load_prepared("market", data)).query("part == 'train'")
    equal = tested.assign(sha256=[trained["sha256"].iloc[0], *tested["sha256"].iloc[1:]])
    refuse("market", "market", equal, data)
    same = tested.assign(path=[trained["path"].iloc[0], *tested["path"].iloc[1:]])
    with pytest.raises(SharedImagesError, match="target market shares 1 image files"):
        refuse("market", "market", same, data)


def test_the_shipped_protocols_are_those_of_the_literature() -> None:
    """Written down by hand from the papers: M, D, MS, C2, C3, CS as sources, `-all` where test images are trained on."""
    small = ("prid", "grid", "viper", "ilids")
    assert {name: dict(one.cells) for name, one in PROTOCOLS.items()} == {
        "single": {
            "market": ("duke", "msmt17", "cuhk03"),
            "duke": ("market", "msmt17", "cuhk03"),
            "msmt17": ("market", "duke", "cuhk03"),
            "cuhk03": ("market", "duke", "msmt17"),
        },
        "snr-multi": {"market+duke+cuhk03+msmt17": ("market", "duke", *small)},
        "p1": {"market-all+cuhk02+cuhk03-all+cuhk-sysu": small},
        "p1-duke": {"market-all+duke-all+cuhk02+cuhk03-all+cuhk-sysu": small},
        "p2": {
            "market+msmt17+cuhk-sysu": ("cuhk03",),
            "market+cuhk03+cuhk-sysu": ("msmt17",),
            "msmt17+cuhk03+cuhk-sysu": ("market",),
        },
        "p3": {
            "market-all+msmt17-all+cuhk-sysu": ("cuhk03",),
            "market-all+cuhk03-all+cuhk-sysu": ("msmt17",),
            "msmt17-all+cuhk03-all+cuhk-sysu": ("market",),
        },
        "loo-duke": {
            "duke+msmt17+cuhk03": ("market",),
            "market+msmt17+cuhk03": ("duke",),
            "market+duke+cuhk03": ("msmt17",),
            "market+duke+msmt17": ("cuhk03",),
        },
    }
    assert all(one.title and one.paper for one in PROTOCOLS.values())
    train_only = {name for name in EVERY if set(SETS[name].folders) == {"train"}}
    assert {"cuhk02", "cuhk-sysu"} <= train_only  # so their training parts are all their images, as p1 and p3 ask for


def test_a_family_becomes_the_first_of_its_sets_that_is_prepared() -> None:
    v1, v2 = variants("msmt17", SETS)[0], "msmt17-v2"
    found, lines = resolve(get_protocol("p3"), ["market", v2, "cuhk03-np-labelled", "cuhk-sysu"], SETS)
    assert found == {
        f"market-all+{v2}-all+cuhk-sysu": ["cuhk03-np-labelled"],
        "market-all+cuhk03-np-labelled-all+cuhk-sysu": [v2],
        f"{v2}-all+cuhk03-np-labelled-all+cuhk-sysu": ["market"],
    }
    assert lines == [f"msmt17: {v2} is used", "cuhk03: cuhk03-np-labelled is used"]
    _, lines = resolve(get_protocol("p3"), EVERY, SETS)
    assert lines[0] == f"msmt17: {v1} is used; prepared too: {', '.join(variants('msmt17', SETS)[1:])}"


def test_a_family_is_never_its_classic_single_shot_sets() -> None:
    with pytest.raises(DataError, match=r"cuhk03 is not prepared \(run: reidgen prepare cuhk03-np-detected\)"):
        resolve(get_protocol("single"), ["cuhk03-detected", "market"], SETS)
    found, lines = resolve(
        get_protocol("p2"), ["cuhk03-detected", "cuhk03-np-labelled", "market", "cuhk-sysu", "msmt17-v2"], SETS
    )
    assert lines == ["msmt17: msmt17-v2 is used", "cuhk03: cuhk03-np-labelled is used"]
    assert not any("cuhk03-detected" in one for source, targets in found.items() for one in (source, *targets))
    named = replace(get_protocol("single"), cells={"market": ("cuhk03-detected",)})
    assert resolve(named, ["market", "cuhk03-detected"], SETS)[0] == {"market": ["cuhk03-detected"]}
    alone = {name: one for name, one in SETS.items() if one.family != "cuhk03" or one.single_shot}
    assert variants("cuhk03", alone) == ["cuhk03-detected", "cuhk03-labelled"]  # a family of nothing else


def test_what_is_not_prepared_is_left_out_with_the_command() -> None:
    found, lines = resolve(get_protocol("single"), ["market", "duke"], SETS)
    assert found == {"market": ["duke"], "duke": ["market"]}
    msmt17, cuhk03 = (variants(name, SETS)[0] for name in ("msmt17", "cuhk03"))
    assert lines == [
        f"target msmt17 is left out: msmt17 is not prepared (run: reidgen prepare {msmt17})",
        f"target cuhk03 is left out: cuhk03 is not prepared (run: reidgen prepare {cuhk03})",
        f"source msmt17 is left out: msmt17 is not prepared (run: reidgen prepare {msmt17})",
        f"source cuhk03 is left out: cuhk03 is not prepared (run: reidgen prepare {cuhk03})",
    ]
    _, lines = resolve(get_protocol("loo-duke"), ["market", "duke", "msmt17-v2", "cuhk03-np-detected"], SETS)
    assert lines == ["msmt17: msmt17-v2 is used", "cuhk03: cuhk03-np-detected is used"]
    own = replace(get_protocol("single"), cells={"market": ("duke",), "duke": ("grid",)})
    assert resolve(own, ["market", "duke"], SETS) == (
        {"market": ["duke"]},
        [
            "target grid is left out: grid is not prepared (run: reidgen prepare grid)",
            "source duke is left out: none of its targets is prepared",
        ],
    )


def test_nothing_prepared_is_one_sentence() -> None:
    with pytest.raises(DataError) as caught:
        resolve(get_protocol("p1"), ["market"], SETS)
    text = str(caught.value)
    assert text.startswith(
        "nothing of the protocol p1 can be run; source market-all+cuhk02+cuhk03-all+cuhk-sysu is left out: "
    )
    assert "cuhk02 and cuhk03 and cuhk-sysu are not prepared (run: reidgen prepare cuhk02 and reidgen prepare " in text


def own(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "datasets.toml"
    file.write_text("[mine]\npattern = '(?P<pid>[^/]+)/(?P<camid>\\d+)_.*'\n" + text)
    return file


def test_own_protocols_add_to_the_shipped_ones(tmp_path: Path) -> None:
    file = own(tmp_path, '[protocols.home]\ncells = { "market+synth-plaza" = ["mine", "cuhk03"] }\n')
    known = load_protocols(file)
    assert set(known) == {*PROTOCOLS, "home"}
    assert known["home"] == Protocol(name="home", title="", paper="", cells={"market+synth-plaza": ("mine", "cuhk03")})
    assert load_catalogue(file).keys() == {*SETS, "mine"}
    with pytest.raises(DataError, match="unknown protocol 'p22'; did you mean 'p2'"):
        get_protocol("p22")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[protocols.p2]\ncells = { market = ["duke"] }', "[protocols.p2] differs from the one that ships"),
        ("protocols = 3", "protocols should be tables such as [protocols.p2]; found 3"),
        ("[protocols]\nx = 3", "[protocols.x]: expected a table, found 3"),
        ("[protocols.x]\ncell = 3", "[protocols.x]: unknown key 'cell'; did you mean 'cells'?"),
        ("[protocols.x]\ntitle = 3", "[protocols.x]: title = 3 should be a text"),
        ('[protocols.x]\ntitle = "x"', "[protocols.x]: cells = None should be a table such as"),
        ("[protocols.x]\ncells = {}", "[protocols.x]: cells = {} should be a table such as"),
        ("[protocols.x]\ncells = { market = 'duke' }", "[protocols.x]: cells: 'market' = 'duke' should be a list of targets"),
        ("[protocols.x]\ncells = { market = [] }", "[protocols.x]: cells: 'market' = [] should be a list of targets"),
        ("[protocols.x]\ncells = { markt = ['duke'] }", "[protocols.x]: cells: 'markt': unknown data set or family 'markt'; did you mean 'market'?"),
        ("[protocols.x]\ncells = { 'market+duk' = ['grid'] }", "cells: 'market+duk': unknown data set or family 'duk'; did you mean 'duke'?"),
        ("[protocols.x]\ncells = { market = ['gird'] }", "cells: 'market': unknown data set or family 'gird'; did you mean 'grid'?"),
        ("[protocols.x]\ncells = { market = ['grid-all'] }", "unknown data set or family 'grid-all'; did you mean 'grid'?"),
        ("[protocols.x]\ncells = { 'market+market' = ['grid'] }", "the sources market and market show the same people"),
        ("[protocols.x]\ncells = { 'msmt17+msmt17-v1-all' = ['grid'] }", "the sources msmt17 and msmt17-v1-all show the same people"),
        ("[protocols.x]\ncells = { 'cuhk03-all' = ['cuhk03-detected'] }", "all images of the target cuhk03-detected are trained on"),
        ("[protocols.x]\ncells = { cuhk02 = ['cuhk01'] }", "all images of the target cuhk01 are trained on"),
        ("[protocols.x]\ncells = { market = ['cuhk02'] }", "cuhk02 has no test part and cannot be a target"),
    ],
)  # fmt: skip
def test_every_mistake_names_file_protocol_and_key(text: str, sentence: str, tmp_path: Path) -> None:
    file = own(tmp_path, text) if not text.startswith("protocols =") else tmp_path / "datasets.toml"
    if not file.is_file():
        file.write_text(text)
    with pytest.raises(DataError, match=re.escape(sentence)) as caught:
        load_protocols(file)
    assert str(caught.value).startswith(f"{file}: ") and "\n" not in str(caught.value)
