"""From a folder in its original layout to rows (split, part, path, pid, camid), by the catalogue's entry alone."""

import heapq
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from reidgen.data.lists import Named, beside, read_list
from reidgen.data.naming import number_of, numbers, shown, spellings
from reidgen.data.partitions import divide
from reidgen.entries import Dataset
from reidgen.errors import DataError
from reidgen.escapes import many

# What is read as an image: every suffix of the kinds that `images.KINDS` decodes.
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".avifs", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".mpo", ".tga"),
    *(".icb", ".vda", ".vst", ".ico", ".cur", ".icns", ".qoi", ".psd", ".pcx", ".dcx", ".sgi", ".rgb", ".rgba", ".bw"),
    *(".ras", ".dds", ".xbm", ".xpm", ".im", ".msp", ".pcd", ".pxr", ".fli", ".flc", ".ftc", ".ftu", ".blp"),
)
KINDS_IN_WORDS = ".jpg, .png, .bmp, .webp, .tif, .gif and whatever else Pillow reads"
DEPTH = 2  # folders below the one given in which a set is looked for


@dataclass(frozen=True, kw_only=True)
class Found:
    """What `read` found. dataset: the entry in the form that fitted; root: the image root that the paths start from;
    rows: see `read`; kept: path, pid, camid, and person and camera as the names say them, of every image of the set,
    once, of those too that no split shows; junk: images left out; joined: spellings of one person or camera, for
    people."""

    dataset: Dataset
    root: Path
    rows: pd.DataFrame
    kept: pd.DataFrame
    junk: int
    joined: list[str]


def read(dataset: Dataset, root: Path) -> Found:
    """Return what names and lists tell of the set that lies in `root`, see `locate`, in the first of its forms that
    fits.

    The rows have the columns split, part, path, pid and camid of ARCHITECTURE.md, sorted by (split, part, path); no
    image is opened. Left out: hidden files, files that are no images by their suffix, those of `skip`, junk identities.
    Names that are not numbers are numbered in sorted order, from 1; all spellings of one name get one number, see
    `naming.same`. In a set whose parts number their people apart, those tested are counted on from the last one trained
    on. An image that a list gives to query and gallery stands in both, if it is of one person and camera.

    A folder `train` is all training. A folder `test` is divided: with query_cameras, their images are the queries
    and all others the gallery; otherwise, of each identity seen by two cameras or more, the first image (by path) of
    each camera is a query and the rest is gallery; distractors and images of nobody are gallery. Where that would leave
    a query without a match (cameras with a single image), the last such camera keeps its image in the gallery. An
    identity seen by one camera is gallery.
    Splits and single shots: `partitions.divide`.

    Raises DataError when the folder is missing, wrong or empty, names do not fit the pattern, a list or partition file
    does not fit the images, or no query has a match.
    """
    root = locate(dataset, root)
    dataset = next(one for one in dataset.variants() if not _lacking(one, root))
    kept, junk, joined = _numbered(dataset, _named(dataset, root))
    columns = ["split", "part", "path", "pid", "camid"]
    rows = divide(dataset, kept, root)[columns].sort_values(["split", "part", "path"], ignore_index=True)
    kept = kept[["path", "pid", "camid", "person", "camera"]].drop_duplicates("path")
    kept = kept.sort_values("path", ignore_index=True)
    return Found(dataset=dataset, root=root, rows=rows, kept=kept, junk=junk, joined=joined)


def locate(dataset: Dataset, root: Path) -> Path:
    """Return the image root, resolved: `root`, or the only folder below it (up to two levels) or directly above it that
    has all of the set's sub-folders, lists and partitions, in one of its forms. `root` may also be one of its lists.

    Raises DataError that says what is there instead.
    """
    root = (root.is_file() and _root_of_table(dataset, root.resolve())) or root
    check_folder(dataset.name, root)
    root = root.resolve()
    forms, levels = dataset.variants(), [[root], _folders(dataset.name, root)]
    for form in forms:
        for depth in range(DEPTH + 1):
            if depth == len(levels):
                levels.append([below for one in levels[-1] for below in _folders(dataset.name, one)])
            fits = [one for one in levels[depth] if not _lacking(form, one)]
            if len(fits) > 1:
                what = f"holds {len(fits)} copies of the set: give one of them, such as {fits[0]}"
                raise DataError(_advice(dataset, root, what))
            if fits:
                check_folder(dataset.name, fits[0])
                return fits[0]
    for form in forms:
        if not _lacking(form, root.parent):
            if {_folder(root.parent, one) for some in form.folders.values() for one in some} == {root.name}:
                return root.parent
            raise DataError(_advice(dataset, root, f"is one part of the set: give {root.parent}"))
    lacking = _lacking(forms[0], root)
    inside = ", ".join([one.name for one in _folders(dataset.name, root) if one.name.isprintable()][:5]) or "no folders"
    what = f"lacks {', '.join(lacking)} (it has {inside}): give the folder that holds them"
    raise DataError(_advice(dataset, root, what))


def is_below(path: str, folders: Iterable[str]) -> bool:
    """Tell whether `path` lies below one of the folders; both relative to the image root, with `/`."""
    return any(folder == "." or path.startswith(f"{folder}/") for folder in folders)


def _advice(dataset: Dataset, root: Path, what: str) -> str:
    return f"{dataset.name}: {root} {what}, with reidgen prepare {dataset.name} --from DIR"


def _folder(root: Path, options: str) -> str | None:
    """Return the first of the folders "a|b" that is below `root`."""
    return next((one for one in options.split("|") if (root / one).is_dir()), None)


def _lacking(dataset: Dataset, root: Path) -> list[str]:
    """Return what would have to be in `root` for it to be the set's image root, and is not."""
    wanted = dict.fromkeys(one for some in dataset.folders.values() for one in some)
    folders = [one.replace("|", " or ") for one in wanted if _folder(root, one) is None]
    files = dict.fromkeys([*(one for some in dataset.lists.values() for one in some), dataset.partitions])
    return folders + [file for file in files if file and beside(root, file) is None]


def _folders(name: str, place: Path) -> list[Path]:
    """Return the folders in `place` that may be read, sorted; hidden ones are left out."""
    try:
        folders = [one for one in place.iterdir() if one.is_dir() and not one.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{name}: cannot read the folder {place}: {error.strerror}") from error
    return sorted(one for one in folders if os.access(one, os.R_OK | os.X_OK))


def _root_of_table(dataset: Dataset, file: Path) -> Path | None:
    """Return the image root when `file` is a list of the set, which its path below the image root tells."""
    for one in (one for some in dataset.lists.values() for one in some):
        if file.as_posix().endswith(f"/{one}"):
            return Path(file.as_posix().removesuffix(one))
    return None


def check_folder(name: str, root: Path) -> None:
    """Raise DataError when `root` is no folder whose path can be written down."""
    try:
        str(root.resolve()).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{name}: the path {str(root.resolve())!a} is not valid UTF-8; rename the folder") from error
    if root.is_file():
        raise DataError(f"{name}: {root} is a file; unpack it, then run: reidgen prepare {name} --from FOLDER")
    if not root.is_dir():
        raise DataError(f"{name}: there is no file or folder {root}; run: reidgen prepare {name} --from DIR")


@dataclass(frozen=True)
class Files:
    """What lies in a folder. images: sorted, relative to the image root with `/`, see `image_files`; others: what is
    no image and was left out, suffix (or "hidden") -> how many; twice: links to folders that were read already."""

    images: list[str]
    others: dict[str, int]
    twice: list[str]

    @property
    def left_out(self) -> list[str]:
        """Sentences for people on what was left out."""
        said = []
        if self.others:
            kinds = ", ".join(f"{count:,} {shown(kind)}" for kind, count in sorted(self.others.items()))
            said.append(f"left out, as no images: {kinds}")
        if self.twice:
            links = many(len(self.twice), "link")
            said.append(f"left out: {links} to what is read already, such as {shown(self.twice[0])}")
        return said


MARKER = "unpacked.json"  # ours: written last into an unpacked folder


def image_files(root: Path, folder: str) -> Files:
    """Return the image files below root/folder; hidden files and folders are left out, and our own MARKER.

    Links are followed, but each folder is read once: under its own name where it lies below root/folder, otherwise
    under the first link to it. A link to nothing is returned, for whoever opens it to report; a pipe or device is not.
    A byte of a name that is no UTF-8 stands as \\xNN, see `images.file_of`.
    """
    images: list[str] = []
    links: list[tuple[int, str]] = []  # depth first: the shortest name stands for a folder
    twice: list[str] = []
    others = Counter[str]()
    folder = str(PurePosixPath(folder))
    folders, start = [f"{root}/{folder}"], len(f"{root}/./" if folder == "." else f"{root}/")
    seen = _above(folders[0])  # a link upwards would read the whole again
    while folders or links:
        here = folders.pop() if folders else heapq.heappop(links)[1]
        try:
            facts = os.stat(here)  # noqa: PTH116 - texts are several times faster than paths
            if (facts.st_dev, facts.st_ino) in seen:
                twice.append(_text(here[start:]))
                continue
            seen.add((facts.st_dev, facts.st_ino))
            with os.scandir(here) as entries:
                for one in entries:
                    match _kind(one):
                        case "folder":
                            folders.append(one.path)
                        case "link":
                            heapq.heappush(links, (one.path.count("/"), one.path))
                        case "image":
                            images.append(_text(one.path[start:]))
                        case kind if not (one.name == MARKER and len(one.path) - len(one.name) <= start):
                            others[kind] += 1
        except OSError as error:
            raise DataError(f"cannot read the folder {error.filename}: {error.strerror}") from error
    return Files(sorted(images), dict(others), sorted(twice))


def _kind(entry: "os.DirEntry[str]") -> str:
    """Return what an entry of a folder is: folder, link (to a folder), image, or what it counts as where it is left
    out.
    """
    if entry.name.startswith(".") or entry.name == "__MACOSX":
        return "hidden"
    if entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    if not entry.name.lower().endswith(SUFFIXES):
        return PurePosixPath(entry.name).suffix.lower() or "without a suffix"
    try:
        return "image" if entry.is_file() or not os.path.exists(entry.path) else "pipes or devices"  # noqa: PTH110
    except OSError:  # a link to itself
        return "image"


def _above(folder: str) -> set[tuple[int, int]]:
    """Return the identities of all folders above `folder`, as the system numbers them."""
    facts = [one.stat() for one in Path(folder).resolve().parents]
    return {(one.st_dev, one.st_ino) for one in facts}


def _text(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _parts(dataset: Dataset, root: Path) -> Iterator[tuple[str, str, list[Named]]]:
    """Yield (part, folder, images) for each list and each folder of the set; a folder's images name nobody yet."""
    table = dataset.list_format == "table"
    for part, some in dataset.folders.items():
        folders = [_folder(root, one) or one for one in some]
        for file in dataset.lists.get(part, ()):
            found = beside(root, file)
            assert found is not None  # `locate` saw it
            yield part, folders[0], read_list(found, root=root, folder=folders[0], part=part, table=table)
        if part not in dataset.lists:
            listed = [(folder, image_files(root, folder).images) for folder in folders]
            if not any(images for _, images in listed):
                raise DataError(
                    f"{dataset.name}: no images in {root / folders[0]} ({KINDS_IN_WORDS}); "
                    f"extract the set again, or give another folder: reidgen prepare {dataset.name} --from DIR"
                )
            yield from ((part, folder, [Named(path, "", "", "") for path in images]) for folder, images in listed)


def _named(dataset: Dataset, root: Path) -> pd.DataFrame:
    """Return one row per image: part, path, name (the path below its folder), person and camera as texts.

    Person and camera are empty where a table of own crops, or a folder's name, names nobody.
    """
    rows: list[tuple[str, str, str, str, str]] = []
    unfit: list[str] = []
    folders = {one for some in dataset.folders.values() for options in some for one in options.split("|")}
    parts = folders | {PurePosixPath(one).name for one in folders}
    for part, folder, images in _parts(dataset, root):
        prefix = f"{PurePosixPath(folder)}/"
        table = dataset.list_format == "table" and part in dataset.lists
        for path, pid, camid, _ in images:
            if dataset.skips(path):
                continue
            person, camera = pid, camid
            unknown = not table and is_below(path, dataset.nobody)
            if unknown and part not in ("gallery", "test"):
                raise DataError(
                    f"{dataset.name}: {shown(path)!r} is of nobody, as its folder's name says, and cannot be a {part} "
                    "image; move it to the gallery"
                )
            if not table and not unknown and not (pid and camid):
                person, camera = dataset.match(path) or ("", "")
                person, camera = pid or person, camid or camera
            if not table and not unknown and (not person or not camera or person in parts):  # a part is no person
                unfit.append(path)
            rows.append((part, path, path.removeprefix(prefix), person, camera))
    if unfit:
        raise DataError(
            f"{dataset.name}: {len(unfit):,} of {len(rows):,} images have names that do not fit the pattern "
            f"{dataset.pattern}, such as {shown(unfit[0])!r}; rename or remove them, or correct the pattern"
        )
    if not rows:
        raise DataError(f"{dataset.name}: skip = {dataset.skip!r} leaves no image in {root}; correct datasets.toml")
    named = pd.DataFrame(rows, columns=["part", "path", "name", "person", "camera"])
    if len(twice := named[named["path"].duplicated(keep=False)]):
        _refuse_twice(dataset, twice)
    return named


def _refuse_twice(dataset: Dataset, twice: pd.DataFrame) -> None:
    """Raise DataError unless each image that is named twice is, by a list, a query and the same one of the gallery."""
    for path, rows in twice.groupby("path", sort=True):
        parts = rows["part"].tolist()
        alike = not rows.duplicated(["person", "camera"], keep=False).eq(False).any()
        if sorted(parts) != ["gallery", "query"] or not set(parts) <= set(dataset.lists):
            raise DataError(
                f"{dataset.name}: {shown(str(path))!r} is named twice, in {' and '.join(parts)}; each image belongs to "
                "one part, once: correct the list or the folders"
            )
        if not alike:
            raise DataError(
                f"{dataset.name}: {shown(str(path))!r} is of one person and camera in query, of others in gallery; "
                "correct the list"
            )


def _numbered(dataset: Dataset, rows: pd.DataFrame) -> tuple[pd.DataFrame, int, list[str]]:
    """Return the rows with the numbers pid and camid, without junk; the number of junk images; what was joined."""
    numbered = {name: number_of(name) for name in rows["person"].unique()}
    junk = rows["person"].map(lambda name: numbered[name] in dataset.junk).astype(bool)
    kept = rows[~junk]  # before numbers are given, which must not turn junk into a person or a person into junk
    joined = [*_joined(dataset, kept, "person"), *_joined(dataset, kept, "camera")]
    if dataset.apart:
        train = kept["part"] == "train"
        pid = kept["person"][train].map(numbers(kept["person"][train])).astype("int64")
        others = kept["person"][~train].map(numbers(kept["person"][~train])).astype("int64")
        pid = pd.concat([pid, others + (pid.max() + 1)])
    else:
        pid = kept["person"].map(numbers(kept["person"])).astype("int64")
    cameras = dataset.cameras or numbers(rows["camera"])
    strange = kept[~kept["camera"].isin(list(cameras))]
    if len(strange):
        raise DataError(
            f"{dataset.name}: {many(len(strange), 'image')} of cameras that are not in the catalogue, such as "
            f"{strange['path'].iloc[0]!a} (known: {', '.join(cameras)}); remove them, or correct datasets.toml"
        )
    return kept.assign(pid=pid, camid=kept["camera"].map(cameras).astype("int64")), int(junk.sum()), joined


def _joined(dataset: Dataset, rows: pd.DataFrame, column: str) -> list[str]:
    """Return a sentence for each person or camera that is written in several ways.

    In one part, and apart from Unicode's forms of the same letters, such names may be two people: a DataError, but for
    sets of the catalogue, whose names are known.
    """
    sentences = []
    for names in spellings(rows[column].unique()):
        written = " and ".join(shown(one) for one in names)
        if len({unicodedata.normalize("NFC", one) for one in names}) < len(names):
            written += " (letters in two Unicode forms)"
        parts = rows[rows[column].isin(names)].groupby("part")[column].unique()
        several = [part for part, some in parts.items() if len({unicodedata.normalize("NFC", one) for one in some}) > 1]
        if several and column == "person" and dataset.status == "own":
            raise DataError(
                f"{dataset.name}: {written} may be one person or several (in {several[0]}); write one person alike "
                "everywhere, and others by names that differ in more than case or leading zeros"
            )
        sentences.append(f"{written} are taken for one {column}")
    return sentences
