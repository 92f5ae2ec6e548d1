"""A collection of crops through a network into a feature file: streamed, resumed, and never of two networks.

An embedding is kept by the bytes of its image, so that one that was renamed or lies there twice is embedded once, and
one that was changed is embedded anew. Images are read in windows of always the same paths, whichever of them are
known already: after a kill the same command makes the same batches, and so the same bits.
"""

# N images that can be read, B images of one window, D features

import contextlib
import functools
import glob
import hashlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidgen import __version__
from reidgen.data.collection import KNOWN, Collection
from reidgen.data.images import decode, file_of, resized, windows
from reidgen.data.naming import shown
from reidgen.errors import DataError
from reidgen.escapes import many, no_formula
from reidgen.features.store import BLOCK, COLUMNS, DIGITS, Features, check_name, open_features, write_features
from reidgen.files import read_regular, write_text
from reidgen.locks import hold, remove_free
from reidgen.runs import Progress

if TYPE_CHECKING:
    from reidgen.extractor import Embedder

BATCH = 256  # images between two looks at the progress
# What a feature file says of its network, where the network knows it.
FACTS = "name digest test method title recipe hash backbone source seed height width dtype version torch asked".split()


class Made(NamedTuple):
    """What `embed_images` did. new: pictures that were embedded now; copies: images with the very bytes of an earlier
    one, path -> that one; broken: path -> what is wrong with it; listed: the file that names those, or None."""

    file: Path
    images: int
    new: int
    copies: Mapping[str, str]
    broken: Mapping[str, str]
    listed: Path | None


class _Image(NamedTuple):
    """An image that was read; its digest alone where its embedding is known."""

    digest: str
    width: int = 0
    height: int = 0
    pixels: NDArray[np.uint8] | None = None


def embed_images(
    model: "Embedder",
    collection: Collection,
    out: Path,
    *,
    said: str,
    say: Callable[[str], None],
    report: Progress,
) -> Made:
    """Embed all crops of a collection into a feature file, see `store.Features`, and return what was done.

    What the file, or an interrupted call, holds of this network is kept where an image's bytes are the same; a file of
    another network, or another test, is refused. Memory holds two windows of pixels (1,024 images each) and the names
    of all images. Processes decode where there are many images, while the network works: on one core an image
    of 128x64 takes 0.7 ms, where embedding it takes 1.3 ms (tiny, 64x32), 35 ms (MobileNetV2, 256x128) or 126 ms
    (ResNet-50), so that a CPU wins little by it and a GPU much. Images that cannot be read are left out and listed in
    OUT.broken.csv. What the file held of other images is left out, and `say` tells so.
    said: how the user named the crops, kept in the file.
    Raises DataError when no image can be read, `out` is no name, or a file of something else or of another network;
    BusyError when another process writes it; ReidgenError.
    """
    check_name(out)
    parts = out.with_name(f".{out.name}.parts")
    with _held(parts, out):
        old = _old(out, model.info["digest"])
        kept = _Kept(model, parts, old)
        found, broken = list[tuple[str, str]](), dict[str, str]()
        for done, window in _ahead(collection, model.info, kept.place):
            good = [(path, one) for path, one in window if isinstance(one, _Image)]
            broken |= {path: one for path, one in window if isinstance(one, str)}
            found += [(path, one.digest) for path, one in good]
            shares = kept.add([one for _, one in good if one.pixels is not None])
            for share in shares:
                report("embedding", done + int(share * len(window)), len(collection.crops))
        if not found:
            path, what = next(iter(broken.items()))
            raise DataError(f"none of {len(broken):,} images can be read, such as {shown(path)}: {what}")
        rows = kept.rows(found, collection.crops)
        info = {**_facts(model), "images": said, "broken": len(broken)}
        if old is not None and (gone := len(set(old.rows["path"]) - set(rows["path"]))):
            say(f"{many(gone, 'image')} that {out} held before, of {old.info['images']}, left out now")
        if old is None or not _same(old, info, rows):
            write_features(out, info, rows, kept.gather(rows["sha256"]))
        listed = _list_broken(out, broken)
        kept.forget()
    return Made(out, len(rows), kept.new, _copies(rows), broken, listed)


class _Kept:
    """The embeddings of one network that are there already: in the feature file, and in what a call has kept since.

    place: the digest of an image -> the store that holds its embedding, and the row there. new: how many were added.
    """

    def __init__(self, model: "Embedder", folder: Path, old: Features | None) -> None:
        self.model, self.folder, self.new = model, folder, 0
        self.stores = [*([old] if old else []), *_parts(folder, model.info["digest"])]
        self.place: dict[str, tuple[int, int]] = {}
        for number in range(len(self.stores)):
            self._place(number)

    def _place(self, number: int) -> None:
        for row, digest in enumerate(self.stores[number].rows["sha256"]):
            self.place.setdefault(digest, (number, row))

    def add(self, images: list[_Image]) -> Iterator[float]:
        """Embed the images that are not known, and keep them in a file, so that a kill loses one window at most.

        Yields the share of them that is done, 1 at the end.
        """
        fresh = list({one.digest: one for one in images if one.digest not in self.place}.values())
        parts = []
        for start in range(0, len(fresh), BATCH):
            batch = fresh[start : start + BATCH]
            parts.append(self.model.embed([one.pixels for one in batch if one.pixels is not None]))
            yield (start + len(batch)) / (len(fresh) + 1)
        if fresh:
            rows = pd.DataFrame([("", *one[:3]) for one in fresh], columns=list(COLUMNS[:4]))
            file = self.folder / f"{len(self.stores):06}-{fresh[0].digest}.npz"
            write_features(file, _facts(self.model), rows.assign(**dict.fromkeys(KNOWN, "")), parts)
            self.stores.append(open_features(file))
            self._place(len(self.stores) - 1)
            self.new += len(fresh)
        yield 1.0

    def rows(self, found: list[tuple[str, str]], crops: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the feature file for images that were read: (path, digest)."""
        rows = pd.DataFrame(found, columns=["path", "sha256"])
        sizes = pd.concat([store.rows[["sha256", "width", "height"]] for store in self.stores])
        rows = rows.merge(sizes.drop_duplicates("sha256"), on="sha256", how="left", validate="many_to_one")
        return rows.merge(crops, on="path", how="left", validate="one_to_one")[list(COLUMNS)]

    def gather(self, digests: "pd.Series[str]") -> Iterator[NDArray[np.float32]]:
        """Yield the embeddings of images in order, a block at a time."""
        for start in range(0, len(digests), BLOCK):
            here = np.array([self.place[digest] for digest in digests[start : start + BLOCK]])
            block_BD = np.empty((len(here), self.model.dim), dtype=np.float32)
            for number in np.unique(here[:, 0]).tolist():
                own = here[:, 0] == number
                block_BD[own] = self.stores[number].take(here[own, 1])
            yield block_BD

    def forget(self) -> None:
        """Remove the files of the call: the feature file holds all."""
        for file in self.folder.glob("*.npz"):
            file.unlink()


@contextlib.contextmanager
def _held(parts: Path, out: Path) -> Iterator[None]:
    """Hold the folder of what is kept meanwhile; it vanishes when nothing is in it. A killed call's leftovers, too."""
    try:
        with contextlib.ExitStack() as behind, hold(parts, wait=False):
            behind.callback(remove_free, parts)  # its claims count until the hold has ended
            for left in [*parts.glob(".*.part"), *out.parent.glob(f".{glob.escape(out.name)}.*.part")]:
                left.unlink(missing_ok=True)
            yield
    except OSError as error:
        raise DataError(f"cannot write in {parts.parent}: {error.strerror or error}") from error


def _old(out: Path, digest: str) -> Features | None:
    """Return the feature file that is there, None where there is none. Raises DataError for one of another network."""
    if not out.exists():
        return None
    old = open_features(out)
    if old.info["digest"] == digest:
        old.check()
        return old
    test = "" if old.info["test"] == "plain" else f" ({old.info['test']})"
    raise DataError(
        f"{out} holds embeddings of another network, {old.info['name']}{test}; give another --out, or remove it"
    )


def _parts(folder: Path, digest: str) -> list[Features]:
    """Return what an interrupted call left of this network; what is of another, or damaged, is removed."""
    found = []
    for file in sorted(folder.glob("*.npz")):
        try:
            part = open_features(file)
            part.check()
        except DataError:
            part = None
        if part is not None and part.info["digest"] == digest:
            found.append(part)
        else:
            file.unlink()
    return found


def _ahead(
    collection: Collection, info: Mapping[str, Any], known: Mapping[str, object]
) -> Iterator[tuple[int, list[tuple[str, _Image | str]]]]:
    """Yield how many paths are done, and the next window of (path, what was read or what is wrong); a thread waits for
    the one after it meanwhile.
    """
    paths = collection.crops["path"].to_list()
    size = (int(info["width"]), int(info["height"]))
    work = functools.partial(_read, root=collection.root, size=size, known=frozenset(known))
    found = windows(work, paths, what="embedding")
    done = 0
    with contextlib.closing(found), ThreadPoolExecutor(max_workers=1) as reader:
        waiting = reader.submit(next, found, None)
        while (window := waiting.result()) is not None:
            waiting = reader.submit(next, found, None)
            yield done, list(zip(paths[done : done + len(window)], window, strict=True))
            done += len(window)


def _read(path: str, *, root: Path, size: tuple[int, int], known: frozenset[str]) -> _Image | str:
    """Return an image, resized where its embedding is not known, or what is wrong with it."""
    file = file_of(root, path)
    if known:
        with contextlib.suppress(OSError):
            if (digest := hashlib.sha256(read_regular(file)).hexdigest()[:DIGITS]) in known:
                return _Image(digest)
    try:
        image, digest = decode(file)
    except DataError as error:
        return str(error)
    return _Image(digest, image.width, image.height, resized(image, size))


def _facts(model: "Embedder") -> dict[str, Any]:
    facts = {key: model.info[key] for key in FACTS if key in model.info}
    return {**facts, "dim": model.dim, "embedded_by": __version__}


def _same(old: Features, info: Mapping[str, Any], rows: pd.DataFrame) -> bool:
    facts = {key: value for key, value in old.info.items() if key not in ("format", "rows")}
    return facts == info and len(old) == len(rows) and bool((old.rows == rows).to_numpy().all())


def _list_broken(out: Path, broken: Mapping[str, str]) -> Path | None:
    """Write OUT.broken.csv, or remove it where nothing is broken."""
    file = out.with_suffix(".broken.csv")
    if not broken:
        file.unlink(missing_ok=True)
        return None
    table = pd.DataFrame([(no_formula(shown(path)), what) for path, what in broken.items()], columns=["path", "what"])
    write_text(file, table.to_csv(index=False))
    return file


def _copies(rows: pd.DataFrame) -> dict[str, str]:
    first = rows.drop_duplicates("sha256").set_index("sha256")["path"]
    again = rows[rows["sha256"].duplicated()]
    return dict(zip(again["path"], again["sha256"].map(first), strict=True))
