"""What prepare and pack share: decoding images, and working through many of them."""

import contextlib
import hashlib
import io
import itertools
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from PIL import Image

from reidgen.errors import DataError
from reidgen.files import read_regular
from reidgen.pool import share
from reidgen.runs import Progress

MANY = 4000  # images from which a pool of processes pays; threads never do, small images keep the GIL busy
WINDOW = 1024  # images in work at a time: bounds memory
R = TypeVar("R")


def decode(path: Path) -> tuple[Image.Image, str]:
    """Return the image as 8-bit RGB, fully decoded, and the first 16 hex digits of its file's SHA-256.

    Transparency is dropped; of an animation the first frame counts. Raises DataError saying what is wrong.
    """
    try:
        content = read_regular(path)
        if not content:
            raise DataError("is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata harms no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content))
            if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip them to white
                raise DataError(f"has pixels of mode {image.mode}, save it as 8-bit RGB")
            if image.mode == "P":  # by RGBA, because of its transparency
                image = image.convert("RGBA")
            return image.convert("RGB"), hashlib.sha256(content).hexdigest()[:16]
    except FileNotFoundError as error:
        raise DataError("has vanished") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError
        if isinstance(error, OSError) and error.strerror:  # the file system's
            raise DataError(error.strerror[0].lower() + error.strerror[1:]) from error
        raise DataError(str(error).split(" <_io")[0].strip() or type(error).__name__) from error


def windows(
    work: Callable[[str], R], paths: list[str], *, what: str, report: Progress | None = None
) -> Iterator[list[R]]:
    """Yield work(path) for all paths in order, WINDOW at a time; MANY paths are shared among processes, see `pool.share`."""
    with contextlib.ExitStack() as stack:
        results: Iterator[R] = map(work, paths)
        if len(paths) >= MANY:
            results = stack.enter_context(contextlib.closing(share(work, paths)))
        for start in range(0, len(paths), WINDOW):
            yield list(itertools.islice(results, WINDOW))
            if report:
                report(what, min(start + WINDOW, len(paths)), len(paths))
