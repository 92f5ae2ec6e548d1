"""MATLAB files up to version 7, read by SciPy once their own claims are proven: it takes memory for what they only say."""

import struct
import zlib
from pathlib import Path
from typing import Any

from reidgen.errors import DataError
from reidgen.files import opened

LIMIT = 2**28  # bytes, decompressed; the largest of the field has 30 MB
DEPTH = 10  # cells in cells
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _PLAIN = 1, 2, (4, *range(6, 16))  # classes: text and numbers are as large as their bytes
_FLAGS, _NAME = 6, 1  # types of the elements of a matrix


def load_mat(file: Path, *keys: str) -> dict[str, Any]:
    """Return the arrays `keys` of a MATLAB file of version 5 to 7, as `scipy.io.loadmat` does.

    Raises DataError when the file is none, damaged, has more than LIMIT bytes, says of a cell or struct array that it
    has more members than bytes, or lacks one of the keys.
    """
    from io import BytesIO

    from scipy.io import loadmat

    try:
        with opened(file) as raw:
            content = _proven(raw.read(LIMIT + 1))
        table = loadmat(BytesIO(content), variable_names=keys)
    except Exception as error:  # a damaged file makes scipy raise almost anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise DataError(f"cannot read {file}: {reason}; get the file again") from error
    lacking = [key for key in keys if key not in table]
    if lacking:
        raise DataError(f"{file} has no {' and no '.join(lacking)}; get the file again")
    return dict(table)


def _proven(content: bytes) -> bytes:
    """Return the file without compression. Raises ValueError when it is not what it says."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or content[:10] != b"MATLAB 5.0":
        raise ValueError("it is no MATLAB file of version 5 to 7")
    plain, place, left = [content[:128]], 128, LIMIT
    while place < len(content):
        kind, start, end = _element(content, place, order)
        if kind == _COMPRESSED:
            inflate = zlib.decompressobj()
            matrix = inflate.decompress(content[start:end], left)
            if inflate.unconsumed_tail:
                raise ValueError(f"it has more than {LIMIT:,} bytes")
            if not inflate.eof:
                raise ValueError("it is cut off")
            place = end  # the only elements without padding
        else:
            matrix, place = content[place:end], end + -end % 8
        if (left := left - len(matrix)) < 0:
            raise ValueError(f"it has more than {LIMIT:,} bytes")
        kind, start, end = _element(matrix, 0, order)
        if kind != _MATRIX:
            raise ValueError(f"it holds an element of type {kind}")
        _prove(matrix[start:end], order, DEPTH)
        plain.append(matrix[:end] + bytes(-end % 8))
    return b"".join(plain)


def _element(content: bytes, place: int, order: str) -> tuple[int, int, int]:
    """Return type, first byte and end of the element at `place`; small ones carry their bytes in their tag."""
    if place + 8 > len(content):
        raise ValueError("it is cut off")
    kind, size = struct.unpack_from(f"{order}II", content, place)
    start = place + 8
    if kind >> 16:
        kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        if size > 4:
            raise ValueError("a small element has more than 4 bytes")
    if start + size > len(content):
        raise ValueError("it is cut off")
    return kind, start, start + size


def _prove(matrix: bytes, order: str, depth: int) -> None:
    """Raise ValueError when an array of cells or structs cannot have as many members as it says."""
    if not matrix:  # an empty cell
        return
    if not depth:
        raise ValueError(f"its cells lie more than {DEPTH} deep")
    parts, place = [], 0
    while place < len(matrix):
        kind, start, end = _element(matrix, place, order)
        parts.append((kind, matrix[start:end]))
        place = start + 4 if start == place + 4 else end + -end % 8
    (kind, flags), (_, sizes) = parts[0], parts[1]
    if kind != _FLAGS or len(flags) != 8 or len(sizes) % 4:
        raise ValueError("an array has no size")
    of, members = struct.unpack_from(f"{order}I", flags)[0] & 0xFF, 1
    for size in struct.unpack(f"{order}{len(sizes) // 4}i", sizes):
        if size < 0:
            raise ValueError("an array has a negative size")
        members *= size
    if of in _PLAIN:
        return
    if of not in (_CELL, _STRUCT):
        raise ValueError(f"it holds an array of class {of}")
    inside = [part for kind, part in parts[3:] if kind == _MATRIX]
    if (members != len(inside)) if of == _CELL else (members > len(matrix) or (members and len(inside) % members)):
        raise ValueError(f"an array says that it has {members:,} members")
    for part in inside:
        _prove(part, order, depth - 1)
