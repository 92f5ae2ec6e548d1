"""What prepare and pack share: decoding images, and working through many of them."""

import contextlib
import functools
import hashlib
import io
import itertools
import os
import re
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from reidgen.errors import DataError
from reidgen.files import read_regular
from reidgen.pool import share
from reidgen.runs import Progress

MANY = 4000  # images from which a pool of processes pays; threads never do, small images keep the GIL busy
WINDOW = 1024  # images in work at a time: bounds memory
R = TypeVar("R")


# The decoders that may see a file, by Pillow's names: those of pictures, each of which works in this process and on
# memory. PostScript starts another program, WMF asks the system, BUFR, GRIB and HDF5 need a handler, FITS holds
# measurements.
KINDS = (
    *(
        "JPEG",
        "PNG",
        "WEBP",
        "TIFF",
        "GIF",
        "BMP",
        "PPM",
        "JPEG2000",
        "AVIF",
        "MPO",
        "DIB",
        "ICO",
        "CUR",
        "ICNS",
        "QOI",
    ),
    *("PSD", "PCX", "DCX", "SGI", "SUN", "DDS", "XBM", "XPM", "IM", "MSP", "PCD", "PIXAR", "FLI", "FTEX", "BLP", "TGA"),
)


def decode(path: Path) -> tuple[Image.Image, str]:
    """Return the image as a viewer shows it, 8-bit RGB and fully decoded, and 16 hex digits of its file's SHA-256.

    Turned as its EXIF orientation says; what is transparent is laid over white; 16-bit grey is scaled to 8 bits; of an
    animation the first frame counts. Only the decoders of KINDS see the file, whatever it is called.
    Raises DataError saying what is wrong: among others when it is no regular file, or has pixels of 32 bits.
    """
    try:
        content = read_regular(path)
        if not content:
            raise DataError("is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata harms no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content), formats=_kinds())
            image.load()
            with contextlib.suppress(Exception):  # damaged metadata: shown as it is
                ImageOps.exif_transpose(image, in_place=True)
            return _opaque(image), hashlib.sha256(content).hexdigest()[:16]
    except FileNotFoundError as error:
        raise DataError("is not there") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError
        if isinstance(error, OSError) and error.strerror:  # the file system's
            raise DataError(error.strerror[0].lower() + error.strerror[1:]) from error
        said = str(error).split(" <_io")[0].strip() or type(error).__name__
        raise DataError(f"cannot be decoded ({said})") from error


def file_of(root: Path, path: str) -> Path:
    """Return the file that `path`, as an index has it, means below `root`.

    An index is UTF-8 text; a byte of a file's name that is none stands in it as \\xNN, see `readers.image_files`.
    """
    file = root / path
    if "\\x" in path and not os.path.lexists(file):
        raw = re.sub(rb"\\x([89a-f][0-9a-f])", lambda found: bytes.fromhex(found[1].decode()), os.fsencode(path))
        return root / os.fsdecode(raw)
    return file


def is_alone(images: object) -> bool:
    """Tell whether this is one image, a path, a PIL image or an array, where several are looked for."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, str | Path) or not isinstance(images, Iterable)


def as_shown(image: Image.Image) -> Image.Image:
    """Return an image that somebody opened as `decode` returns its file; the image itself stays as it is."""
    turned = image
    with contextlib.suppress(Exception):  # damaged metadata: shown as it is
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            turned = ImageOps.exif_transpose(image)
    return _opaque(turned)


def resized(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return an 8-bit RGB image as every network here is given it, uint8 (H, W, 3); size: (width, height).

    Pillow's bilinear filter, which averages when it shrinks.
    """
    return np.asarray(image.resize(size, Image.Resampling.BILINEAR))


@functools.cache
def _kinds() -> list[str]:
    """Return those of KINDS that this Pillow has a decoder for."""
    Image.init()
    return [one for one in KINDS if one in Image.OPEN]


def _opaque(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit RGB, over white where it is transparent."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.float64)
        return Image.fromarray((wide / 257).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode.startswith(("I", "F")):  # 32 bits, of which nobody says what is white
        raise DataError(f"has pixels of mode {image.mode}, save it as 8-bit RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    above = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")


def windows(
    work: Callable[[str], R], paths: list[str], *, what: str, report: Progress | None = None
) -> Generator[list[R], None, None]:
    """Yield work(path) for all paths in order, WINDOW at a time; MANY are shared among processes, see `pool.share`."""
    with contextlib.ExitStack() as stack:
        results: Iterator[R] = map(work, paths)
        if len(paths) >= MANY:
            results = stack.enter_context(contextlib.closing(share(work, paths)))
        for start in range(0, len(paths), WINDOW):
            yield list(itertools.islice(results, WINDOW))
            if report:
                report(what, min(start + WINDOW, len(paths)), len(paths))
