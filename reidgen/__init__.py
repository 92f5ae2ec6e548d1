"""The benchmark for person re-identification on cameras nobody trained on.

    import reidgen
    run = reidgen.train("snr", "synth")
    rows = reidgen.evaluate(run, "synth-night")

Nothing is imported until it is used: `import reidgen` costs nothing.
"""

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["bench", "embed", "evaluate", "judge", "load", "load_model", "prepare", "search", "table", "train"]

# Before torch is loaded, which reads them once. Threads that wait without spinning: on two cores shared with other work
# a training step took 0.5 s, not 1.9 s. What Apple's GPU cannot do runs on the CPU.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

if TYPE_CHECKING:
    from reidgen.api import bench, embed, evaluate, judge, load, load_model, prepare, search, table, train


def __getattr__(name: str) -> Any:
    if name in __all__:
        from reidgen import api

        return getattr(api, name)
    raise AttributeError(f"module 'reidgen' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
