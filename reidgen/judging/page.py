"""The page on which a person labels pairs, see `pages/pairs.html.jinja`. No torch."""

from pathlib import Path

from reidgen.data.naming import shown
from reidgen.errors import DataError
from reidgen.judging.crops import Crops
from reidgen.judging.labels import LABELS, Sheet
from reidgen.pages.local import Thumbnail, thumbnail, write_page


def write_pairs_page(file: Path, sheet: Sheet, crops: Crops) -> None:
    """Write the page, one self-contained HTML file with all pictures inside, which says nothing of runs or distances.

    Raises DataError when the name does not end in .html or a picture cannot be read, ReidgenError.
    """
    if file.suffix.lower() not in (".html", ".htm"):
        raise DataError(f"{file} is a page, so its name should end in .html")
    pictures: dict[str, Thumbnail] = {}
    camera = dict(zip(crops.paths, crops.camera_N, strict=True))

    def side(path: str) -> dict[str, object]:
        one = pictures.setdefault(path, thumbnail(crops.root, path))
        if one.wrong:
            raise DataError(f"{shown(path)} cannot be shown, as it {one.wrong}")
        return {"source": one.source, "camera": shown(crops.cameras[camera[path]])}

    head, *lines = sheet.lines()
    pairs = [
        {"line": line, "query": side(query), "crop": side(crop)}
        for line, (query, crop) in zip(lines, sheet.places, strict=True)
    ]
    data = {"sheet": sheet.digest, "head": head, "labels": LABELS, "pairs": pairs, "saved": f"{file.stem}.csv"}
    write_page(file, "pairs", target=shown(sheet.target), count=len(pairs), data=data, labels=LABELS)
