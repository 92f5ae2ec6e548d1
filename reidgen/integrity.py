"""Is a stored file the one that was written? Digests inside JSON, beside text, and behind bytes. No torch here.

They guard against accidents (a bad disk, a torn copy, an edit by hand), not against someone who makes them anew.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reidgen.errors import ReidgenError
from reidgen.files import sha256_file, write_text

CHECK = "check"
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


def unseal(path: Path) -> None:
    """Remove a file's seal; call it before the file is rewritten, so that a crash leaves no wrong one."""
    try:
        seal_of(path).unlink(missing_ok=True)
    except OSError as error:
        raise ReidgenError(f"cannot write {path}: {error.strerror or error}; choose another folder") from error


def seal(path: Path, *others: Path) -> None:
    """Write the digests of a file and of others in its folder beside it; call it when all of them are written."""
    write_text(seal_of(path), "".join(f"{sha256_file(file)}  {file.name}\n" for file in (path, *others)))


def write_sealed(path: Path, text: str) -> None:
    """Write a text file that `sealed` can prove, or leave the old one as it was."""
    if sealed(path) and path.read_bytes() == text.encode():
        return
    unseal(path)
    write_text(path, text)
    seal(path)


def sealed(path: Path, *, by: Path | None = None) -> bool | None:
    """Tell whether a file is as its seal (or that of the file `by`) says; None where there is no seal.

    A file without a seal was made by hand or by reidgen 0.1.0, or its writer was killed.
    """
    file = seal_of(by or path)
    if not file.is_file():
        return None
    with contextlib.suppress(OSError, ValueError):
        lines = file.read_text(encoding="utf-8").splitlines()
        return any(f"{digest(path)}  {path.name}" in lines for digest in (sha256_file, text_digest))
    return False


def trailer(content: bytes | memoryview) -> bytes:
    """Return what is written behind bytes that `without_trailer` reads again: their SHA-256."""
    return hashlib.sha256(content).digest()


def without_trailer(content: bytes) -> bytes | None:
    """Return the bytes before their `trailer`, or None where they or it have changed."""
    whole = memoryview(content)[:-TRAILER]
    return bytes(whole) if trailer(whole) == content[-TRAILER:] else None
