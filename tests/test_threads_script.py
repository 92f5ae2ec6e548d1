"""scripts/measure_threads.py: what it makes of rows, by hand."""

import sys
from pathlib import Path

import pandas as pd
import pytest
from tabled import frame, row

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_differences_worked_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 0: 30, 30, 31 with 1, 2, 4 threads; seed 1: 40, 40, 40. Pairs: 0 1 1 0 0 0. Over seeds: 10/√2, 10/√2, 9/√2."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import measure_threads

    scores = {(0, 1): 0.30, (0, 2): 0.30, (0, 4): 0.31, (1, 1): 0.40, (1, 2): 0.40, (1, 4): 0.40}
    rows = pd.concat(
        [frame(row("snr", "duke", seed=seed, mAP=mAP)).assign(given=given) for (seed, given), mAP in scores.items()]
    )
    (duke, mean) = measure_threads.compare(rows)
    assert duke["target"] == "duke" and mean["target"] == "mean of unseen" and duke["seeds"] == 2
    assert duke["largest_between_threads"] == pytest.approx(1) and duke["mean_between_threads"] == pytest.approx(1 / 3)
    assert duke["std_over_seeds"] == pytest.approx((10 + 10 + 9) / 3 / 2**0.5) and not duke["alike"]
    sys.modules.pop("measure_threads")
