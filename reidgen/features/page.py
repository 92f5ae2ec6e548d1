"""The page of a search: every query with its nearest crops, see `pages/search.html.jinja`."""

from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.data.naming import shown
from reidgen.errors import DataError
from reidgen.escapes import many
from reidgen.features.search import Answer, Queries
from reidgen.features.store import Features
from reidgen.pages.local import Thumbnail, thumbnail, write_page

MOST = 2000  # crops on a page, some 15 MB; further queries are left to the CSV


def write_search_page(
    file: Path,
    features: Features,
    queries: Queries,
    answer: Answer,
    *,
    by: str,
    asked: Path,
    images: Path | None,
) -> tuple[int, list[str]]:
    """Write the page, one self-contained HTML file; return how many queries are on it, and the crops that cannot be
    shown.

    images: the folder (or list) that was embedded, whose crops are shown then; None shows names and distances only.
    asked: the folder of the queries. Crops that are lost or were changed since are shown as such.
    Raises DataError, and writes nothing, when none of the crops can be shown.
    """
    grouped = dict(list(answer.hits.groupby("query", sort=False)))
    each = max((len(hits) for hits in grouped.values()), default=1)
    names = queries.names[: max(1, MOST // max(1, each))]
    root = images.parent if images and images.is_file() else images
    digest = dict(zip(features.rows["path"], features.rows["sha256"], strict=True))
    pictures: dict[str, Thumbnail] = {}

    def picture(path: str) -> Thumbnail | None:
        if root is not None and path not in pictures:
            pictures[path] = thumbnail(root, path, digest[path])
        return pictures.get(path)

    blocks = []
    for name in names:
        hits = grouped[name]
        lists = list(hits.groupby("camera", sort=False)) if by == "camera" else [("", hits)]
        blocks.append(
            {
                "name": shown(name),
                "picture": thumbnail(asked, name) if root is not None else None,
                "lists": [
                    (f"camera {shown(str(camera)) or 'not known'}" if by == "camera" else "", _cards(part, picture))
                    for camera, part in lists
                ],
            }
        )
    lost = [path for path, one in pictures.items() if not one.source]
    if lost and len(lost) == len(pictures):
        raise DataError(
            f"--images {images} holds none of the crops that were found, such as {shown(lost[0])}; name what was "
            f"embedded: {shown(str(features.info['images']))}"
        )
    write_page(
        file,
        "search",
        name=features.file.name,
        facts=_facts(features, answer, by, len(names), len(queries.names)),
        cameras=sorted({shown(one) for one in answer.hits["camera"] if one}),
        queries=blocks,
        shows=root is not None,
    )
    return len(names), lost


def _cards(hits: pd.DataFrame, picture: Any) -> list[dict[str, Any]]:
    cards = []
    for hit in hits.to_dict("records"):
        where = where_of({str(key): value for key, value in hit.items()})
        path, distance = shown(hit["path"]), f"{hit['distance']:.3f}"
        words = ", ".join(filter(None, (f"rank {hit['rank']}", f"distance {distance}", where, path)))
        cards.append(
            {
                "rank": hit["rank"],
                "distance": distance,
                "camera": shown(hit["camera"]),
                "where": where,
                "path": path,
                "same": hit["same"],
                "words": words,
                "alt": f"rank {hit['rank']}: {path}",
                "picture": picture(hit["path"]),
            }
        )
    return cards


def where_of(hit: dict[str, Any]) -> str:
    """Return what is known of a crop in words: camera, track and how many crops that has, person."""
    track = f"track {shown(hit['track'])}" if hit["track"] else ""
    crops = f"{hit['crops']} crops" if hit["crops"] > 1 else ""
    words = (f"{word} {shown(hit[word])}" if hit[word] else "" for word in ("camera", "person"))
    camera, person = words
    return ", ".join(filter(None, (camera, track, crops, person)))


def _facts(features: Features, answer: Answer, by: str, on_page: int, queries: int) -> dict[str, str]:
    info = features.info
    test = "" if info["test"] == "plain" else f" ({info['test']})"
    size = f"{many(len(features), 'image')} of {shown(str(info['images']))} ({features.file.name})"
    facts = {"Searched": size, "By": f"{info['name']}{test}, {features.dim} numbers"}
    facts["Search"] = how(answer)
    facts["Distance"] = "squared Euclidean of unit vectors, 0 to 4; cosine = 1 - distance / 2"
    if by == "track":
        facts["List"] = "every track once, by its nearest crop"
    if on_page < queries:
        facts["Queries"] = f"{on_page:,} of {queries:,}; the CSV (--out) holds all"
    return facts


def how(answer: Answer) -> str:
    """Return whether a search was exact, or what it finds of the exact answer, in words."""
    if answer.recall is None:
        return "exact"
    share, top, sample, by = answer.recall
    what = {"crop": "", "track": " tracks", "camera": " of every camera"}[by]
    return (
        f"approximate (FAISS): finds {100 * share:.1f} % of the exact {top} nearest{what}, measured on {sample} images "
        "of the file"
    )
