"""What local pages share: the template that others extend, and pictures inside of the page.

`base.html.jinja` brings the policy that forbids every request, colours for light and dark screens, and the blocks
`title`, `style`, `body` and `script`.
"""

import base64
import functools
import io
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from reidgen.data.images import decode, file_of
from reidgen.errors import DataError
from reidgen.files import write_text

HEIGHT, WIDTH = 256, 192  # pixels that a thumbnail has at most


class Thumbnail(NamedTuple):
    """A small picture. source: a data URI, "" where it cannot be shown; width, height: of it in pixels; wrong: why it
    cannot be shown, or what is wrong with it."""

    source: str
    width: int = 0
    height: int = 0
    wrong: str = ""


def thumbnail(root: Path, path: str, digest: str = "") -> Thumbnail:
    """Return an image below `root` as a small JPEG, as a viewer shows it, never enlarged.

    digest: the first hex digits of the SHA-256 that its file should have; another one is said, and shown all the same.
    """
    try:
        image, found = decode(file_of(root, path))
    except DataError as error:
        return Thumbnail("", wrong=str(error))
    image.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=82)
    source = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    changed = "has changed since it was embedded" if digest and found != digest else ""
    return Thumbnail(source, image.width, image.height, changed)


def write_page(file: Path, template: str, **values: Any) -> None:
    """Write a page from a template of this package; every value is escaped. Raises ReidgenError."""
    write_text(file, _templates().get_template(f"{template}.html.jinja").render(values))


@functools.cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("reidgen.pages", "")
    return Environment(autoescape=True, loader=loader, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
