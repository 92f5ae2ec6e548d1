"""What people really have: truncated, renamed, doubled, malicious. Each case goes through the command line and ends in one
sentence and exit code 1, or in a set that holds what it should; never in a traceback, never in a manifest for less."""

import functools
import io
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import layouts
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from reidgen.cli import app
from reidgen.data.archives import MARKER
from reidgen.data.manifest import load_prepared

Words = list[str | Path]
Build = Callable[[Path], Words]
CASES: dict[str, tuple[Build, str]] = {}  # name -> (makes the input, part of the sentence; "" where all is well)


def case(name: str, sentence: str, build: Build) -> None:
    assert name not in CASES
    CASES[name] = (build, sentence)


@functools.cache
def image(key: str = "x", mode: str = "RGB", format: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    large = Image.fromarray(layouts.pixels(key)).resize((24, 48)).convert(mode)
    large.save(file, format, **options)
    return file.getvalue()


def crops(people: int = 2) -> dict[str, bytes]:
    """Two cameras, two images each: p0/c1_0.jpg and so on."""
    names = [f"p{pid}/c{cam}_{i}.jpg" for pid in range(people) for cam in (1, 2) for i in (0, 1)]
    return {name: image(name) for name in names}


def _written(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


def folder(files: dict[str, bytes], *, name: str = "mine", more: Words | None = None) -> Build:
    """Lay the files down as a folder."""

    def build(tmp: Path) -> Words:
        for path, content in files.items():
            (tmp / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp / "in" / path).write_bytes(content)
        return [name, "--from", tmp / "in", *(more or [])]

    return build


# --- images -------------------------------------------------------------------------------------------------------

for _format in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF"):
    for _share in (1, 10, 40, 60, 75, 85):
        _whole = image(format=_format, **({"lossless": True} if _format == "WEBP" else {}))
        _cut = _whole[: max(1, len(_whole) * _share // 100)]
        case(f"{_format} cut at {_share} %", "cannot be decoded", folder({**crops(), "p0/c1_0.jpg": _cut}))
for _kind, _content, _sentence in [
    ("zero bytes", b"", "is empty"),
    ("a page", b"<html>quota exceeded</html>", "cannot identify"),
    ("a zip", b"PK\x05\x06" + bytes(18), "cannot identify"),
    ("zeros", bytes(5000), "cannot identify"),
    ("noise", np.random.default_rng(1).bytes(5000), "cannot identify"),
    ("a JPEG header and noise", image()[:200] + np.random.default_rng(2).bytes(500), "cannot be decoded"),
    ("a PNG with a wrong checksum", image(format="PNG")[:60] + b"\0" + image(format="PNG")[61:], "cannot be decoded"),
    ("a bomb", image(format="BMP")[:18] + b"\xff\xff\x00\x00" * 2 + image(format="BMP")[26:], "exceeds limit"),
    ("no width", image(format="BMP")[:18] + bytes(8) + image(format="BMP")[26:], "cannot be decoded"),
    ("a Git LFS pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "cannot identify"),
    ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"></svg>', "cannot identify"),
]:
    case(f"image: {_kind}", _sentence, folder({**crops(), "p0/c1_0.jpg": _content}))


def _deep(dtype: str) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(128, dtype=dtype).reshape(16, 8)
    Image.fromarray(pixels).save(file, "PNG" if dtype == "uint16" else "TIFF")
    return file.getvalue()


def _animated(format: str) -> bytes:
    frames = [Image.fromarray(layouts.pixels(str(i))) for i in range(3)]
    file = io.BytesIO()
    frames[0].save(file, format, save_all=True, append_images=frames[1:])
    return file.getvalue()


for _mode, _format in [
    ("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("P", "GIF"), ("L", "JPEG"), ("CMYK", "JPEG"),
    ("1", "TIFF"), ("L", "BMP"), ("1", "BMP"), ("P", "BMP"), ("CMYK", "TIFF"), ("YCbCr", "JPEG"), ("RGBA", "WEBP"),
    ("LAB", "TIFF"), ("RGBX", "TIFF"), ("RGB", "PPM"),
]:  # fmt: skip
    case(f"{_mode} as {_format}", "", folder({**crops(), "p0/c1_0.jpg": image(mode=_mode, format=_format)}))
for _format in ("GIF", "PNG", "WEBP", "TIFF"):
    case(f"animated {_format}", "", folder({**crops(), "p0/c1_0.jpg": _animated(_format)}))
case("uint16 pixels", "", folder({**crops(), "p0/c1_0.jpg": _deep("uint16")}))
for _dtype in ("int32", "float32"):
    case(f"{_dtype} pixels", "save it as 8-bit RGB", folder({**crops(), "p0/c1_0.jpg": _deep(_dtype)}))
case("progressive JPEG", "", folder({**crops(), "p0/c1_0.jpg": image(progressive=True)}))
case("JPEG called png", "", folder({**crops(), "p0/c1_2.png": image("other")}))
case("bytes behind the image", "", folder({**crops(), "p0/c1_0.jpg": image() + b"more"}))

# --- names and folders --------------------------------------------------------------------------------------------

for _kind, _name, _sentence in [
    ("spaces", "person two/cam 1_0 (copy).jpg", ""),
    ("unicode", "josé ñandú/c1_0.jpg", ""),
    ("another script", "王/c1_0.jpg", ""),
    ("quotes", "p'\"x/c1_0.jpg", ""),
    ("a comma", "p,x/c1_0.jpg", ""),
    ("markup", "[red]p[bold]/c1_0.jpg", ""),
    ("capitals", "p7/C1_0.JPG", ""),
    ("a newline", "p\n7/c1_0.jpg", ""),
    ("a tab", "p7/c1_\t0.jpg", ""),
    ("an escape code", "p\x1b[31m/c1_0.jpg", ""),
    ("a joiner", "p\U0001f468\u200d\U0001f469/c1_0.jpg", ""),
    ("a no-break space", "Screenshot\u00a01/c1_0\u202fPM.jpg", ""),
    ("bytes of Latin-1", "jos\udce9/c1_\udce9.jpg", ""),
    ("an icon of a Mac", "p7/Icon\r", ""),
    ("no camera", "p7/portrait.jpg", "cannot tell the camera"),
    ("no person", "c1_0.jpg", "cannot tell the camera"),
    ("hidden", "p7/.c1_0.jpg", ""),
    ("of a Mac", "__MACOSX/._c1_0.jpg", ""),
    ("no image", "p7/notes.txt", ""),
]:
    case(f"name with {_kind}", _sentence, folder({**crops(), _name: image(ascii(_name))}))
case("one camera only", "of one camera", folder({k: v for k, v in crops().items() if "c1" in k}))
case("one image per person", "no query can have a match", folder({f"p{i}/c1_0.jpg": image(str(i)) for i in range(3)}))
case("query without gallery", "give both", folder({f"query/{k}": v for k, v in crops().items()}))
case("query and gallery of other people", "is among the", folder(
    {f"query/{k}": v for k, v in crops().items()} | {f"gallery/x{k}": v for k, v in crops().items()}
))  # fmt: skip
case("an empty folder", "no images", folder({"readme.txt": b"nothing"}))
case("only empty images", "cannot be decoded", folder(dict.fromkeys(crops(), b"")))
case("a pattern that is none", "no regular expression", folder(crops(), more=["--pattern", "(?P<pid>"]))
case("a pattern without camera", "lacks the group", folder(crops(), more=["--pattern", "(?P<pid>p.)/.*"]))
case(
    "a pattern that fits nothing",
    "do not fit the pattern",
    folder(crops(), more=["--pattern", "(?P<pid>x)(?P<camid>y)"]),
)
case("a name that cannot be", "cannot name a data set", folder(crops(), name="My Cams"))
case("a name above", "cannot name a data set", folder(crops(), name="../x"))
case("the name of a drawn set", "is drawn", folder(crops(), name="synth-plaza"))


def _linked(target: str) -> Build:
    def build(tmp: Path) -> Words:
        words = folder(crops())(tmp)
        (tmp / "in" / "p0" / "c1_9.jpg").symlink_to(target)
        return words

    return build


case("a link to nothing", "is not there", _linked("nowhere.jpg"))
case("a link to itself", "too many levels", _linked("c1_9.jpg"))
case("a link to an image", "", _linked("c1_0.jpg"))
case("a link in a circle", "", _linked("../../in"))
case("a folder called as an image", "", folder({**crops(), "p0/c1_8.jpg/readme.txt": b"x"}))
case("no such folder", "there is no", lambda tmp: ["mine", "--from", tmp / "nowhere"])
case("no name", "needs the name", lambda tmp: ["--from", tmp])
case("nothing prepared to check", "nothing is prepared", lambda tmp: ["--check"])
case("an unknown set to check", "unknown data set", lambda tmp: ["--check", "marke"])
case("an unknown set's splits", "unknown data set", lambda tmp: ["--splits", "marke"])

# --- archives -----------------------------------------------------------------------------------------------------

KINDS = ("zip", "tar", "tar.gz", "tar.bz2", "tar.xz")


def packed(
    file: str, change: Callable[[bytes], bytes] = bytes, *, files: dict[str, bytes] | None = None, name: str = ""
) -> Build:
    """Pack the files as the suffix of `file` says, change the bytes, and give them under `name`."""

    def build(tmp: Path) -> Words:
        layouts.pack(crops() if files is None else files, tmp / file)
        return ["mine", "--from", _written(tmp / (name or file), change((tmp / file).read_bytes()))]

    return build


def _at(share: int) -> Callable[[bytes], bytes]:
    return lambda content: content[: len(content) * share // 100]


def _flipped(share: int) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        at = len(content) * share // 100
        return content[:at] + bytes(255 - byte for byte in content[at : at + 64]) + content[at + 64 :]

    return change


for _kind in KINDS:
    case(f"{_kind} whole", "", packed(f"x.{_kind}"))
    case(f"{_kind} under another name", "", packed(f"x.{_kind}", name="x.dat"))
    for _share in (2, 20, 50, 80, 95):
        padding = _kind == "tar" and _share == 95  # nothing but zeros is lost
        case(f"{_kind} cut at {_share} %", "" if padding else "get it again", packed(f"x.{_kind}", _at(_share)))
    if _kind != "tar":  # which has no checksum of its content: the images in it tell
        for _share in (25, 50):
            case(f"{_kind} changed at {_share} %", "get it again", packed(f"x.{_kind}", _flipped(_share)))
    case(f"{_kind} without files", "holds no files", packed(f"x.{_kind}", files={}))
    case(
        f"{_kind} with a damaged image",
        "cannot be decoded",
        packed(f"x.{_kind}", files={**crops(), "p0/c1_0.jpg": b"x"}),
    )
    case(
        f"{_kind} of a Mac",
        "",
        packed(f"x.{_kind}", files={**crops(), "__MACOSX/p0/._c1_0.jpg": b"x", ".DS_Store": b"x"}),
    )
for _kind, _content, _sentence in [
    ("nothing", b"", "is empty"),
    ("a page", b"<!DOCTYPE html><html></html>", "is a web page"),
    ("noise", np.random.default_rng(3).bytes(9000), "is no archive"),
    ("RAR", b"Rar!\x1a\x07\x00" + bytes(50), "is a RAR archive"),
    ("7z", b"7z\xbc\xaf\x27\x1c" + bytes(50), "is a 7z archive"),
    ("gzip of noise", b"\x1f\x8b\x08" + bytes(100), "is no archive"),
    ("an image", image(), "is no archive"),
]:
    case(f"archive that is {_kind}", _sentence, packed("x.dat", files={"x": _content}))


EVIL_NAMES = {
    "a path upwards": ("../evil.jpg", "leads out"),
    "a path upwards inside": ("p0/../../evil.jpg", "leads out"),
    "an absolute path": ("/tmp/evil.jpg", "leads out"),
    "a drive letter": ("C:evil.jpg", "leads out"),
    "a drive and folders": ("c:/x/evil.jpg", "leads out"),
    "backslashes": ("..\\..\\evil.jpg", "leads out"),
    "a network path": ("\\\\host\\share\\evil.jpg", "leads out"),
    "the same name": ("p0/c1_0.jpg", "comes twice"),
    "the same name with a dot": ("./p0/c1_0.jpg", "comes twice"),
    "the same name, doubled slash": ("p0//c1_0.jpg", "comes twice"),
    "another case": ("p0/C1_0.jpg", "cannot lie side by side"),
    "another case of a folder": ("P0/c1_7.jpg", "cannot lie side by side"),
    "a folder where a file is": ("p0/c1_0.jpg/x.jpg", "cannot lie side by side"),
    "a file where a folder is": ("p0", "comes twice"),
    "a newline": ("p0/c1\n.jpg", ""),
    "an escape code": ("p0/c1_\x1b[2J.jpg", ""),
    "a deep path": ("/".join("d" * 1 for _ in range(40)) + "/c1_0.jpg", "absurdly deep"),
    "a long name": ("p0/" + "c" * 300 + ".jpg", "absurdly long"),
}
for _kind, (_name, _sentence) in EVIL_NAMES.items():
    for _suffix in ("zip", "tar", "tar.gz"):

        def _evil(tmp: Path, name: str = _name, suffix: str = _suffix) -> Words:
            members = [*crops().items(), (name, image("evil"))]
            if suffix == "zip":
                with zipfile.ZipFile(tmp / "x.zip", "w") as archive, pytest.MonkeyPatch.context() as patch:
                    patch.setattr("warnings.warn", lambda *_, **__: None)  # of doubled names
                    for path, content in members:
                        info = zipfile.ZipInfo("x")
                        info.filename = path  # as it is, without ZipInfo's repairs
                        archive.writestr(info, content)
            else:
                with tarfile.open(tmp / f"x.{suffix}", "w:gz" if "gz" in suffix else "w") as tar:
                    for path, content in members:
                        entry = tarfile.TarInfo(path)
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
            return ["mine", "--from", tmp / f"x.{suffix}"]

        case(f"{_suffix} with {_kind}", _sentence, _evil)

for _kind, _type in {
    "a symbolic link": tarfile.SYMTYPE, "a hard link": tarfile.LNKTYPE, "a character device": tarfile.CHRTYPE,
    "a block device": tarfile.BLKTYPE, "a pipe": tarfile.FIFOTYPE,
}.items():  # fmt: skip

    def _special(tmp: Path, kind: bytes = _type) -> Words:
        with tarfile.open(tmp / "x.tar", "w") as tar:
            for path, content in crops().items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            entry = tarfile.TarInfo("p0/c1_9.jpg")
            entry.type, entry.linkname = kind, "/etc/passwd"
            tar.addfile(entry)
        return ["mine", "--from", tmp / "x.tar"]

    case(f"tar with {_kind}", "is a link, a device", _special)

for _kind, _mode in {"link": stat.S_IFLNK, "device": stat.S_IFBLK, "pipe": stat.S_IFIFO}.items():

    def _special_zip(tmp: Path, mode: int = _mode) -> Words:
        layouts.pack(crops(), tmp / "x.zip")
        with zipfile.ZipFile(tmp / "x.zip", "a") as archive:
            info = zipfile.ZipInfo("p0/c1_9.jpg")
            info.external_attr = (mode | 0o777) << 16
            archive.writestr(info, "/etc/passwd")
        return ["mine", "--from", tmp / "x.zip"]

    case(f"zip with a {_kind}", "is a link or a device", _special_zip)


def _bomb(tmp: Path, suffix: str) -> Words:
    """120 MB of zeros in some 100 KB."""
    zeros = bytes(120 * 2**20)
    if suffix == "zip":
        with zipfile.ZipFile(tmp / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("p0/c1_0.bmp", zeros)
    else:
        with tarfile.open(tmp / f"x.{suffix}", "w:gz", compresslevel=1) as tar:
            entry = tarfile.TarInfo("p0/c1_0.bmp")
            entry.size = len(zeros)
            tar.addfile(entry, io.BytesIO(zeros))
    return ["mine", "--from", tmp / f"x.{suffix}"]


case("zip that is a bomb", "absurd", lambda tmp: _bomb(tmp, "zip"))
case("tar.gz that is a bomb", "absurd", lambda tmp: _bomb(tmp, "tar.gz"))


def _patched_zip(change: Callable[[bytearray], None], stored: bool = True) -> Build:
    def build(tmp: Path) -> Words:
        with zipfile.ZipFile(tmp / "x.zip", "w", zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED) as archive:
            for path, content in crops().items():
                archive.writestr(path, content)
        content = bytearray((tmp / "x.zip").read_bytes())
        change(content)
        (tmp / "x.zip").write_bytes(content)
        return ["mine", "--from", tmp / "x.zip"]

    return build


def _encrypt(content: bytearray) -> None:
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    content[6] |= 1


def _lie_about_size(content: bytearray) -> None:
    at = content.index(b"PK\x01\x02")
    content[at + 24 : at + 28] = (2**31).to_bytes(4, "little")


def _odd_method(content: bytearray) -> None:
    at = content.index(b"PK\x01\x02")
    content[at + 10 : at + 12] = content[8:10] = (9).to_bytes(2, "little")  # Deflate64


def _other_name(content: bytearray) -> None:
    at = content.index(b"PK\x01\x02")
    content[at + 46] = ord("q")


case("zip that is encrypted", "is encrypted", _patched_zip(_encrypt))
case("zip that lies about a size", "absurd", _patched_zip(_lie_about_size))
case("zip with an unknown compression", "damaged", _patched_zip(_odd_method))
case("zip whose two lists differ", "damaged", _patched_zip(_other_name))


def _nested(levels: int) -> dict[str, bytes]:
    files = crops()
    for level in range(levels):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for path, content in files.items():
                archive.writestr(path, content)
        files = {f"inner{level}.zip": file.getvalue()}
    return files


case("zip in a zip", "", packed("x.zip", files=_nested(1)))
case("zip in a zip in a zip", "no images", packed("x.zip", files=_nested(2)))
case("zip with a broken zip", "no images", packed("x.zip", files={"inner.zip": b"PK\x03\x04" + bytes(99)}))
case("zip with a page instead of a zip", "", packed("x.zip", files={**crops(), "inner.zip": b"<html>"}))

# --- sets of the catalogue ----------------------------------------------------------------------------------------


def original(name: str, change: Callable[[Path], object], more: Words | None = None) -> Build:
    """A set in its original layout, changed; its counts are not those of the real one."""

    def build(tmp: Path) -> Words:
        root = layouts.build(name, tmp / "in")
        change(root)
        return [name, "--from", root, *(["--accept-counts"] if more is None else more)]

    return build


def _images(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.suffix in layouts.FORMATS)


def written(file: str, content: bytes) -> Callable[[Path], object]:
    return lambda root: (root / file).write_bytes(content)


def appended(file: str, line: str) -> Callable[[Path], object]:
    return lambda root: (root / file).write_text((root / file).read_text() + line + "\n")


def removed(path: str) -> Callable[[Path], object]:
    return lambda root: (root / path).unlink() if (root / path).is_file() else shutil.rmtree(root / path)


def emptied(part: str) -> Callable[[Path], object]:
    return lambda root: (shutil.rmtree(root / part), (root / part).mkdir())


def as_it_is(root: Path) -> None:
    """Change nothing."""


for _name in ("market", "duke", "msmt17-v2", "prid", "grid", "viper", "ilids", "sensereid", "clonedperson", "personx"):
    case(f"{_name} whole", "", original(_name, as_it_is))
    case(f"{_name} with an empty image", "is empty", original(_name, lambda root: _images(root)[-1].write_bytes(b"")))
for _name in ("market", "duke", "msmt17-v2", "msmt17-v1", "cuhk02", "personx", "sensereid"):
    case(f"{_name} too small", "expected", original(_name, as_it_is, more=[]))
for _name, _sentence in {"grid": "expected", "viper": "expected", "prid": "", "ilids": "expected"}.items():
    # of prid the first image belongs to no protocol
    case(f"{_name} without an image", _sentence, original(_name, lambda root: _images(root)[0].unlink(), more=[]))
for _name, _part in [
    ("market", "bounding_box_train"), ("market", "query"), ("duke", "bounding_box_test"), ("prid", "single_shot/cam_b"),
    ("grid", "gallery"), ("viper", "cam_a"), ("ilids", "Persons"), ("msmt17-v2", "mask_test_v2"),
]:  # fmt: skip
    case(f"{_name} without {_part}", "error", original(_name, removed(_part)))
    case(f"{_name} with {_part} empty", "error", original(_name, emptied(_part)))
case("market with a name that is none", "do not fit", original("market", written("query/holiday.jpg", image())))
case(
    "market of other people",
    "is among",
    original("market", lambda root: [one.rename(one.with_name(f"9{one.name}")) for one in _images(root / "query")]),
)
case("market's part, not the set", "give", lambda tmp: ["market", "--from", layouts.build("market", tmp) / "query"])
case("market with a pattern", "leave out --pattern", lambda tmp: ["market", "--from", tmp, "--pattern", "x"])
case("duke, not here", "withdrawn", lambda tmp: ["duke"])
case("msmt17-v2, not here", "on request only", lambda tmp: ["msmt17-v2"])
case("prid, not here", "get prid_2011.zip", lambda tmp: ["prid"])

for _file in ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"):
    case(f"msmt17 without {_file}", _file, original("msmt17-v2", removed(_file)))
    case(f"msmt17 with {_file} empty", "list_", original("msmt17-v2", written(_file, b"")))
for _kind, (_text, _sentence) in {
    "an image that is not there": ("0000/0000_009_01_0303morning_0009_0.jpg 0", "1 of them are not in"),
    "a path upwards": ("../mask_test_v2/0000/0000_000_01_0303morning_0000_0.jpg 0", "expected a path and a person"),
    "an absolute path": ("/etc/passwd.jpg 0", "expected a path and a person"),
    "no person": ("0000/0000_000_01_0303morning_0000_0.jpg", "expected a path and a person"),
    "a person that is no number": ("0000/0000_000_01_0303morning_0000_0.jpg zero", "is named twice"),
    "an image twice": ("0000/0000_000_01_0303morning_0000_0.jpg 0", "is named twice"),
    "words": ("these are not the lists you are looking for", "expected a path and a person"),
}.items():
    case(f"msmt17's list with {_kind}", _sentence, original("msmt17-v2", appended("list_train.txt", _text)))
for _kind, _content in {
    "bytes": b"\xff\xfe\x00\x01" * 20,
    "UTF-32": "0000/0000_000_01_0303morning_0000_0.jpg 0\n".encode("utf-32-be"),
    "a page": b"<html>",
}.items():
    case(f"msmt17's list of {_kind}", "list_train.txt", original("msmt17-v2", written("list_train.txt", _content)))

MATS = {
    "empty": b"",
    "cut": b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(9),
    "a page": b"<html>404</html>",
    "noise": np.random.default_rng(4).bytes(4000),
    "of version 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n" + bytes(99),
}


def _mat(**values: object) -> bytes:
    from scipy.io import savemat

    file = io.BytesIO()
    savemat(file, values)
    return file.getvalue()


MATS |= {
    "of other values": _mat(x=1),
    "of wrong values": _mat(trainIdxAll=np.zeros(3), filelist="x", labels=[1], train_idx=[9]),
}


def classic(content: bytes) -> Build:
    """The content as cuhk-03.mat."""
    return lambda tmp: ["cuhk03-detected", "--from", _written(tmp / "cuhk-03.mat", content), "--accept-counts"]


def new_protocol(content: bytes) -> Build:
    """CUHK03's images, and the content as the file of the new protocol."""

    def build(tmp: Path) -> Words:
        root = layouts.build("cuhk03-np-detected", tmp / "in", form="images")
        (root / "cuhk03_new_protocol_config_detected.mat").write_bytes(content)
        return ["cuhk03-np-detected", "--from", root, "--accept-counts"]

    return build


for _kind, _content in MATS.items():
    case(f"cuhk-03.mat {_kind}", "get it again", classic(_content))
    case(f"cuhk03's new protocol {_kind}", "cuhk03_new_protocol_config_detected.mat", new_protocol(_content))
    if _kind.startswith("of"):  # files that cannot be read fail as those of CUHK03 do
        file = "features_and_partitions.mat"
        case(f"grid's .mat {_kind}", file, original("grid", written(file, _content)))
case("grid without its partitions", "features_and", original("grid", removed("features_and_partitions.mat")))


def _cuhk03(change: Callable[[Path], object]) -> Build:
    def build(tmp: Path) -> Words:
        mat = layouts.build("cuhk03-detected", tmp / "in") / "cuhk03_release" / "cuhk-03.mat"
        change(mat)
        return ["cuhk03-detected", "--from", mat, "--accept-counts"]

    return build


def _shortened(share: int) -> Callable[[Path], object]:
    return lambda mat: mat.write_bytes(_at(share)(mat.read_bytes()))


def _replaced(key: str, value: object) -> Callable[[Path], object]:
    """Put `value` (or nothing) where the file has `key`."""

    def change(mat: Path) -> None:
        import h5py

        with h5py.File(mat, "r+") as file:
            del file[key]
            if value is not None:
                file[key] = value

    return change


case("cuhk-03.mat whole", "", _cuhk03(as_it_is))
for _share in (1, 30, 60, 95):
    case(f"cuhk-03.mat cut at {_share} %", "cuhk-03.mat", _cuhk03(_shortened(_share)))
for _key in ("labeled", "detected", "testsets"):
    case(f"cuhk-03.mat without {_key}", "no whole cuhk-03.mat", _cuhk03(_replaced(_key, None)))
    case(f"cuhk-03.mat with numbers as {_key}", "no whole cuhk-03.mat", _cuhk03(_replaced(_key, np.zeros((1, 5)))))

# --- CSV ----------------------------------------------------------------------------------------------------------

GOOD = [f"{path},{path[1]},{path[4]}" for path in crops()]


def csv(*lines: str, head: str = "path,pid,camid", encoding: str = "utf-8", raw: bytes | None = None) -> Build:
    def build(tmp: Path) -> Words:
        folder(crops())(tmp)
        text = "\n".join([head, *lines]) + "\n"
        (tmp / "in" / "list.csv").write_bytes(text.encode(encoding) if raw is None else raw)
        return ["mine", "--from", tmp / "in" / "list.csv"]

    return build


case("CSV whole", "", csv(*GOOD))
case(
    "CSV with split",
    "",
    csv(*[f"{line},{'query' if '_0' in line else 'gallery'}" for line in GOOD], head="path,pid,camid,split"),
)
case("CSV with more columns", "", csv(*[f"{line},x" for line in GOOD], head="path,pid,camid,note"))
case("CSV with a byte order mark", "", csv(*GOOD, encoding="utf-8-sig"))
case("CSV of Windows lines", "", csv(raw="\r\n".join(["path,pid,camid", *GOOD]).encode()))
case("CSV with quotes", "", csv(*[f'"{line.split(",")[0]}",{line.split(",", 1)[1]}' for line in GOOD]))
case("CSV of UTF-16", "", csv(*GOOD, encoding="utf-16"))
case("CSV with semicolons", "", csv(*[line.replace(",", ";") for line in GOOD], head="path;pid;camid"))
case("CSV with tabs", "", csv(*[line.replace(",", "\t") for line in GOOD], head="path\tpid\tcamid"))
case("CSV with other columns", "", csv(*GOOD, head="file,person,camera"))
case("CSV with no head", "", csv(*GOOD[1:], head=GOOD[0]))
case("CSV with commas behind", "", csv(*[f"{line},," for line in GOOD], head="path,pid,camid,,"))
case("CSV with \\", "", csv(*[line.replace("/", "\\") for line in GOOD]))
case("CSV with nobody", "", csv(*GOOD[:-1], "p1/c2_1.jpg,,2"))
case("CSV with names as people", "", csv(*[line.replace(",0,", ",anna,").replace(",1,", ",bert,") for line in GOOD]))
_sentence_of = {
    "one camera": "add the column split and write train",
    "an image that is not there": "correct the path or the file",
    "an image twice": "p0/c1_0.jpg",
    "one image, two people": "p0/c1_0.jpg",
}
for _kind, _build in {
    "empty": csv(raw=b""),
    "only a head": csv(),
    "a column missing": csv(*GOOD, head="path,pid"),
    "an image that is not there": csv(*GOOD, "p9/c1_0.jpg,9,1"),
    "an image twice": csv(*GOOD, GOOD[0]),
    "one image, two people": csv(*GOOD, GOOD[0].replace(",0,", ",7,")),
    "no camera": csv(*GOOD[:-1], "p1/c2_1.jpg,1,"),
    "too few values": csv(*GOOD[:-1], "p1/c2_1.jpg"),
    "too many values": csv(*GOOD[:-1], "p1/c2_1.jpg,1,2,3,4,5"),
    "an open quote": csv(*GOOD[:-1], '"p1/c2_1.jpg,1,2'),
    "an unknown split": csv(*[f"{line},old" for line in GOOD], head="path,pid,camid,split"),
    "no gallery": csv(*[f"{line},query" for line in GOOD], head="path,pid,camid,split"),
    "Latin-1": csv(*GOOD, "p1/ñ.jpg,1,2", encoding="latin-1"),
    "bytes": csv(raw=np.random.default_rng(5).bytes(500)),
    "a zip": csv(raw=b"PK\x05\x06" + bytes(18)),
    "a page": csv(raw=b"<!DOCTYPE html><html></html>"),
    "a folder as image": csv(*GOOD, "p1,1,2"),
    "a text as image": csv(*GOOD, "list.csv,1,2"),
    "one camera": csv(*[line for line in GOOD if line.endswith(",1")]),
    "zeros": csv(raw=bytes(300)),
}.items():
    case(f"CSV with {_kind}", _sentence_of.get(_kind, "list.csv"), _build)


@pytest.mark.parametrize("name", CASES)
def test_a_case(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build, sentence = CASES[name]
    words = build(tmp_path)
    data, outside = tmp_path / "data", tmp_path / "outside"
    outside.mkdir()
    monkeypatch.chdir(outside)
    result = CliRunner().invoke(app, ["prepare", *map(str, words), "--data", str(data)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert list(outside.iterdir()) == [] and not list(tmp_path.glob("evil*"))
    unpacked = [one for one in data.glob("unpacked/*") if one.name != ".claim"]
    assert all((one / MARKER).is_file() for one in unpacked)  # whole or not there
    assert sum(one.stat().st_size for one in data.rglob("*") if one.is_file()) < 100 * 2**20
    print(f"SENTENCE {name}: {result.output}")
    if result.exit_code == 0:
        assert sentence == ""
        prepared = load_prepared(str(words[0]), data)
        check = CliRunner().invoke(app, ["prepare", "--deep", "--data", str(data)])
        assert check.exit_code == 0 and prepared.counts["all"]["images"] > 0
        return
    assert result.exit_code == 1 and sentence and sentence in result.output
    error = result.output[result.output.index("error: ") :].strip()
    assert "Traceback" not in error and len(error.splitlines()) <= (
        3 if "not here" in name else 7 if "cannot tell" in error else 1
    )
    assert not list(data.glob("*/manifest.json"))


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 200
