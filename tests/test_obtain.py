"""Finding what people have: folders and archives under all their names, at --from and in --data; downloads."""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import layouts
import pytest
from server import PAGE, Server, serving

from reidgen.catalogue import load_catalogue
from reidgen.data.obtain import obtain
from reidgen.entries import Archive, Dataset
from reidgen.errors import DataError

KNOWN = load_catalogue()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


def find(dataset: str | Dataset, data: Path, source: Path | None = None) -> Path:
    entry = KNOWN[dataset] if isinstance(dataset, str) else dataset
    if isinstance(dataset, str):  # the fixtures' archives are not the published ones
        entry = replace(entry, archives=tuple(replace(one, md5="", urls=()) for one in entry.archives))
    return obtain(entry, data=data, source=source, say=lambda line: None)


SETS = [name for name in KNOWN if not name.startswith("synth-") and name not in ("cuhk01",)]
PACKED = [name for name in SETS if KNOWN[name].archives]


def images(root: Path) -> int:
    return sum(path.suffix in layouts.FORMATS for path in root.rglob("*"))


@pytest.mark.parametrize("name", SETS)
def test_a_folder_is_used_where_it_lies(name: str, tmp_path: Path) -> None:
    form = "images" if name.startswith("cuhk03") else ""
    root = layouts.build(name, tmp_path / "somewhere" / "else", form=form)
    for given in (root, root.parent):
        found = find(name, tmp_path / "data", given)
        assert found == find(name, tmp_path / "data", root) and images(found) == images(root)
    assert not (tmp_path / "data").exists()  # nothing is copied
    shutil.copytree(root, tmp_path / "data" / "sets" / root.name)
    assert images(find(name, tmp_path / "data")) == images(root)


@pytest.mark.parametrize("name", PACKED)
def test_archives_are_found_under_their_names(name: str, tmp_path: Path) -> None:
    """Given as a file, as the folder that holds them, and lying in --data; all end in the same folder."""
    given = layouts.archive(name, tmp_path / "in")
    data = tmp_path / "data"
    found = find(name, data, given)
    assert found.is_relative_to(data / "unpacked") and images(found) > 0
    assert find(name, data, tmp_path / "in") == found
    assert find(name, data) == found  # unpacked before
    other = tmp_path / "other"
    (other / "archives").mkdir(parents=True)
    for file in (tmp_path / "in").iterdir():
        shutil.copy(file, other / "archives" / (file.name if file.suffix == ".mat" else file.name.upper()))
    assert find(name, other).relative_to(other) == found.relative_to(data) or images(find(name, other)) == images(found)


def test_an_archive_under_any_other_name(tmp_path: Path) -> None:
    file = layouts.archive("duke", tmp_path).rename(tmp_path / "my duke (1).zip")
    assert find("duke", tmp_path / "data", file).parent.name.startswith("my-duke-1-")


def test_the_new_protocol_beside_the_release(tmp_path: Path) -> None:
    """The .mat files are taken from the folder in which the given archive lies, and cuhk-03.mat may be given itself."""
    layouts.archive("cuhk03-np-labelled", tmp_path / "in")
    data = tmp_path / "data"
    root = find("cuhk03-np-labelled", data, tmp_path / "in" / "cuhk03_release.zip")
    assert (root / "cuhk03_new_protocol_config_labeled.mat").is_file()
    assert find("cuhk03-detected", data, tmp_path / "in" / "cuhk03_release.zip") == root  # unpacked once
    assert len([one for one in (data / "unpacked").iterdir() if one.name != ".claim"]) == 1
    mat = root.parent / "cuhk-03.mat"
    shutil.copy(layouts.build("cuhk03-detected", tmp_path / "raw") / "cuhk03_release" / "cuhk-03.mat", mat)
    shutil.copy(root / "cuhk03_new_protocol_config_labeled.mat", mat.parent)
    assert images(find("cuhk03-np-labelled", tmp_path / "data2", mat)) == images(root)


@pytest.mark.parametrize("name", ["cuhk03-np-detected", "cuhk03-labelled"])
@pytest.mark.parametrize("given", ["", "cuhk03_release", "cuhk03_release/cuhk-03.mat", ".."])
def test_the_release_that_someone_unpacked(name: str, given: str, tmp_path: Path) -> None:
    """cuhk-03.mat stands for the archive, and the .mat of the new protocol may lie one folder above it."""
    folder = layouts.build(name, tmp_path / "home")
    assert images(find(name, tmp_path / "data", folder / given)) > 0


def test_the_published_checksum_is_compared(tmp_path: Path) -> None:
    file = layouts.archive("duke", tmp_path / "in")
    entry, md5 = KNOWN["duke"], hashlib.md5(file.read_bytes()).hexdigest()
    with pytest.raises(
        DataError, match=f"DukeMTMC-reID.zip has the MD5 {md5}, published is {entry.archives[0].md5}; get"
    ):
        find(entry, tmp_path / "data", file)
    assert file.exists()  # it is the user's
    right = replace(entry, archives=(Archive(file=file.name, md5=md5),))
    assert find(right, tmp_path / "data", file).is_dir()


@pytest.mark.parametrize("name", [name for name, one in KNOWN.items() if one.status in ("request", "withdrawn")])
def test_what_is_not_published_is_never_downloaded(name: str, tmp_path: Path, server: Server) -> None:
    url = server.put("x.zip", b"x")
    entry = replace(KNOWN[name], archives=(Archive(file="x.zip", urls=(url,)),))
    with pytest.raises(DataError) as caught:
        find(entry, tmp_path / "data")
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and lines[2].endswith(f"run: reidgen prepare {name} --from ARCHIVE_OR_FOLDER")
    assert server.files["x.zip"].asked == [] and not (tmp_path / "data").exists()


def opened(name: str, server: Server, content: bytes, md5: str = "") -> Dataset:
    """Return the set as one whose archive lies on the server."""
    file = KNOWN[name].archives[0].file
    return replace(
        KNOWN[name], status="open", archives=(Archive(file=file, urls=(server.put(file, content),), md5=md5),)
    )


def test_an_open_set_is_downloaded_unpacked_and_kept(tmp_path: Path, server: Server) -> None:
    content = layouts.archive("market", tmp_path / "in").read_bytes()
    entry, data = opened("market", server, content), tmp_path / "data"
    root = find(entry, data)
    assert images(root) == images(layouts.build("market", tmp_path / "folder"))
    assert (data / "archives" / "Market-1501-v15.09.15.zip").read_bytes() == content
    assert find(entry, data) == root and len(server.files["Market-1501-v15.09.15.zip"].asked) == 1
    shutil.rmtree(data / "unpacked")
    assert find(entry, data) == root and len(server.files["Market-1501-v15.09.15.zip"].asked) == 1


def test_a_given_folder_is_never_downloaded(tmp_path: Path, server: Server) -> None:
    entry = opened("market", server, b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty lacks bounding_box_train"):
        find(entry, tmp_path / "data", tmp_path / "empty")
    assert server.files["Market-1501-v15.09.15.zip"].asked == []


@pytest.mark.parametrize("kind", ["truncated", "a page", "empty", "noise", "another checksum"])
def test_a_broken_download_is_removed_and_a_second_try_succeeds(kind: str, tmp_path: Path, server: Server) -> None:
    content = layouts.archive("market", tmp_path / "in").read_bytes()
    broken = {"truncated": content[:-500], "a page": PAGE, "empty": b"", "noise": bytes(3000)}.get(kind, content)
    md5 = "0" * 32 if kind == "another checksum" else ""
    with pytest.raises(DataError) as caught:
        find(opened("market", server, broken, md5), tmp_path / "data")
    assert "\n" not in str(caught.value)
    left = [one for one in (tmp_path / "data").rglob("*") if one.is_file() and ".claim" not in one.parts]
    assert left == []
    assert images(find(opened("market", server, content), tmp_path / "data")) > 0


def test_what_others_publish_freely_is_downloaded_for_who_has_the_set(tmp_path: Path, server: Server) -> None:
    layouts.archive("cuhk03-np-detected", tmp_path / "in")
    release, mat = (one.file for one in KNOWN["cuhk03-np-detected"].archives)
    url = server.put(mat, (tmp_path / "in" / mat).read_bytes())
    entry = replace(KNOWN["cuhk03-np-detected"], archives=(Archive(file=release), Archive(file=mat, urls=(url,))))
    alone = shutil.copy(tmp_path / "in" / release, tmp_path / release)
    assert (find(entry, tmp_path / "data", alone) / mat).is_file()


def test_a_companion_of_another_checksum_says_where_to_get_it(tmp_path: Path) -> None:
    layouts.archive("cuhk03-np-detected", tmp_path / "in")
    release, mat = KNOWN["cuhk03-np-detected"].archives
    entry = replace(KNOWN["cuhk03-np-detected"], archives=(replace(release, md5=""), mat))
    with pytest.raises(DataError) as caught:
        find(entry, tmp_path / "data", tmp_path / "in" / release.file)
    md5 = hashlib.md5((tmp_path / "in" / mat.file).read_bytes()).hexdigest()
    assert str(caught.value).endswith(
        f"{mat.file} has the MD5 {md5}, published is {mat.md5}; get it again, from {mat.urls[0]}"
    )


def test_a_further_archive_without_the_set_itself(tmp_path: Path) -> None:
    layouts.archive("cuhk03-np-detected", tmp_path / "in")
    (tmp_path / "in" / "cuhk03_release.zip").unlink()
    mat = tmp_path / "in" / "cuhk03_new_protocol_config_detected.mat"
    with pytest.raises(DataError, match="is given on request only"):
        find("cuhk03-np-detected", tmp_path / "data", mat)


def test_no_mirror_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: 0.0)  # no pauses between tries
    entry = replace(
        KNOWN["market"], archives=(Archive(file="x.zip", urls=("http://127.0.0.1:9/x", "http://127.0.0.1:9/y")),)
    )
    with pytest.raises(DataError) as caught:
        find(entry, tmp_path / "data")
    assert str(caught.value) == (
        "market: cannot download x.zip (127.0.0.1: Connection refused; 127.0.0.1: Connection refused); run the same command "
        f"again, or get it with a browser ({entry.homepage}), then run: reidgen prepare market --from FILE"
    )


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
def test_a_list_is_no_archive(suffix: str, tmp_path: Path) -> None:
    file = tmp_path / f"mine{suffix}"
    file.write_text("path,pid,camid\n")
    entry = Dataset(name="mine", pattern="(?P<pid>.)(?P<camid>.).*", lists={"test": (file.name,)})
    assert find(entry, tmp_path / "data", file) == tmp_path and not (tmp_path / "data").exists()


@pytest.mark.parametrize("kind", ["detected", "labelled"])
def test_a_bare_folder_of_cuhk03s_new_protocol(kind: str, tmp_path: Path) -> None:
    """One of its two kinds, moved out of the folder in which both lie; with both, the right one is taken."""
    root = layouts.build("cuhk03-np-detected", tmp_path, form="market")
    folder = root / {"detected": "detected", "labelled": "labeled"}[kind]
    assert find(f"cuhk03-np-{kind}", tmp_path / "data", root) == root
    assert find(f"cuhk03-np-{kind}", tmp_path / "data", folder) in (root, folder)
    bare = shutil.copytree(folder, tmp_path / "data" / "CUHK03-NP")
    assert find(f"cuhk03-np-{kind}", tmp_path / "data") == bare
    assert find(f"cuhk03-np-{kind}", tmp_path / "other", bare) == bare


def test_folders_that_are_links(tmp_path: Path) -> None:
    root = layouts.build("market", tmp_path / "disk")
    linked = tmp_path / "data" / "market"
    linked.mkdir(parents=True)
    for folder in root.iterdir():
        (linked / folder.name).symlink_to(folder)
    assert find("market", tmp_path / "data") == linked


def test_a_set_in_several_zips_of_one_download(tmp_path: Path) -> None:
    files = layouts._files("duke", "", 6, 0)
    for number, part in enumerate(("bounding_box_train", "query", "bounding_box_test"), start=1):
        some = {f"DukeMTMC-reID/{path}": content for path, content in files.items() if path.startswith(part)}
        layouts.pack(some, tmp_path / f"DukeMTMC-reID-20240101T000000Z-{number:03d}.zip")
    given = tmp_path / "DukeMTMC-reID-20240101T000000Z-002.zip"
    assert images(find("duke", tmp_path / "data", given)) == images(layouts.build("duke", tmp_path / "folder"))
    (tmp_path / "DukeMTMC-reID-20240101T000000Z-001.zip").unlink()
    with pytest.raises(DataError, match=r"Z-001\.zip is not beside it; get it too"):
        find("duke", tmp_path / "data2", given)


def test_a_place_that_may_not_be_asked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(self: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_file", closed)
    with pytest.raises(DataError, match=r"market: cannot read .*x\.zip: Permission denied"):
        obtain(KNOWN["market"], data=tmp_path, source=tmp_path / "x.zip", say=lambda line: None)


def test_folders_that_may_not_be_read_are_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = layouts.build("market", tmp_path / "data" / "a")
    root = layouts.build("market", tmp_path / "data" / "b")
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) not in (closed, closed.parent))
    assert find("market", tmp_path / "data") == root
