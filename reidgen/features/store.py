"""Feature files: embeddings with what is known of their images, as .parquet or .npz, written and read in blocks.

Both hold the same: one row per image, sorted by path, and the facts of the network as JSON. A .parquet is read by
pandas, DuckDB and the like (its metadata's key `reidgen` holds the facts); an .npz by numpy alone (its array `info`).
"""

import abc
import contextlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidgen.errors import DataError, ReidgenError
from reidgen.files import replacing

BLOCK = 4096  # rows of a block: of 2,048 numbers each, 32 MiB
SUFFIXES = (".parquet", ".npz")
TEXTS = ("path", "sha256", "camera", "track", "person")
SIZES = ("width", "height")
COLUMNS = ("path", "sha256", "width", "height", "camera", "track", "person")  # `run` and `embedding` stand beside them
DIGITS = 16  # of a digest, in rows; `info` has all 64 of the network's
_FORMAT = 1
Info = dict[str, Any]


class Features(abc.ABC):
    """An opened feature file. N rows, D numbers each.

    info: the facts of the network, see `extractor.Embedder`, with `dim`, `rows` and `images`, the folder or list that
    was embedded. rows: a DataFrame of COLUMNS: path, relative to that folder; sha256, the first 16 hex digits of the
    file's; width and height in pixels, as a viewer shows it; camera, track and person, "" where they are not known.
    """

    def __init__(self, file: Path, info: Info, rows: pd.DataFrame) -> None:
        self.file, self.info, self.rows = file, info, rows
        self.dim = int(info["dim"])

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Features({self.file}: {len(self):,} x {self.dim} by {self.info['name']})"

    @abc.abstractmethod
    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield (number of the first row, float32 (B, D)), all rows in order. Raises DataError where damage is met."""

    def check(self) -> None:
        """Read all embeddings. Raises DataError where damage is met."""
        for _ in self.blocks():
            pass

    @abc.abstractmethod
    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the embeddings of some rows, float32 (len(rows), D); fast where they lie close together."""


def check_name(file: Path) -> None:
    """Raise DataError where no feature file can be called so, ReidgenError where pyarrow is wanted and missing."""
    if file.suffix not in SUFFIXES:
        raise DataError(f"{file} must end in .parquet or .npz, which says how the features are written")
    if file.suffix == ".parquet":
        _pyarrow()


def open_features(file: Path) -> Features:
    """Return a feature file. Raises DataError when it is missing, damaged or none; see `check_name`."""
    check_name(file)
    if not file.is_file():
        raise DataError(f"no feature file {file}; make it with: reidgen embed RUN --images DIR --out {file}")
    with _sound(file):
        found = _Parquet(file) if file.suffix == ".parquet" else _Zip(file)
    if found.info.get("format") != _FORMAT or len(found) != found.info["rows"]:
        raise DataError(f"{file} is no feature file of this version of reidgen; embed the images again")
    return found


def write_features(file: Path, info: Info, rows: pd.DataFrame, blocks: Iterable[NDArray[np.float32]]) -> None:
    """Write a feature file, whole or not at all; memory holds one block. The same input gives the same bytes.

    rows: COLUMNS, in the order of the embeddings; info: with `dim` and `digest`. Raises ReidgenError when the disk is
    full or the folder cannot be written.
    """
    facts = {"format": _FORMAT, **info, "rows": len(rows)}
    with replacing(file) as temporary:
        write = _write_parquet if file.suffix == ".parquet" else _write_zip
        write(temporary, facts, rows, blocks)


@contextlib.contextmanager
def _sound(file: Path) -> Iterator[None]:
    """Turn what the readers raise on a damaged file into a DataError."""
    try:
        yield
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile, RecursionError) as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(
            f"{file} is damaged or no feature file ({what}); remove it and run reidgen embed again"
        ) from error


# --- .npz ---------------------------------------------------------------------------------------------------------


class _Zip(Features):
    def __init__(self, file: Path) -> None:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
            info = json.loads(str(held["info"][()]))
            rows = pd.DataFrame({name: held[name] for name in COLUMNS})
        rows = rows.astype(dict.fromkeys(TEXTS, object) | dict.fromkeys(SIZES, "int64"))
        super().__init__(file, info, rows[list(COLUMNS)])

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        with _sound(self.file), zipfile.ZipFile(self.file) as held, held.open("embedding.npy") as stream:
            _read_header(stream, (len(self), self.dim))
            for start in range(0, len(self), BLOCK):  # at the end of the member its CRC is checked
                count = min(BLOCK, len(self) - start)
                content = stream.read(4 * count * self.dim)
                yield start, np.frombuffer(content, dtype="<f4").reshape(count, self.dim)
            if stream.read(1):
                raise ValueError("there is more behind the embeddings")

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        with _sound(self.file):
            return np.asarray(mapped_embeddings(self.file, (len(self), self.dim))[rows])


def mapped_embeddings(file: Path, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the array `embedding` of an .npz, in which it lies uncompressed, mapped from disk: any rows are read fast.

    Raises ValueError when it has another shape or is compressed, and what zipfile raises.
    """
    with zipfile.ZipFile(file) as held:
        member = held.getinfo("embedding.npy")
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("the embeddings are compressed")
    with file.open("rb") as stream:
        stream.seek(member.header_offset + 26)
        name, extra = (int.from_bytes(stream.read(2), "little") for _ in range(2))
        stream.seek(member.header_offset + 30 + name + extra)
        _read_header(stream, shape)
        return np.memmap(file, dtype="<f4", mode="r", offset=stream.tell(), shape=shape)


def write_arrays(
    file: Path, arrays: Mapping[str, NDArray[Any]], shape: tuple[int, int], blocks: Iterable[NDArray[np.float32]]
) -> None:
    """Write an .npz, uncompressed, of arrays and of `embedding`, block by block."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as held:
        for name, array in arrays.items():
            with _member(held, name) as out:
                np.lib.format.write_array(out, array, allow_pickle=False)
        with _member(held, "embedding") as out:
            header = io.BytesIO()
            np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
            out.write(header.getvalue())
            for block in blocks:
                out.write(np.ascontiguousarray(block, dtype="<f4").tobytes())


def _read_header(stream: Any, shape: tuple[int, int]) -> None:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    if read(stream) != (shape, False, np.dtype("<f4")):
        raise ValueError("the embeddings have another shape than the rows")


def _write_zip(file: Path, info: Info, rows: pd.DataFrame, blocks: Iterable[NDArray[np.float32]]) -> None:
    arrays: dict[str, NDArray[Any]] = {"info": np.array(json.dumps(info))}
    arrays |= {name: _texts(rows[name]) for name in TEXTS}
    arrays |= {name: rows[name].to_numpy(dtype=np.int64) for name in SIZES}
    arrays["run"] = np.full(len(rows), info["digest"][:DIGITS])
    write_arrays(file, arrays, (len(rows), info["dim"]), blocks)


def _texts(column: "pd.Series[Any]") -> NDArray[np.str_]:
    """Return texts as numpy holds them without pickle; of the longest text's length each."""
    return np.array(column.to_list(), dtype=np.str_) if len(column) else np.empty(0, dtype="<U1")


def _member(held: zipfile.ZipFile, name: str) -> Any:
    return held.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)  # without today's date: the same bytes


# --- .parquet -----------------------------------------------------------------------------------------------------


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ReidgenError(
            "a .parquet file needs pyarrow: pip install 'reidgen[search]', or give a name that ends in .npz"
        ) from error
    return pyarrow


class _Parquet(Features):
    def __init__(self, file: Path) -> None:
        with self._open(file) as held:
            info = json.loads(held.schema_arrow.metadata[b"reidgen"])
            table = held.read(columns=list(COLUMNS))
            groups = [held.metadata.row_group(number).num_rows for number in range(held.num_row_groups)]
        columns = {name: table.column(name).to_pylist() for name in COLUMNS}
        texts = {name: pd.Series([text or "" for text in columns[name]], dtype=object) for name in TEXTS}
        sizes = {name: pd.Series(columns[name], dtype="int64") for name in SIZES}
        super().__init__(file, info, pd.DataFrame(texts | sizes)[list(COLUMNS)])
        self._first = np.cumsum([0, *groups])
        self._last_read: tuple[int, NDArray[np.float32]] | None = None

    def blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        for number, start in enumerate(self._first[:-1].tolist()):
            yield start, self._group(number)

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        found = np.empty((len(rows), self.dim), dtype=np.float32)
        group_N = np.searchsorted(self._first, rows, side="right") - 1
        for number in np.unique(group_N).tolist():
            if self._last_read is None or self._last_read[0] != number:
                self._last_read = number, self._group(number)
            here = group_N == number
            found[here] = self._last_read[1][rows[here] - self._first[number]]
        return found

    def _open(self, file: Path) -> Any:
        return _pyarrow().parquet.ParquetFile(file, page_checksum_verification=True)

    def _group(self, number: int) -> NDArray[np.float32]:
        with _sound(self.file), self._open(self.file) as held:
            column = held.read_row_group(number, columns=["embedding"]).column("embedding").combine_chunks()
            values = column.flatten().to_numpy(zero_copy_only=False)
            return cast(NDArray[np.float32], values.astype(np.float32, copy=False).reshape(len(column), self.dim))


def _write_parquet(file: Path, info: Info, rows: pd.DataFrame, blocks: Iterable[NDArray[np.float32]]) -> None:
    arrow = _pyarrow()
    texts = {name: arrow.string() for name in TEXTS}
    fields = [
        ("path", texts["path"]),
        ("embedding", arrow.list_(arrow.float32(), info["dim"])),
        ("sha256", texts["sha256"]),
        ("run", arrow.string()),
        *((name, arrow.int32()) for name in SIZES),
        *((name, texts[name]) for name in ("camera", "track", "person")),
    ]
    schema = arrow.schema(fields, metadata={"reidgen": json.dumps(info)})
    dense = {name: "NONE" if name == "embedding" else "ZSTD" for name, _ in fields}
    dense["embedding.list.element"] = dense.pop("embedding")
    options = {"compression": dense, "use_dictionary": ["run", "camera", "track", "person"]}
    with arrow.parquet.ParquetWriter(file, schema, write_page_checksum=True, **options) as out:
        start = 0
        for block in blocks:
            part = rows.iloc[start : start + len(block)]
            columns = {name: [one or None for one in part[name]] for name in TEXTS}
            columns |= {name: part[name].to_list() for name in SIZES}
            columns["run"] = [info["digest"][:DIGITS]] * len(part)
            arrays = {name: arrow.array(columns[name], type=kind) for name, kind in fields if name != "embedding"}
            flat = arrow.array(np.ascontiguousarray(block, dtype=np.float32).reshape(-1))
            arrays["embedding"] = arrow.FixedSizeListArray.from_arrays(flat, info["dim"])
            out.write_table(arrow.table([arrays[name] for name, _ in fields], schema=schema), row_group_size=BLOCK)
            start += len(block)
