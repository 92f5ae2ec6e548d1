"""Run folders and result rows: where they lie, how they are read and written, and where they came from. No torch here.

    <results>/runs/<source>/<method>-<backbone>-s<seed>-<hash8>/
        recipe.toml  log.csv  state.pt (only while unfinished)  weights.safetensors  done
        results.csv  per_query.csv.gz

`done` is written last in training. A target's rows appear in results.csv after its per-query numbers were written.
"""

import contextlib
import functools
import gzip
import io
import json
import os
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from reidgen import __version__
from reidgen.errors import RunError
from reidgen.files import replacing, write_text
from reidgen.locks import hold
from reidgen.recipe import Recipe, load_recipe

OLD = 3600.0  # seconds after which nobody is still writing a temporary file
Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, out of how much

# One row per (run, target, split). Fractions in [0, 1]; `seen` is 1 where the target belongs to a source;
# `data` and `source_data` are the first 8 digits of the digests of the target's and the source's index. version, commit,
# torch, device and threads are those of the training; date is that of the evaluation. title: the method's name in tables,
# "" where METHODS knows it; row: first 8 digits of the digest of the method's row as it was trained.
COLUMNS: dict[str, str] = {
    "source": "str",
    "target": "str",
    "seen": "int64",
    "split": "int64",
    "method": "str",
    "backbone": "str",
    "seed": "int64",
    "mAP": "float64",
    "rank1": "float64",
    "rank5": "float64",
    "rank10": "float64",
    "mINP": "float64",
    "queries": "int64",
    "gallery": "int64",
    "unmatched": "int64",
    "recipe": "str",
    "hash": "str",
    "data": "str",
    "source_data": "str",
    "version": "str",
    "commit": "str",
    "torch": "str",
    "device": "str",
    "dtype": "str",
    "date": "str",
    "title": "str",
    "row": "str",
    "threads": "int64",
}
# What files written before there was such a column hold in it: nothing, or for `threads` 0, not known.
ADDED: dict[str, str | int] = {"title": "", "row": "", "threads": 0}


@dataclass(frozen=True)
class Run:
    """One run folder and the files in it."""

    folder: Path

    @property
    def recipe_file(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def log(self) -> Path:
        return self.folder / "log.csv"

    @property
    def state(self) -> Path:
        return self.folder / "state.pt"

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def done(self) -> Path:
        return self.folder / "done"

    @property
    def results(self) -> Path:
        return self.folder / "results.csv"

    @property
    def per_query(self) -> Path:
        return self.folder / "per_query.csv.gz"

    def recipe(self) -> Recipe:
        """Return the recipe of the run. Raises RunError when its file is missing."""
        if not self.recipe_file.is_file():
            raise self._damaged(self.recipe_file)
        return load_recipe(str(self.recipe_file))

    def _damaged(self, file: Path) -> RunError:
        return RunError(f"{file} is missing or damaged; remove the folder {self.folder} and run again")

    def facts(self) -> dict[str, str | int | float]:
        """Return what training wrote into `done`. Raises RunError when the run is not finished."""
        if not self.done.is_file():
            raise RunError(
                f"{self.folder} is not finished; repeat its reidgen train command, it goes on where it stopped"
            )
        try:
            facts: dict[str, str | int | float] = json.loads(self.done.read_text(encoding="utf-8"))
        except ValueError as error:
            raise self._damaged(self.done) from error
        if not isinstance(facts, dict) or not facts.keys() >= {"hash", "classes", "source_data", "seconds", "version"}:
            raise self._damaged(self.done)
        return facts

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process. Raises BusyError at once when another process holds it."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold(self.folder, wait=False))
                for left in self.folder.rglob(".*.part"):  # by a process that was killed; `show` holds no lock
                    if left.parent.name != "show" or left.stat().st_mtime < time.time() - OLD:
                        left.unlink(missing_ok=True)
            except OSError as error:
                raise RunError(f"cannot write in {self.folder} ({error.strerror}); choose another --results") from error
            yield

    def evaluated(self, target: str, digest: str) -> bool:
        """Return whether results.csv holds rows of `target` for the index with this digest, and its queries are there too."""
        rows = read_csv(self.results)
        return self.per_query.is_file() and bool(((rows["target"] == target) & (rows["data"] == digest[:8])).any())

    def write_results(self, target: str, rows: pd.DataFrame, per_query: pd.DataFrame) -> None:
        """Put the rows of one target in the place of its older ones, in both files. Call it holding the lock."""
        text = per_query.to_csv(index=False, float_format="%.6g")
        titles, _, lines = text.partition("\n")
        kept, old = self._queries_but(target, titles), read_csv(self.results)
        if kept:
            text = lines
        else:
            old = old.iloc[:0]  # rows that have lost their queries are evaluated again
            write_text(self.results, to_csv(old))
        with replacing(self.per_query) as temporary:
            temporary.write_bytes(kept + gzip.compress(text.encode(), mtime=0))
        write_text(
            self.results, to_csv(pd.concat([part for part in (old[old["target"] != target], rows) if len(part)]))
        )

    def _queries_but(self, target: str, titles: str) -> bytes:
        """Return the per-query file without the rows of a target; as it is where it has none, for gzip files can be joined."""
        try:
            packed = self.per_query.read_bytes()
            lines = io.StringIO(gzip.decompress(packed).decode()).readlines()
        except FileNotFoundError:
            return b""
        except (OSError, EOFError, zlib.error, ValueError):
            lines = []
        if not lines or lines[0].rstrip("\n") != titles:
            raise RunError(f"{self.per_query} is damaged; remove it and evaluate again")
        kept = [lines[0], *(line for line in lines[1:] if not line.startswith(f"{target},"))]
        return packed if len(kept) == len(lines) else gzip.compress("".join(kept).encode(), mtime=0)


def run_of(recipe: Recipe, *, results: Path, digest: str) -> Run:
    """Return the run folder of a recipe; `digest` is `recipe.hash(...)`."""
    name = f"{recipe.method}-{recipe.backbone}-s{recipe.seed}-{digest}"
    return Run(results / "runs" / recipe.source / name)


def find_run(name: str, results: Path) -> Run:
    """Return the run that `name` means: its folder's path, its folder's name, or the only one it begins.

    Raises RunError when there is none or more than one (they are listed).
    """
    if (Path(name) / "recipe.toml").is_file():
        return Run(Path(name))
    found = sorted(path.parent for path in (results / "runs").glob("*/*/recipe.toml"))
    matching = [path for path in found if name in (path.name, f"{path.parent.name}/{path.name}")] or [
        path
        for path in found
        if name and (path.name.startswith(name) or f"{path.parent.name}/{path.name}".startswith(name))
    ]
    if len(matching) == 1:
        return Run(matching[0])
    listed = (
        ", ".join(f"{path.parent.name}/{path.name}" for path in (matching or found)[:5])
        or "none yet; run: reidgen train"
    )
    if matching:
        raise RunError(f"several runs are called {name!r} in {results}; say which with its source: {listed}")
    raise RunError(f"no run is called {name!r} in {results}; there: {listed}")


def to_csv(rows: pd.DataFrame) -> str:
    """Return rows as CSV with the columns in their order and six significant digits."""
    return rows[list(COLUMNS)].to_csv(index=False, float_format="%.6g")


def read_csv(path: Path) -> pd.DataFrame:
    """Return the rows of one file, none where it is absent; columns that came later get their default.

    Raises RunError when it is no file of result rows.
    """
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in COLUMNS.items()})
    try:
        rows = pd.read_csv(path, dtype=COLUMNS, keep_default_na=False)
        missing = {name: value for name, value in ADDED.items() if name not in rows}
        return rows.assign(**missing)[list(COLUMNS)]
    except (ValueError, KeyError) as error:
        raise RunError(f"{path} holds no result rows of this version; move it away and run again") from error


def read_rows(results: Path) -> pd.DataFrame:
    """Return the rows of every run below `results`, and those of its rows.csv whose run folders are gone."""
    files = [results / "rows.csv", *sorted((results / "runs").glob("*/*/results.csv"))]
    frames = [frame for frame in map(read_csv, files) if len(frame)]
    if not frames:
        return read_csv(results / "rows.csv")
    cell = ["source", "target", "split", "method", "backbone", "seed", "hash", "version", "data", "source_data"]
    return pd.concat(frames).drop_duplicates(cell, keep="last").reset_index(drop=True)


@functools.cache
def provenance() -> dict[str, str]:
    """Return the package's version and its commit: of the git checkout it lies in (with "+" where files are changed).

    Where there is no checkout (a copy on a cluster), the environment variable REIDGEN_COMMIT names it.
    """
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        tracked = git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = "+" if git("status", "--porcelain", "--untracked-files=no", "--", str(here)) else ""
        commit = git("rev-parse", "--short=12", "HEAD") + changed if tracked else ""
    except (OSError, subprocess.CalledProcessError):
        commit = os.environ.get("REIDGEN_COMMIT", "")
    return {"version": __version__, "commit": commit}


def now() -> str:
    """Return the present time in UTC, to the second, as ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
