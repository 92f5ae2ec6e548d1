"""Run folders: where they lie, how they are read and written, and what code they came from. No torch here.

    <results>/runs/<source>/<method>-<backbone>-s<seed>-<hash8>-<row8>/
        recipe.toml  row.json  log.csv  state.pt (only while unfinished)  weights.safetensors  done
        results.csv  per_query.csv.gz  results.csv.sha256

`done` is written last in training, with the digests of the files before it and a check of its own. A target's rows
appear in results.csv after its per-query numbers were written; results.csv.sha256 proves both at any moment, and rows
without it count as damaged, see `rows.read_csv`. Only folders of reidgen 0.1.0 lack these digests: there a mean must
equal its per-query numbers, where they are left.
"""

import contextlib
import functools
import gzip
import io
import json
import os
import re
import shlex
import subprocess
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from reidgen import __version__
from reidgen.errors import BusyError, RecipeError, RunError
from reidgen.files import sha256_file
from reidgen.integrity import passes_check, sealed, text_digest, write_sealed
from reidgen.locks import held_here, hold
from reidgen.parts import BackboneRow, Method, backbone_from, method_from
from reidgen.recipe import Recipe, read_recipe
from reidgen.rows import KEY, QUERIES, disagreement, is_there, no_rows, read_csv, restored, to_csv, unreadable
from reidgen.teststeps import PLAIN

OLD = 3600.0  # seconds after which nobody is still writing a temporary file
T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # what is being done, how much of it is done, out of how much

Facts = dict[str, Any]
_FACTS: dict[str, type | tuple[type, ...]] = {  # what `done` must hold
    "sources": list,
    "classes": int,
    "threads": int,
    "seconds": (int, float),
    **dict.fromkeys(("weights_sha256", "recipe_sha256", "row_sha256", "hash", "row", "source_data"), str),
    **dict.fromkeys(("device", "torch", "version", "commit", "date"), str),
}
_RESTORE = "restore it from a copy; its method, source and seed stand in the folder's name"


@dataclass(frozen=True)
class Run:
    """One run folder and the files in it."""

    folder: Path

    @property
    def recipe_file(self) -> Path:
        return self.folder / "recipe.toml"

    @property
    def row_file(self) -> Path:
        return self.folder / "row.json"

    @property
    def hash(self) -> str:
        """The recipe's hash: rows of other hashes are not comparable."""
        return self.folder.name.rsplit("-", 2)[1]

    @property
    def row_digest(self) -> str:
        """The digest of the method's row."""
        return self.folder.name.rsplit("-", 2)[2]

    @property
    def model_file(self) -> Path:
        """What a folder holds instead of recipe.toml and row.json where its network is from elsewhere."""
        return self.folder / "model.json"

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
        """Return the recipe of the run; no plug-in is imported.

        Raises RunError when its file is missing or is not the one that was trained.
        """
        self._recorded(self.recipe_file, "recipe")
        return read_recipe(self.recipe_file)

    def method(self) -> Method:
        """Return the row that the run was trained with, as it was then.

        Raises RunError when its file is missing or is not the one that was trained.
        """
        return self._row(method_from)

    def backbone(self) -> BackboneRow:
        """Return the backbone that the run was trained with, as it was then. Raises RunError as `method` does."""
        return self._row(backbone_from)

    def _row(self, read: Callable[[dict[str, Any]], T]) -> T:
        self._recorded(self.row_file, "row")
        try:
            return read(json.loads(self.row_file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, RecursionError, RecipeError) as error:
            raise RunError(f"{self.row_file} holds no method's row ({error}); {_RESTORE}") from error

    def _recorded(self, file: Path, what: str) -> None:
        """Raise RunError when a file is missing, or is not the one that `done` vouches for, once there is a `done`."""
        if not file.is_file():
            raise RunError(f"{file} is missing; {_RESTORE}")
        try:
            if self.done.is_file() and self.facts()[f"{what}_sha256"] != text_digest(file):
                raise RunError(f"{file} is not the {what} that this run was trained with; {_RESTORE}")
        except OSError as error:
            raise unreadable(file, error) from error

    def facts(self) -> Facts:
        """Return what training wrote into `done`. Raises RunError when the run is not finished or the
        file is damaged.
        """
        if not self.done.is_file():
            raise RunError(
                f"{self.folder} is not finished; repeat its reidgen train command, it goes on where it stopped"
            )
        try:
            facts: Facts = json.loads(self.done.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged_done() from error
        if isinstance(facts, dict) and facts.get("version") == "0.1.0" and "check" not in facts:
            raise RunError(
                f"{self.folder} was trained by reidgen 0.1.0: its rows stand in tables, to use it train it again"
            )
        if not isinstance(facts, dict) or not all(isinstance(facts.get(key), kind) for key, kind in _FACTS.items()):
            raise self._damaged_done()
        if not passes_check(facts):
            raise self._damaged_done()
        return facts

    def _damaged_done(self) -> RunError:
        return RunError(
            f"{self.done} is damaged or cannot be read, so nothing tells what was trained; restore it from a copy, "
            "or remove it and repeat the reidgen train command to train this run anew"
        )

    def sound_weights(self) -> Path:
        """Return the file of the weights. Raises RunError when it is missing or not the one that training wrote."""
        digest = self.facts()["weights_sha256"]
        anew = f"restore it from a copy, or remove {self.done} and repeat the reidgen train command to train it anew"
        if not self.weights.is_file():
            raise RunError(f"{self.folder} has lost its weights.safetensors; {anew}")
        try:
            found = sha256_file(self.weights)
        except OSError as error:
            raise unreadable(self.weights, error) from error
        if found != digest:
            raise RunError(f"{self.weights} is damaged: it is not the file that training wrote; {anew}")
        return self.weights

    def training_log(self) -> pd.DataFrame:
        """Return log.csv, one row per epoch. Raises RunError when it is missing or damaged, which harms no result."""
        digest = self.facts().get("log_sha256") if self.done.is_file() else None
        with contextlib.suppress(OSError, ValueError):
            if self.log.is_file() and digest in (None, text_digest(self.log)):  # a pipe would be waited for
                log = pd.read_csv(self.log).astype("float64")
                if {"epoch", "loss"} <= set(log) and not log.isna().to_numpy().any():
                    return log
        raise RunError(
            f"{self.log} is missing or damaged; its training curves are left out, the weights and results are good"
        )

    def queries(self, columns: Iterable[str] = QUERIES) -> pd.DataFrame:
        """Return some columns of the per-query numbers; ap and inp are NaN where a query has no match.

        Raises RunError when the file is missing, damaged, or not the one that was written with results.csv.
        """
        kinds = {name: QUERIES[name] for name in columns}
        if sealed(self.per_query, by=self.results) is not False:
            with contextlib.suppress(OSError, EOFError, zlib.error, ValueError, KeyError):
                found = pd.read_csv(
                    self.per_query,
                    usecols=lambda name: name in kinds,
                    dtype=kinds,
                    keep_default_na=False,
                    compression="gzip",
                    na_values={name: [""] for name in ("ap", "inp")},
                )
                return found.assign(test=found["test"] if "test" in found else PLAIN)[list(kinds)]
        raise RunError(f"{self.per_query} is missing or damaged; {self.again()}")

    def again(self) -> str:
        """Return how the results of this run are made again: nothing but time is lost, the weights are good."""
        targets, tests = "NAME", PLAIN
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = pd.read_csv(self.results, usecols=lambda name: name in KEY, dtype="str").dropna()
            targets = _joined(found["target"], r"[\w.+-]+") or targets
            tests = _joined(found["test"], r"[\w.+@()=,/-]+") or tests
        plugins: tuple[str, ...] = ()
        with contextlib.suppress(RunError, RecipeError):
            plugins = self.recipe().plugins
        words = ["reidgen", "evaluate", *(self.model_words() or [str(self.folder)]), "--target", targets]
        words += ["--test", tests] if tests != PLAIN else []
        words += [word for plugin in plugins for word in ("--plugin", plugin)]
        return f"{shlex.join(words)} makes it again (the weights are good)"

    def model_words(self) -> list[str]:
        """Return the options that name a model from elsewhere, none where this is a run."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            asked = json.loads(self.model_file.read_text(encoding="utf-8"))["asked"]
            options = [("--model", asked["name"]), *(("--input", one) for one in asked["inputs"])]
            options += [("--weights", asked["weights"]), ("--trained-on", asked["trained_on"])]
            return [str(word) for option, value in options if value for word in (option, value)]
        return []

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this thread, which may do so several times over. Raises BusyError at once when another
        process holds it.
        """
        if held_here(self.folder):
            yield
            return
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold(self.folder, wait=False))
                self._clear()  # what a process left that was killed
            except OSError as error:
                raise RunError(f"cannot write in {self.folder} ({error.strerror}); choose another --results") from error
            try:
                yield
            finally:
                if (claim := held_here(self.folder)) and not claim.lost:
                    with contextlib.suppress(OSError):
                        self._clear()

    def check_hold(self) -> None:
        """Raise BusyError when another process has taken the folder over from this thread, which held it and gave no
        sign of life for too long; call it before what is there is replaced. Where it holds nothing, all is well.
        """
        if (claim := held_here(self.folder)) and claim.lost:
            raise BusyError(f"another process has taken over {self.folder}, as this one stood still for too long")

    def telling(self, report: Progress) -> Progress:
        """Return a report that also has the claim on this folder say what is done, for `bench --status`.

        It raises BusyError when another process has taken over, see `check_hold`. Where this thread does not hold the
        folder, it is `report` itself.
        """
        if not (claim := held_here(self.folder)):
            return report

        def tell(what: str, done: int, total: int) -> None:
            self.check_hold()
            claim.tell(what, done, total)
            report(what, done, total)

        return tell

    def _clear(self) -> None:
        for left in self.folder.rglob(".*.part"):
            if left.parent.name != "show" or left.stat().st_mtime < time.time() - OLD:  # `show` holds no lock
                left.unlink(missing_ok=True)

    def own_rows(self) -> pd.DataFrame:
        """Return the rows of results.csv, as `read_csv` does. Raises RunError for those of another run, too."""
        rows = read_csv(self.results, remedy=self._remedy)
        if name := OWN_FOLDER.fullmatch(self.folder.name):
            whose = set(zip(rows["seed"].tolist(), rows["hash"].tolist(), rows["row"].tolist(), strict=True))
            if {"-".join(map(str, one)) for one in whose} - {name[1]}:
                raise RunError(f"{self.results} holds the results of another run; {self._remedy()}")
        return rows

    def _remedy(self) -> str:
        return f"{self.again()}, and so does reidgen bench" if self.recipe_file.exists() else restored(self.results)

    def evaluated(self, target: str, digest: str, test: str = PLAIN) -> bool:
        """Tell whether results.csv holds all rows of a target and test for the index with this digest, and its queries
        agree.

        What is damaged, torn, was changed by hand or is of another run counts as not evaluated.
        """
        try:
            rows = self.own_rows()
            rows = rows[(rows["target"] == target) & (rows["test"] == test) & (rows["data"] == digest[:8])]
            if rows.empty or not self.per_query.is_file():
                return False
            return bool(sealed(self.per_query, by=self.results)) and (target, test) in _tested(
                self, sha256_file(self.per_query)
            )
        except (RunError, OSError):
            return False

    def write_results(self, target: str, rows: pd.DataFrame, per_query: pd.DataFrame, *, test: str = PLAIN) -> None:
        """Put the rows of one target and test in the place of their older ones, in both files; call it holding the
        lock.

        rows: with this target and test; per_query: without the column `test`. Rows and numbers of other targets and
        tests stay, but not those of a damaged file, which count as not evaluated again. A kill at any moment leaves
        both files proven, with these rows and numbers or without these rows. Raises BusyError, see `check_hold`.
        """
        self.check_hold()
        numbers = per_query.assign(target=target, test=test)
        numbers = numbers[["target", "test", *(name for name in numbers if name not in KEY[:2])]]
        text = numbers.to_csv(index=False, float_format="%.6g")
        titles, _, lines = text.partition("\n")
        packed, old = self._proven_queries(), self._believed_rows()
        others = old[(old["target"] != target) | (old["test"] != test)]
        if len(others) < len(old):  # older rows must not meet the new numbers
            self._write(others, packed)
        kept = _queries_but(packed, target, test, titles)
        both = pd.concat([part for part in (others, rows) if len(part)])
        self._write(both, kept + gzip.compress((lines if kept else text).encode(), mtime=0))

    def _write(self, rows: pd.DataFrame, packed: bytes) -> None:
        write_sealed(self.results, to_csv(rows).encode(), before={self.per_query: packed})

    def _believed_rows(self) -> pd.DataFrame:
        """Return the rows of results.csv; where it is damaged, none, and remove it, so that it gets no seal."""
        try:
            return self.own_rows()
        except RunError:
            with contextlib.suppress(OSError):
                self.results.unlink(missing_ok=True)
            return no_rows()

    def _proven_queries(self) -> bytes:
        """Return the per-query file as it is, nothing where it is missing or not as it was written."""
        with contextlib.suppress(OSError):
            if sealed(self.per_query, by=self.results):
                return self.per_query.read_bytes()
        return b""


def _queries_but(packed: bytes, target: str, test: str, titles: str) -> bytes:
    """Return a per-query file without the rows of a target and test; as it is where it has none, for gzip files can be
    joined.

    Nothing, where it is damaged or of other columns.
    """
    try:
        lines = io.StringIO(gzip.decompress(packed).decode()).readlines()
    except (OSError, EOFError, zlib.error, ValueError):
        return b""
    if lines and lines[0].startswith("target,split,"):  # written before there were tests; no target has a comma
        rest = [f"{name},{PLAIN},{numbers}" for name, _, numbers in (line.partition(",") for line in lines[1:])]
        lines = [lines[0].replace("target,", "target,test,", 1), *rest]
        packed = gzip.compress("".join(lines).encode(), mtime=0)
    first = lines[0].rstrip("\n") if lines else ""
    if first != titles and first and titles.startswith(f"{first},"):  # written before there were all columns
        behind = "," * (titles.count(",") - first.count(",")) + "\n"
        lines = [f"{titles}\n", *(line.rstrip("\n") + behind for line in lines[1:])]
        packed = gzip.compress("".join(lines).encode(), mtime=0)
    if not lines or lines[0].rstrip("\n") != titles:
        return b""
    begins = pd.DataFrame([[target, test, ""]]).to_csv(index=False, header=False).rstrip("\n")  # quoted as it is there
    kept = [lines[0], *(line for line in lines[1:] if not line.startswith(begins))]
    return packed if len(kept) == len(lines) else gzip.compress("".join(kept).encode(), mtime=0)


def _joined(names: "pd.Series[str]", pattern: str) -> str:
    """Return the different names, those that look like one, with commas between."""
    return ",".join(dict.fromkeys(name for name in names if re.fullmatch(pattern, name)))


@functools.lru_cache(maxsize=4)
def _tested(run: Run, digest: str) -> frozenset[tuple[str, str]]:
    """Return the pairs of target and test that have per-query numbers, in the file with this digest."""
    found = run.queries(KEY[:2]).drop_duplicates()
    return frozenset(found.itertuples(index=False, name=None))


def run_of(recipe: Recipe, *, results: Path, digest: str) -> Run:
    """Return the run folder of a recipe; `digest` is `recipe.hash(...)`."""
    name = folder_name(recipe.method, recipe.backbone, recipe.seed, digest, recipe.row.digest)
    return Run(results / "runs" / recipe.source / name)


def folder_name(method: str, backbone: str, seed: int, digest: str, row: str) -> str:
    """Return the name of a run's folder; digest: the recipe's hash; row: the row's digest, "" before there were any."""
    return f"{method}-{in_folders(backbone)}-s{seed}-{digest}" + (f"-{row}" if row else "")


def in_folders(backbone: str) -> str:
    """Return how names of folders and files have a backbone: `timm-vit_tiny` of `timm:vit_tiny`; Windows has no
    colons.
    """
    return backbone.replace(":", "-")


def find_run(name: str, results: Path) -> Run:
    """Return the run that `name` means: its folder's path, its folder's name, or the only one it begins.

    Raises RunError when there is none or more than one (they are listed).
    """
    if (Path(name) / "recipe.toml").is_file():
        return Run(Path(name))
    if name.endswith(".onnx"):
        raise RunError(f"{name} is no run; a model from elsewhere is given by --model, in Python by reidgen.load_model")
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
        raise RunError(f"several runs are called {name!r} in {results}; say which with more of its name: {listed}")
    raise RunError(f"no run is called {name!r} in {results}; there: {listed}")


def below_runs(results: Path, name: str) -> list[Path]:
    """Return the files of this name in all run folders, sorted, with those that are links to nowhere."""
    folders = sorted((results / "runs").glob("*/*/"))
    return [folder / name for folder in folders if os.path.lexists(folder / name)]


OWN_FOLDER = re.compile(r".*-s(\d+-[0-9a-f]{8,16}-[0-9a-f]{8})")  # of a run of reidgen 0.2.0 or later


def read_rows(results: Path) -> pd.DataFrame:
    """Return the rows of every run below `results`, and those of its rows.csv whose run folders are gone."""
    files = [results / "rows.csv", *below_runs(results, "results.csv")]
    frames = [frame for frame in map(_agreeing, files[::-1]) if len(frame)][::-1]  # rows.csv last, see `rows._parsed`
    if not frames:
        return read_csv(results / "rows.csv")
    cell = ["source", *KEY, "method", "row", "backbone", "seed", "hash", "version", "data", "source_data"]
    return pd.concat(frames).drop_duplicates(cell, keep="last").reset_index(drop=True)


def _agreeing(file: Path) -> pd.DataFrame:
    """Return the rows of one file; those of a run must be its own, and without a seal (of reidgen 0.1.0) agree with the
    per-query numbers.
    """
    run = Run(file.parent)
    rows = run.own_rows() if file == run.results else read_csv(file)
    if file == run.results and sealed(file) is None and is_there(run.per_query):
        if what := disagreement(rows, run.queries()):
            raise RunError(f"{file}: {what}; restore both files from one copy, or move the run away and train it again")
    return rows


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
