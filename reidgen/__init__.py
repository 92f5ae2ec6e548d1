"""The benchmark for person re-identification on cameras nobody trained on.

    import reidgen
    run = reidgen.train("snr", "synth")
    rows = reidgen.evaluate(run, "synth-night")

Nothing is imported until it is used: `import reidgen` costs nothing.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["bench", "evaluate", "load", "prepare", "table", "train"]

if TYPE_CHECKING:
    from reidgen.api import bench, evaluate, load, prepare, table, train


def __getattr__(name: str) -> Any:
    if name in __all__:
        from reidgen import api

        return getattr(api, name)
    raise AttributeError(f"module 'reidgen' has no attribute {name!r}")
