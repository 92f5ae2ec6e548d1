"""Pixels as viewers show them, and what may not reach a decoder."""

import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reidgen.data.images import decode
from reidgen.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 3), dtype=np.uint8)
# How an image is stored such that a viewer that honours the tag shows PIXELS: EXIF 2.32, table 6.
STORED = {
    1: PIXELS,
    2: PIXELS[:, ::-1],
    3: PIXELS[::-1, ::-1],
    4: PIXELS[::-1],
    5: PIXELS.transpose(1, 0, 2),
    6: np.rot90(PIXELS, 1),
    7: PIXELS.transpose(1, 0, 2)[::-1, ::-1],
    8: np.rot90(PIXELS, -1),
}


def shown(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    image, _ = decode(path)
    assert image.mode == "RGB"
    return np.asarray(image)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_the_orientation_tag_is_applied(tmp_path: Path, orientation: int, format: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    options = {"lossless": True} if format == "WEBP" else {}
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(out, format, exif=exif, **options)
    assert np.array_equal(shown(tmp_path / "x.jpg", out.getvalue()), PIXELS)


def test_damaged_metadata_harms_no_pixel(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(shown(tmp_path / "x.png", out.getvalue()), PIXELS)


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_what_is_transparent_is_over_white(tmp_path: Path, format: str) -> None:
    alpha = np.random.default_rng(1).choice([0, 64, 128, 255], (12, 8, 1)).astype(np.uint8)
    out = io.BytesIO()
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    Image.fromarray(np.concatenate([PIXELS, alpha], axis=2)).save(out, format, **options)
    share = alpha / 255
    expected = PIXELS * share + 255 * (1 - share)
    assert np.abs(shown(tmp_path / "x.png", out.getvalue()) - expected).max() <= 1
    hidden = (alpha == 0)[:, :, 0]
    assert (np.asarray(decode(tmp_path / "x.png")[0])[hidden] == 255).all()


def test_a_transparent_colour_is_white(tmp_path: Path) -> None:
    out = io.BytesIO()
    grey = PIXELS[:, :, 0] // 2
    Image.fromarray(grey).save(out, "PNG", transparency=int(grey[0, 0]))
    found = shown(tmp_path / "x.png", out.getvalue())
    assert np.array_equal(found[:, :, 0], np.where(grey == grey[0, 0], 255, grey))
    out = io.BytesIO()
    palette = Image.fromarray(PIXELS).quantize(4)
    palette.save(out, "GIF", transparency=0)
    expected = np.where((np.asarray(palette) == 0)[:, :, None], 255, np.asarray(palette.convert("RGB")))
    assert np.array_equal(shown(tmp_path / "x.gif", out.getvalue()), expected)


@pytest.mark.parametrize(("format", "dtype"), [("PNG", "<u2"), ("TIFF", "<u2"), ("TIFF", ">u2"), ("PPM", "<u2")])
def test_deep_grey_is_scaled(tmp_path: Path, format: str, dtype: str) -> None:
    deep = np.array([[0, 257, 25_700, 65_535]] * 4, dtype=dtype)
    out = io.BytesIO()
    if format == "PPM":
        out.write(b"P5 4 4 65535\n" + deep.astype(">u2").tobytes())
    else:
        Image.frombuffer("I;16B" if dtype == ">u2" else "I;16", (4, 4), deep.tobytes()).save(out, format)
    found = shown(tmp_path / "x.png", out.getvalue())
    assert found[:, :, 0].tolist() == [[0, 1, 100, 255]] * 4 and np.ptp(found, axis=2).max() == 0


@pytest.mark.parametrize("suffix", [".jpg", ".eps", ".png"])
def test_postscript_starts_no_program(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*words: object, **options: object) -> None:
        raise AssertionError(f"started {words}")

    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(os, "system", started)
    (tmp_path / f"x{suffix}").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(/etc/passwd) run\nshowpage\n%%EOF\n"
    )
    with pytest.raises(DataError, match="cannot identify image file"):
        decode(tmp_path / f"x{suffix}")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_behind_a_link_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.jpg").symlink_to("pipe")
    (tmp_path / "y.jpg").symlink_to("/dev/zero")
    for name in ("x.jpg", "y.jpg"):
        with pytest.raises(DataError, match="is no regular file"):
            decode(tmp_path / name)
