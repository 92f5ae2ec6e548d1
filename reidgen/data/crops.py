"""People's own crops: which folders are the parts, and how person and camera are read from their names, or refused.

A guess that is wrong gives a number that is wrong, and nobody sees it. So a camera is read only where a name says that
it is one, a person never from the name of a part or a camera, and where two readings differ none is taken.
"""

import os
import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from reidgen.data.lists import TABLES, common_root, read_table
from reidgen.data.naming import number_of, same, shown
from reidgen.data.readers import KINDS_IN_WORDS, check_folder, image_files
from reidgen.entries import Dataset, parse
from reidgen.errors import DataError

# What folders of parts are called, in any case, with "_", "-" or " " between the words.
PART_NAMES = {
    "train": (
        "train training trainset train_set bounding_box_train bbox_train image_train images_train train_images "
        "mask_train"
    ),
    "query": (
        "query queries probe probes image_query images_query query_images bounding_box_query bbox_query "
        "test_query test_probe query_set"
    ),
    "gallery": (
        "gallery galleries image_gallery images_gallery gallery_images bounding_box_gallery bbox_gallery "
        "test_gallery gallery_set"
    ),
    "test": "test testing testset test_set bounding_box_test bbox_test image_test images_test test_images mask_test",
    "val": "val valid validation dev eval valset val_set bounding_box_val image_val",
}
_PART = {word: part for part, words in PART_NAMES.items() for word in words.split()}

_CAMERA = r"(?:(?:camera|cam)[ _-]?|c(?=\d{1,3}(?!\d)))(?P<camid>\d{1,4})(?!\d)"
# what may follow a camera: _0001, s1_0001 (sequence), t3 (tracklet), f7 (frame)
_MORE = r"(?:[^a-z0-9/][^/]*|[stf]\d[^/]*)"
_IN_NAME = rf"(?:[^/]*[^a-z0-9/])?{_CAMERA}{_MORE}"
_CAMERA_FOLDER = (
    r"(?:(?:camera|cam)[ _-]?(?=\d|[a-z](?![a-z0-9]))|c(?=\d{1,3}(?!\d)))(?P<camid>\d{1,4}(?!\d)|[a-z])" + f"{_MORE}?"
)
_PERSON_WORD = r"(?:person|pers|pid|id|p)[ _-]?\d+"
_TRACKLET = r"(?:(?P=pid)[^/]*|(?:tracklet|track|trk|sequence|seq|t|images?|imgs?|frames?)[ _-]?\d*|\d+)"


@dataclass(frozen=True)
class Reading:
    """One way to read names. levels: folders above the file that it looks at; market: the whole name says it, so that
    it wins over what folders are called; flat: the folders above need not be the same for all images."""

    pattern: str
    levels: int
    market: bool = False
    flat: bool = False


# In the order in which they are preferred where they say the same.
READINGS = (
    Reading(r"(?i)(?P<pid>-?\d+)_c(?P<camid>\d+)s\d+_.*", 0, market=True, flat=True),  # 0002_c1s1_000451_03.jpg
    Reading(r"(?P<pid>\d+|00-1)C(?P<camid>\d+)T\d+F\d+\..*", 0, market=True, flat=True),  # MARS: 0001C1T0001F001.jpg
    Reading(rf"(?i)(?P<pid>[^/]+)/{_IN_NAME}", 1),  # anna/c1_0001.jpg, anna/x_cam1_0001.jpg
    Reading(rf"(?i)(?P<pid>[^/]+)/{_CAMERA_FOLDER}/[^/]+", 2),  # anna/cam1/0001.jpg
    Reading(rf"(?i){_CAMERA_FOLDER}/(?P<pid>[^/]+)/[^/]+", 2),  # cam1/anna/0001.jpg
    Reading(rf"(?i)(?P<pid>[^/]+)/{_TRACKLET}/{_IN_NAME}", 2),  # anna/0003/c1_0001.jpg: person, tracklet, image
    Reading(rf"(?i)(?P<pid>[^/]+)/{_CAMERA_FOLDER}/[^/]+/[^/]+", 3),  # anna/cam1/0003/0001.jpg
    Reading(rf"(?i){_CAMERA_FOLDER}/(?P<pid>[^/]+)/{_TRACKLET}/[^/]+", 3),  # cam1/anna/0003/0001.jpg
    Reading(rf"(?i){_CAMERA_FOLDER}/(?P<pid>{_PERSON_WORD})[^a-z0-9/][^/]*", 1),  # cam_a/person_0001.png
    Reading(
        rf"(?i)(?P<pid>-?\d+|{_PERSON_WORD})_c(?P<camid>\d{{1,3}})[sf_.-][^/]*", 0, flat=True
    ),  # 0001_c001_0016.jpg
    Reading(rf"(?i)(?P<pid>{_PERSON_WORD})[_ -]{_CAMERA}{_MORE}", 0, flat=True),  # person01_cam3_x.jpg
    Reading(rf"(?i)(?P<pid>-?\d+)_{_CAMERA}{_MORE}", 0),  # 0001_cam3.jpg
)

# The guesses of reidgen 0.1, which sets prepared by it still name.
_OLD = (
    r"(?i)(?P<pid>[^/]+)/(?:camera|cam|c)[ _-]?(?P<camid>\d+)/[^/]+",
    r"(?i)(?P<pid>[^/]+)/(?:[^/]*[^a-z/])?(?:camera|cam|c)[ _-]?(?P<camid>\d+)(?!\d)[^/]*",
    r"(?P<pid>[^/]+)/(?P<camid>\d{1,4})[_-][^/]+",
    r"(?i)(?P<pid>-?\d+)_(?:cam|c)(?P<camid>\d+).*",
)
AUTOMATIC = (*(one.pattern for one in READINGS), *_OLD)  # patterns that `prepare` finds by itself

# What is offered where no reading fits, simple enough to be judged and changed by who knows the names.
_OFFERS = (
    (r"(?P<pid>[^/]+)/(?P<camid>\d+)[_-][^/]*", 1),
    (r"(?P<pid>[^/]+)/[^/]*[_-](?P<camid>\d+)\.[^/.]+", 1),
    (r"(?P<camid>[^/]+)/(?P<pid>[^/]+)/[^/]+", 2),
    (r"(?P<pid>[^/]+)/(?P<camid>[^/]+)/[^/]+", 2),
    (r"(?P<pid>[^/]+)/[^/]+/(?P<camid>\d+)[_-][^/]*", 2),
    (r"(?P<camid>[^/]+)/(?P<pid>[^/_-]+)[_-][^/]*", 1),
    (r"(?P<pid>[^/_-]+)[_-](?P<camid>[^/_.-]+)[^/]*", 0),
    (r"(?P<camid>[^/_-]+)[_-](?P<pid>[^/_.-]+)[^/]*", 0),
    (r"(?P<pid>[^/]+)/(?P<camid>[^/_.-]+)[^/]*", 1),
    (r"(?P<camid>[^/]+)/(?P<pid>[^/_.-]+)[^/]*", 1),
    (r"(?P<pid>[^/]+)/[^/]*?(?P<camid>\d+)\.[^/.]+", 1),
)

_IMAGES = r"images?|imgs?|pictures?|photos?|frames?|crops?|all[ _-]?(?:images?|imgs?)|jpe?g|png|data|dataset"
_TIMES = (  # days and the like hold people, but are none
    r"(?:19|20)\d\d[-_.]?\d\d[-_.]?\d\d.*|\d\d?[-_.]\d\d?[-_.](?:19|20)\d\d.*"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|(?:day|session|site|scene|batch|location)[ _-]?\d+"
)


def own_dataset(name: str, root: Path, pattern: str | None = None) -> Dataset:
    """Return an entry for a folder of own crops that the catalogue does not know, or for a list that names them.

    A folder's parts are the folders called as in PART_NAMES, at any depth and in any case; what lies beside them is
    left out. `test`, or `val` where there is no other, is divided by `readers.read`. A folder without any part is all
    test. To train on own crops, put them into a sub-folder train. Without `pattern`, names are read by the one of
    READINGS that fits all of them, see `_choose`. A list (.csv, .tsv, .txt) says it all itself, see `lists.read_table`.
    Person -1 is junk, as in Market-1501; person 0 are distractors, unless somebody asks for it or trains on it.

    Raises DataError when the folder is missing or empty, its parts are not clear, or the names can be read in no way or
    in
    several: it then offers patterns, each with what it would read.
    """
    if root.is_file() and root.suffix.lower() in TABLES:
        return _own_table(name, root, pattern)
    check_folder(name, root)
    images = image_files(root, ".").images
    if not images:
        raise DataError(f"{name}: no images in {root} ({KINDS_IN_WORDS}); give the folder that holds your crops")
    folders = _find_parts(name, root, images)
    inside = {part: _below(folder, images) for part, folder in folders.items()}
    pattern = pattern or _choose(name, root, inside)
    entry = {"pattern": pattern, "folders": {part: (one,) for part, one in folders.items()}}
    dataset = parse(name, entry, where=f"--pattern for {name}")
    who = {part: {(dataset.match(path) or ("", ""))[0] for path in paths} for part, paths in inside.items()}
    return _with_junk(dataset, who)


def never_a_person(name: str) -> bool:
    """Tell whether a folder's name is that of a part, of a camera, or such as `images`."""
    return _word(name) in _PART or bool(re.fullmatch(f"{_CAMERA_FOLDER}|{_IMAGES}|{_TIMES}", name, re.IGNORECASE))


def left_out(dataset: Dataset, root: Path, read: Iterable[str]) -> list[str]:
    """Return sentences on what lies in `root` and is not among the images `read`: folders and files, counted.

    What a list does not name is no business of the set's, and is not looked for.
    """
    if dataset.lists:
        files = {root / file for some in dataset.lists.values() for file in some}
        val = sum(
            one.split == "val" for file in files if dataset.list_format == "table" for one in read_table(file, root)
        )
        return [f"left out: {val:,} images of val, as there is a test part beside it"] if val else []
    found, known = image_files(root, "."), set(read)
    sentences = []
    folders = sorted(one for some in dataset.folders.values() for one in some)
    inside = tuple(f"{one}/" for one in folders)  # what is junk there is counted as junk
    others = [path for path in found.images if path not in known and not path.startswith(inside) and folders != ["."]]
    if beside := Counter(_top(path, folders) for path in others):
        counted = ", ".join(f"{shown(folder)} ({count:,} images)" for folder, count in sorted(beside.items()))
        sentences.append(f"left out, as no part of the set: {counted}")
    if found.others:
        kinds = ", ".join(f"{count:,} {shown(kind)}" for kind, count in sorted(found.others.items()))
        sentences.append(f"left out, as no images: {kinds}")
    if found.twice:
        what = f"{len(found.twice):,} links to folders that are read already, such as {shown(found.twice[0])}"
        sentences.append(f"left out: {what}")
    return sentences


def _top(path: str, folders: list[str]) -> str:
    """Return the folder of `path` that is highest and holds none of `folders`."""
    parts = path.split("/")[:-1]
    for depth in range(1, len(parts) + 1):
        folder = "/".join(parts[:depth])
        if not any(f"{one}/".startswith(f"{folder}/") for one in folders):
            return folder
    return "/".join(parts) or "."


def _word(name: str) -> str:
    return re.sub(r"_v\d+$", "", re.sub(r"[ -]", "_", name.casefold()))


def _below(folder: str, images: list[str]) -> list[str]:
    """Return those of the paths that are below `folder`."""
    return [path for path in images if folder == "." or path.startswith(f"{folder}/")]


def _find_parts(name: str, root: Path, images: list[str]) -> dict[str, str]:
    """Return part -> its folder below `root`; {"test": "."} where no folder is called as a part."""
    found: dict[str, set[str]] = {}
    for folder in {path.rpartition("/")[0] for path in images}:
        parts = folder.split("/")
        for depth in range(len(parts), 0, -1):  # the innermost: val/query is query
            if part := _PART.get(_word(parts[depth - 1])):
                found.setdefault(part, set()).add("/".join(parts[:depth]))
                break

    def only(*parts: str) -> str:
        folders = sorted(set().union(*(found.get(part, set()) for part in parts)))
        if len(folders) > 1:
            several = ", ".join(map(shown, folders[:3])) + (", ..." if len(folders) > 3 else "")
            raise DataError(
                f"{name}: {root} has several folders for the part {parts[0]}: {several}; give one set alone, with "
                f"reidgen prepare {name} --from DIR"
            )
        return folders[0]

    chosen = {"train": only("train")} if "train" in found else {}
    if "query" in found:
        query = only("query")
        for part in ("test", "val"):  # what is above the queries is not beside them
            found[part] = {one for one in found.get(part, set()) if not query.startswith(f"{one}/")}
        gallery = next((part for part in ("gallery", "test", "val") if found.get(part)), "")
        chosen |= {"query": query} | ({"gallery": only(gallery)} if gallery else {})
    elif "gallery" in found:
        chosen |= {"gallery": only("gallery")}
    elif there := next((part for part in ("test", "val") if found.get(part)), ""):
        chosen |= {"test": only(there)}
    _both(name, root, chosen, "the folders")
    return chosen or {"test": "."}


def _both(name: str, where: Path, parts: Iterable[str], what: str) -> None:
    """Raise DataError when there is a query part without a gallery, or the other way round."""
    if ("query" in parts) != ("gallery" in parts):
        raise DataError(f"{name}: {where} has one of {what} query and gallery; give both, or test instead of them")


def _with_junk(dataset: Dataset, who: dict[str, set[str]]) -> Dataset:
    """Return the entry with Market's rule for the people -1 and 0. who: part -> names of the people in it."""
    zero = {part for part, people in who.items() if any(number_of(one) == 0 for one in people)}
    crowd = bool(zero) and not zero & {"train", "query"}
    return Dataset(
        name=dataset.name,
        pattern=dataset.pattern,
        folders=dataset.folders,
        lists=dataset.lists,
        list_format=dataset.list_format,
        junk=(-1,),
        distractors=(0,) if crowd else (),
    )


# --- choosing a reading -------------------------------------------------------------------------------------------

Names = list[tuple[str, str]]  # person and camera of each image


def _choose(name: str, root: Path, inside: dict[str, list[str]]) -> str:
    """Return the pattern that reads all images; inside: part -> its images, relative to `root`.

    A reading fits when all images have their person and camera by it, nobody is called as a part or a camera, and
    folders that it does not look at are the same for all images of a part. Names of Market-1501 and MARS win over
    folders. Others must agree on who is the same person, and no folder or name may speak of another camera.
    Raises DataError otherwise.
    """
    paths = [path for some in inside.values() for path in some]
    fits: list[tuple[Reading, Names]] = []
    unfit, unclear = paths, False
    for reading in READINGS:
        names, left = _read(reading.pattern, reading.levels, paths)
        if not left and not reading.flat and any(_varies(some, reading.levels) for some in inside.values()):
            unclear = True
            continue
        if not left:
            fits.append((reading, names))
        elif len(left) < len(unfit):
            unfit = left
    if any(reading.market for reading, _ in fits):
        fits = [one for one in fits if one[0].market][:1]
    if len(fits) > 1:
        fits = [one for one in fits if len({person for person, _ in one[1]}) > 1] or fits
    if not fits:
        what = f"cannot tell which folder of names such as {shown(paths[0])!r} is the person"
        raise DataError(_question(name, root, paths, what if unclear else _complaint(paths, unfit)))
    _, names = fits[0]
    for path, (_, camera) in zip(paths, names, strict=True):
        for other in _cameras(path):
            if same(other) != same(camera):
                what = f"{shown(path)!r} names the cameras {camera} and {other}"
                raise DataError(_question(name, root, paths, what, [one.pattern for one, _ in fits]))
    for reading, others in fits[1:]:
        if (place := _difference(names, others)) is not None:
            (person, camera), (other, view) = names[place], others[place]
            what = (
                f"{shown(paths[place])!r} can be read as person {shown(person)}, camera {camera}, and as person "
                f"{shown(other)}, camera {view}"
            )
            raise DataError(_question(name, root, paths, what, [fits[0][0].pattern, reading.pattern]))
    return fits[0][0].pattern


def _read(pattern: str, levels: int, paths: list[str]) -> tuple[Names, list[str]]:
    """Return person and camera of each path that fits, and the paths that do not."""
    match = re.compile(pattern).fullmatch
    names, left = [], []
    people: dict[str, bool] = {}
    for path in paths:
        found = match("/".join(path.split("/")[-levels - 1 :]))
        person = found["pid"] if found else ""
        if person not in people:
            people[person] = bool(person) and not never_a_person(person)
        if found and people[person]:
            names.append((person, found["camid"]))
        else:
            left.append(path)
    return names, left


def _varies(paths: list[str], levels: int) -> bool:
    """Tell whether the folders above those that a reading looks at differ; such as `images` do not count."""
    above = set()
    for path in paths:
        folders = path.split("/")[: -levels - 1]
        above.add(tuple(one for one in folders if not re.fullmatch(_IMAGES, one, re.IGNORECASE)))
    return len(above) > 1


def _cameras(path: str) -> list[str]:
    """Return the cameras of which the folders of a path speak, and its name."""
    *folders, file = path.split("/")
    found = [one["camid"] for folder in folders if (one := re.fullmatch(_CAMERA_FOLDER, folder, re.IGNORECASE))]
    return found + [one["camid"] for one in re.finditer(rf"(?<![a-z0-9]){_CAMERA}(?={_MORE})", file, re.IGNORECASE)]


def _difference(names: Names, others: Names) -> int | None:
    """Return the first image at which two readings do not tell the same people and cameras apart, None
    where they do.
    """
    for side in (0, 1):
        there: dict[str, str] = {}
        back: dict[str, str] = {}
        for place, (one, other) in enumerate(zip(names, others, strict=True)):
            left, right = same(one[side]), same(other[side])
            if there.setdefault(left, right) != right or back.setdefault(right, left) != left:
                return place
    return None


def _complaint(paths: list[str], unfit: list[str]) -> str:
    if len(unfit) == len(paths):
        return f"cannot tell the camera from names such as {shown(unfit[0])!r}"
    some = f"the names of {len(unfit):,} of {len(paths):,} images"
    return f"cannot tell the camera from {some}, such as {shown(unfit[0])!r}; remove or rename them, or"


def _question(name: str, root: Path, paths: list[str], what: str, patterns: Iterable[str] = ()) -> str:
    """Return the question for a pattern: what is not clear, two or three patterns, and what each would read."""
    plain = [(pattern, levels, *_read(pattern, levels, paths)) for pattern, levels in _OFFERS]
    offers = [(one.pattern, _read(one.pattern, one.levels, paths)[0]) for one in READINGS if one.pattern in patterns]
    fitting = [(pattern, names) for pattern, _, names, left in plain if not left]
    offers += sorted(fitting, key=lambda one: -_promise(one[1]))
    lines: list[str] = []
    told: list[Names] = []
    for pattern, names in offers:
        if len(told) == 2 and _promise(names) < 3:
            break
        if len(names) != len(paths) or any(_difference(names, other) is None for other in told):
            continue
        told.append(names)
        far = next(
            (i for i, one in enumerate(names) if one[0] != names[0][0] and one[1] != names[0][1]), len(paths) - 1
        )
        reads = ", ".join(
            f"{shown(paths[i])} as person {shown(names[i][0])}, camera {shown(names[i][1])}"
            for i in dict.fromkeys((0, far))
        )
        people, cameras = (len({same(one[side]) for one in names}) for side in (0, 1))
        count = f"{people:,} {'person' if people == 1 else 'people'}, {cameras:,} camera{'s' * (cameras != 1)}"
        lines.append(f"  --pattern {shlex.quote(pattern)}\n      reads {reads}: {count}")
        if len(told) == 3:
            break
    again = f"reidgen prepare {name} --from {shlex.quote(str(root))}"
    what += "" if what.endswith(" or") else ";"
    if not lines:
        return (
            f"{name}: {what} put the camera into the names (anna/c1_0001.jpg), add a --pattern, or "
            f"write a CSV with path,pid,camid and run: {again}/list.csv"
        )
    return "\n".join(
        [
            f"{name}: {what} add to {again} the pattern that reads them rightly, or give a CSV with path,pid,camid:",
            *lines,
        ]
    )


def _promise(names: Names) -> float:
    """Return how likely a reading is right, by what real sets are like: few cameras, people seen by several of them."""
    people: dict[str, set[str]] = {}
    seen: dict[str, set[str]] = {}
    for person, camera in names:
        people.setdefault(person, set()).add(camera)
        seen.setdefault(camera, set()).add(person)
    several = sum(len(cameras) > 1 for cameras in people.values()) / len(people)
    shared = sum(len(persons) > 1 for persons in seen.values()) / len(seen)
    few = len(seen) <= min(64, max(2, len(names) // 4))
    return several + shared + few + (1 < len(people) < len(names))


# --- lists --------------------------------------------------------------------------------------------------------


def _own_table(name: str, file: Path, pattern: str | None) -> Dataset:
    """Return the entry for the own crops that a list names; its image root is the folder above all of them."""
    if pattern is not None:
        raise DataError(f"{name}: {file} names person and camera itself; leave out --pattern")
    file = file.resolve()
    rows = read_table(file, file.parent)
    root = common_root([file, *(Path(os.path.normpath(file.parent / one.path)) for one in rows)])
    parts = dict.fromkeys(one.split or "test" for one in rows if one.split != "val")
    crowd = set(parts) - {"train"} == {"gallery"} and not any(one.pid for one in rows if one.split == "gallery")
    if not crowd:  # crops of nobody are a gallery without queries
        _both(name, file, parts, "the splits")
    if {"query", "test"} <= set(parts):
        raise DataError(f"{name}: {file} has the splits query and test; name query and gallery, or test alone")
    lists = {part: (file.relative_to(root).as_posix(),) for part in parts}
    folders = {part: (".",) for part in parts}
    dataset = Dataset(name=name, pattern=".*", folders=folders, lists=lists, list_format="table")
    who = {part: {one.pid for one in rows if (one.split or "test") in (part, "test")} for part in parts}
    return _with_junk(dataset, who)
