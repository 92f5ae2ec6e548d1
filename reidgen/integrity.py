"""Is a stored file the one that was written? Digests inside JSON, beside text, and behind bytes. No torch here.

They guard against accidents (a bad disk, a torn copy, an edit by hand), not against someone who makes them anew.
What is believed: a file as its seal says; and without a seal only what reidgen 0.1.0 wrote, which had none, so that its
results, committed or published, can still be read. Whatever later versions write and has lost its seal is damaged.
"""

import contextlib
import hashlib
import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from reidgen.files import replacing, sha256_file, write_text

CHECK = "check"
UNSEALED = "0.1.0"  # the version of reidgen whose files have no seal
TRAILER = 32  # bytes of a SHA-256


def with_check(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what goes into a JSON file, with a digest of all the rest under the key "check"."""
    rest = {key: value for key, value in facts.items() if key != CHECK}
    return {**rest, CHECK: _digest_of(rest)}


def passes_check(facts: Mapping[str, Any]) -> bool | None:
    """Tell whether what a JSON file holds fits its "check"; None where it has none, as files of reidgen 0.1.0."""
    if CHECK not in facts:
        return None
    return bool(facts[CHECK] == with_check(facts)[CHECK])


def _digest_of(rest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def text_digest(path: Path) -> str:
    """Return the SHA-256 of a text file, with Windows' line ends counted as any other's. Raises OSError."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


def seal_of(path: Path) -> Path:
    """Return where the digests of a file, and of what was written with it, lie: `<file>.sha256`, as
    sha256sum writes.
    """
    return path.with_name(f"{path.name}.sha256")


def write_sealed(path: Path, content: bytes, *, before: Mapping[Path, bytes] | None = None) -> None:
    """Write a file that `sealed` can prove, and `before` it others of its folder under the same seal.

    A kill leaves each file as it was or as it is meant to be, and the seal proves either: until all are written it
    holds the old digests and the new ones. Old files without a seal get one: read, and so believe, them first.
    Raises ReidgenError when the folder cannot be written.
    """
    files = {**(before or {}), path: content}
    old, new = _lines_of(path, files), [_line(hashlib.sha256(files[file]).hexdigest(), file) for file in (path, *files)]
    new = list(dict.fromkeys(new))
    if seal_of(path).is_file() and old == new and all(sealed(file, by=path) for file in files):
        return
    write_text(seal_of(path), "".join(dict.fromkeys([*new, *old])))
    for file in files:
        with replacing(file) as temporary:
            temporary.write_bytes(files[file])
    write_text(seal_of(path), "".join(new))


def _line(digest: str, file: Path) -> str:
    return f"{digest}  {file.name}\n"


def _lines_of(path: Path, files: Iterable[Path]) -> list[str]:
    """Return the lines of a seal, or those that the files would have where there is none yet."""
    try:
        if seal_of(path).is_file():
            return seal_of(path).read_text(encoding="utf-8").splitlines(keepends=True)
        return [_line(sha256_file(file), file) for file in files if file.is_file()]
    except (OSError, ValueError):
        return []  # what cannot be read proves nothing


def sealed(path: Path, *, by: Path | None = None) -> bool | None:
    """Tell whether a file is as its seal (or that of the file `by`) says; None where there is no seal.

    A file without a seal was made by hand or by reidgen 0.1.0, or its seal was lost: see `UNSEALED`.
    """
    file, known = seal_of(by or path), None
    if not file.is_file():
        return None
    with contextlib.suppress(OSError, ValueError):
        while (lines := file.read_text(encoding="utf-8").splitlines()) != known:  # another process may just be writing
            if any(f"{digest(path)}  {path.name}" in lines for digest in (sha256_file, text_digest)):
                return True
            known = lines
    return False


def not_as_written(path: Path) -> str:
    """Return what is to be said of a file that is not as its seal says."""
    return f"{path} is not as it was written: damaged, torn or changed by hand"


def without_seal(path: Path) -> str:
    """Return what is to be said of a file that should have a seal."""
    return f"{path} has no {seal_of(path).name} beside it, as reidgen writes it, so nothing proves its numbers"


def seal_anew(path: Path) -> str:
    """Return the command by which a user vouches for a file as it is."""
    folder, name = shlex.quote(str(path.parent)), shlex.quote(path.name)
    return f"(cd {folder} && sha256sum {name} > {shlex.quote(seal_of(path).name)})"


def trailer(content: bytes | memoryview) -> bytes:
    """Return what is written behind bytes that `without_trailer` reads again: their SHA-256."""
    return hashlib.sha256(content).digest()


def without_trailer(content: bytes) -> bytes | None:
    """Return the bytes before their `trailer`, or None where they or it have changed."""
    whole = memoryview(content)[:-TRAILER]
    return bytes(whole) if trailer(whole) == content[-TRAILER:] else None
