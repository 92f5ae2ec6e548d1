"""Queries against a feature file: their embeddings, what is nearest to each, and the list that people read."""

# Q queries, N rows of the file, D features

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from reidgen.data.collection import Collection
from reidgen.data.images import decode, file_of, is_alone
from reidgen.data.naming import shown
from reidgen.errors import DataError
from reidgen.escapes import no_formula
from reidgen.features.approximate import Recall, index_of
from reidgen.features.nearest import nearest, rule_of
from reidgen.features.store import DIGITS, Features
from reidgen.files import sha256_file, write_text
from reidgen.runs import Progress

if TYPE_CHECKING:
    from reidgen.extractor import Embedder, Picture

BATCH = 256  # query images that are in memory at a time
COLUMNS = ("query", "rank", "distance", "path", "camera", "track", "person", "crops", "same")


class Queries(NamedTuple):
    """Query images. names: their paths, Q; digests: of their files; embedding_QD: float32 (Q, D); broken: path -> what
    is wrong with one that cannot be read."""

    names: list[str]
    digests: list[str]
    embedding_QD: NDArray[np.float32]
    broken: Mapping[str, str]


class Answer(NamedTuple):
    """What was found. hits: see `search`; recall: None where the search was exact."""

    hits: pd.DataFrame
    recall: Recall | None


def embed_queries(
    collection: Collection, features: Features, model: "Callable[[], Embedder]", report: Progress
) -> Queries:
    """Return the embeddings of query images, by the network that made the feature file.

    An image whose very bytes are in the file has its embedding from there; `model` is called where one has not.
    Raises DataError when the network is another one (by its digest), or no image can be read.
    """
    paths = collection.crops["path"].to_list()
    row = {digest: number for number, digest in enumerate(features.rows["sha256"])}
    names, digests, broken = list[str](), list[str](), dict[str, str]()
    parts, network = [], None
    for start in range(0, len(paths), BATCH):
        read = list[Image.Image | int]()  # an image to embed, or the row that has its embedding
        for path in paths[start : start + BATCH]:
            try:
                image, digest = decode(file_of(collection.root, path))
            except DataError as error:
                broken[path] = str(error)
                continue
            read.append(row.get(digest, image))
            names.append(path)
            digests.append(digest)
        part_BD = np.empty((len(read), features.dim), dtype=np.float32)
        known = [place for place, one in enumerate(read) if isinstance(one, int)]
        part_BD[known] = features.take(np.array([one for one in read if isinstance(one, int)], dtype=np.int64))
        if fresh := {place: one for place, one in enumerate(read) if isinstance(one, Image.Image)}:
            network = network or _fitting(model(), features)
            part_BD[list(fresh)] = network.embed(fresh.values())
        parts.append(part_BD)
        report("queries", start + len(part_BD), len(paths))
    if not names:
        path, what = next(iter(broken.items()))
        raise DataError(f"no query can be read, such as {shown(path)}: {what}")
    return Queries(names, digests, np.concatenate(parts), broken)


def embed_pictures(
    images: "Picture | Iterable[Picture]", features: Features, model: "Callable[[], Embedder]"
) -> Queries:
    """Return the embeddings of one query image or several, paths, PIL images or arrays: see `Extractor.embed`.

    They are called as their path, or else `image 1`, `image 2`, ...; those in memory are nobody's very picture.
    Raises DataError when the network is another one, an image is none, or there is no image.
    """
    given: list[Picture] = [images] if is_alone(images) else list(images)  # type: ignore[list-item, arg-type]
    if not given:
        raise DataError("there is no query image")
    named = [isinstance(image, str | Path) for image in given]
    names = [
        str(image) if known else f"image {n}" for n, (image, known) in enumerate(zip(given, named, strict=True), 1)
    ]
    embedding_QD = _fitting(model(), features).embed(given)
    digests = [sha256_file(Path(name))[:DIGITS] if known else "" for name, known in zip(names, named, strict=True)]
    return Queries(names, digests, embedding_QD, {})


def _fitting(model: "Embedder", features: Features) -> "Embedder":
    if model.info["digest"] != features.info["digest"]:
        theirs, ours = (
            f"{info['name']} ({info['test']}, {info['digest'][:DIGITS]})" for info in (features.info, model.info)
        )
        raise DataError(
            f"{features.file} was embedded by {theirs}, not by {ours}: distances between two networks mean nothing; "
            "give that run, or embed the images again"
        )
    return model


def search(
    features: Features,
    queries: Queries,
    *,
    top: int,
    by: str = "crop",
    approximate_above: int | None = None,
    report: Progress,
) -> Answer:
    """Return what is nearest to each query, as a DataFrame of COLUMNS, a query's rows together, nearest first.

    by: "crop", the `top` nearest images; "track", the `top` nearest tracks, each by its nearest image (`crops` says
    how many it has; a track is one of a camera, an image without one is alone); "camera", the `top` nearest images of
    every camera, the camera with the nearest first. rank counts from 1 within a query, or within its camera.
    distance: squared Euclidean of unit vectors, 0 to 4; cosine = 1 - distance / 2. same: whether it is the query's very
    picture. approximate_above: the size of the file above which the search is approximate, see `approximate`.
    Raises DataError for another `by`, a `top` below 1, and tracks or cameras where none is known.
    """
    rule = rule_of(features, by, top)
    recall = None
    if approximate_above is not None and len(features) > approximate_above:
        index = index_of(features, report)
        ranked = index.nearest(queries.embedding_QD, rule, top, report)
        recall = index.recall(by, top, report)
    else:
        ranked = nearest(features, queries.embedding_QD, rule, report)
    size_G = np.bincount(rule.group_N) if by == "track" else None
    parts = []
    for name, digest, one in zip(queries.names, queries.digests, ranked, strict=True):
        hits = features.rows.iloc[one.rows]
        hits = hits.assign(query=name, distance=one.distances, same=hits["sha256"] == digest)
        hits = hits.assign(crops=1 if size_G is None else size_G[rule.group_N[one.rows]])
        if by == "camera":  # the camera with the nearest first
            order = np.argsort(pd.factorize(hits["camera"])[0], kind="stable")
            hits = hits.iloc[order]
        within = hits.groupby("camera").cumcount() if by == "camera" else pd.Series(range(len(hits)), hits.index)
        parts.append(hits.assign(rank=within + 1))
    return Answer(pd.concat(parts)[list(COLUMNS)].reset_index(drop=True), recall)


def has_tracks(features: Features) -> bool:
    """Tell whether the file knows a track of several images."""
    tracks = features.rows[features.rows["track"] != ""]
    return bool(tracks.duplicated(["camera", "track"]).any())


def write_hits(file: Path, hits: pd.DataFrame) -> None:
    """Write what `search` found as CSV; names that a spreadsheet would take for a formula are quoted."""
    texts = ["query", "path", "camera", "track", "person"]
    told = hits.assign(**{name: hits[name].map(shown).map(no_formula) for name in texts}, same=hits["same"].astype(int))
    write_text(file, told.to_csv(index=False, float_format="%.6g"))
