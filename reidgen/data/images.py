"""What prepare and pack share: decoding images, working through many of them, and holding a set's folder."""

import contextlib
import functools
import hashlib
import io
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import filelock
from PIL import Image

from reidgen.errors import DataError
from reidgen.runs import Progress

MANY = 4000  # images from which a pool of processes pays; threads never do, small images keep the GIL busy
WINDOW = 1024  # images in work at a time: bounds memory
P = ParamSpec("P")
R = TypeVar("R")


def decode(path: Path) -> tuple[Image.Image, str]:
    """Return the image as 8-bit RGB, fully decoded, and the first 16 hex digits of its file's SHA-256.

    Transparency is dropped; of an animation the first frame counts. Raises DataError saying what is wrong.
    """
    try:
        content = path.read_bytes()
        if not content:
            raise DataError("is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata harms no pixel
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content))
            if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip them to white
                raise DataError(f"has pixels of mode {image.mode}, save it as 8-bit RGB")
            if image.mode == "P":  # by RGBA, because of its transparency
                image = image.convert("RGBA")
            return image.convert("RGB"), hashlib.sha256(content).hexdigest()[:16]
    except FileNotFoundError as error:
        raise DataError("has vanished") from error
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise anything from OSError to SyntaxError
        if isinstance(error, OSError) and error.strerror:  # the file system's
            raise DataError(error.strerror[0].lower() + error.strerror[1:]) from error
        raise DataError(str(error).split(" <_io")[0].strip() or type(error).__name__) from error


class _Pool(ProcessPoolExecutor):
    """A pool whose processes, started by submit, inherit a blocked SIGINT: none meets it while it still imports."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        if not hasattr(signal, "pthread_sigmask"):
            return super().submit(fn, *args, **kwargs)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def workers(processes: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes, on all cores by default, that leave Ctrl-C to the parent and end with the block."""
    spawn = multiprocessing.get_context("spawn")  # the same on all systems, and safe beside the threads of torch
    pool = _Pool(processes, mp_context=spawn, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def windows(
    work: Callable[[str], R], paths: list[str], *, what: str, report: Progress | None = None
) -> Iterator[list[R]]:
    """Yield work(path) for all paths in order, WINDOW at a time; MANY paths are shared among processes.

    A script that calls this needs the guard `if __name__ == "__main__":`, as always with processes.
    """
    with contextlib.ExitStack() as stack:
        run: Callable[[list[str]], Iterable[R]] = functools.partial(map, work)
        if len(paths) >= MANY:
            run = functools.partial(stack.enter_context(workers()).map, work, chunksize=32)
        for start in range(0, len(paths), WINDOW):
            yield list(run(paths[start : start + WINDOW]))
            if report:
                report(what, min(start + WINDOW, len(paths)), len(paths))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, waiting for another process; an OSError inside becomes a DataError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder / ".lock"):
            yield
    except OSError as error:
        raise DataError(f"cannot use {error.filename or folder}: {error.strerror or error}") from error
