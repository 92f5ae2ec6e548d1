"""What a disk, a cable or a hand does to a file: bits, bytes, cuts, lines, numbers, or another file in its place."""

import gzip
import os
import random
import re
from pathlib import Path

NUMBER = re.compile(rb"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?(?![\w.])")
ABSURD = [b"nan", b"inf", b"-1", b"1e309", b"9" * 30, b"", b"x", b"\0", b"1.5", b"[" * 2000, b"\x1b[2J", b"true", b"{}"]


def _place(content: bytes | bytearray, chance: random.Random) -> int:
    return chance.randrange(max(1, len(content)))


def bit(content: bytes, chance: random.Random) -> bytes:
    """Flip one bit, or twenty."""
    damaged = bytearray(content or b"\0")
    for _ in range(chance.choice((1, 1, 20))):
        damaged[_place(damaged, chance)] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def some_bytes(content: bytes, chance: random.Random) -> bytes:
    """Overwrite, zero, insert, drop or double a few bytes, or exchange two pieces."""
    at, size = _place(content, chance), chance.choice((1, 4, 64, 512))
    end, other = at + size, _place(content, chance)
    piece = content[at:end]
    return chance.choice((
        content[:at] + chance.randbytes(len(piece)) + content[end:],
        content[:at] + bytes(len(piece)) + content[end:],
        content[:at] + chance.randbytes(size) + content[at:],
        content[:at] + content[end:],
        content[:end] + piece + content[end:],
        content[:other] + piece + content[other + size :],
    ))  # fmt: skip


def cut(content: bytes, chance: random.Random) -> bytes:
    """Cut it at any length, at the end of a line, or to nothing; or let it go on behind its end."""
    lines = content.splitlines(keepends=True)
    return chance.choice((
        content[: _place(content, chance)],
        b"".join(lines[: chance.randrange(len(lines) + 1)]),
        b"",
        content + chance.randbytes(20),
        content + content,
    ))  # fmt: skip


def line(content: bytes, chance: random.Random) -> bytes:
    """Drop, double or exchange lines."""
    lines = content.splitlines(keepends=True) or [b""]
    one, two = chance.randrange(len(lines)), chance.randrange(len(lines))
    what = chance.randrange(3)
    if what == 0:
        del lines[one]
    elif what == 1:
        lines.insert(two, lines[one])
    else:
        lines[one], lines[two] = lines[two], lines[one]
    return b"".join(lines)


def number(content: bytes, chance: random.Random) -> bytes:
    """Edit a number of a text to another plausible one, exchange two, or write something absurd in its place."""
    found = list(NUMBER.finditer(content))
    if not found:
        return some_bytes(content, chance)
    one, two = chance.choice(found), chance.choice(found)
    what = chance.randrange(4)
    if what == 0 and one.start() != two.start():
        one, two = sorted((one, two), key=lambda match: match.start())
        middle = content[one.end() : two.start()]
        return content[: one.start()] + two[0] + middle + one[0] + content[two.end() :]
    if what == 1:
        return content[: one.start()] + chance.choice(ABSURD) + content[one.end() :]
    digits = bytearray(one[0])
    at = chance.choice([place for place, digit in enumerate(digits) if 48 <= digit < 58])
    digits[at] = chance.choice([digit for digit in b"0123456789" if digit != digits[at]])
    return content[: one.start()] + bytes(digits) + content[one.end() :]


DAMAGES = {"bits": bit, "bytes": some_bytes, "cut": cut, "lines": line, "number": number}


def damaged(content: bytes, chance: random.Random) -> tuple[str, bytes]:
    """Return how the content was damaged, and the outcome; a gzip may be damaged inside and packed again."""
    how = chance.choice(list(DAMAGES))
    if content[:2] == b"\x1f\x8b" and how in ("lines", "number"):
        return f"{how} inside gzip", gzip.compress(DAMAGES[how](gzip.decompress(content), chance), mtime=0)
    return how, DAMAGES[how](content, chance)


def misplaced(path: Path, siblings: list[Path], chance: random.Random) -> str:
    """Put something else where a file was: nothing, a folder, a pipe, a link, or another file of its kind."""
    others = [one for one in siblings if one != path]
    hows = ["removed", "a folder", "a pipe", "a link to itself", "a device behind a link", "another one"]
    how = chance.choice(hows if others else hows[:-1])
    content = chance.choice(others).read_bytes() if others else b""
    path.unlink()
    if how == "a folder":
        path.mkdir()
    elif how == "a pipe":
        os.mkfifo(path)
    elif how.endswith(("itself", "link")):
        path.symlink_to(path.name if how.endswith("itself") else "/dev/zero")
    elif how == "another one":
        path.write_bytes(content)
    return how
