"""What is measured of a run on crops without names: the words, units and order of the numbers. No torch.

Pure data: `judge` measures, `commands.judge` prints, `scripts/calibrate_judge.py` asks whether the order is right.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

TOP = 10  # crops of a ranked list that are compared


class Measure(NamedTuple):
    """One number of a run. head: of its column; unit: %, grey levels or deviations; better: 1 where more may be better,
    -1 where less may be; says: what it is; not_said: what it is not."""

    name: str
    head: str
    unit: str
    better: int
    says: str
    not_said: str

    @property
    def sentence(self) -> str:
        return f"{self.head}: {self.says} ({self.unit}); {self.not_said}"

    @property
    def short_unit(self) -> str:
        return {"deviations": "dev.", "grey levels": "grey"}.get(self.unit, self.unit)

    @property
    def digits(self) -> int:
        return 2 if self.unit == "deviations" else 0


MEASURES = (
    Measure(
        "agreement_1",
        "agree",
        "%",
        1,
        "how often another run finds the same nearest crop of another camera",
        "runs that err alike agree as well, and it is another number beside other runs",
    ),
    Measure(
        "agreement_10",
        f"agree {TOP}",
        "%",
        1,
        f"how much of the {TOP} nearest crops of other cameras another run finds too",
        "it does not say which of two runs is right where they differ",
    ),
    Measure(
        "seeds_1",
        "seeds",
        "%",
        1,
        "the same as agree, among runs of one training with other seeds",
        "it says how much is the seed's luck, not how good any seed is",
    ),
    Measure(
        "stability_1",
        "stable",
        "%",
        1,
        "how often the nearest crop stays when the query's light, colour or sharpness changes a little",
        "a run that always gives the same wrong crop is stable too",
    ),
    Measure(
        "stability_10",
        f"stable {TOP}",
        "%",
        1,
        f"how much of the {TOP} nearest crops stays under the same changes",
        "it does not say that your cameras differ in these ways",
    ),
    Measure(
        "mutual_1",
        "mutual",
        "%",
        1,
        "how often a query is, in its own camera, the nearest to its nearest crop",
        "crops of one track compete for it, and people whom no other camera saw lower it for every run",
    ),
    Measure(
        "camera_share",
        "camera",
        "%",
        -1,
        "which share of the embeddings' variance lies between the cameras",
        "cameras that see different people differ as well",
    ),
    Measure(
        "feature_distance",
        "features",
        "deviations",
        -1,
        "how far the cameras' embeddings lie from those of the source, 1 being as far as two source images differ",
        "it does not say whether people are told apart there",
    ),
    Measure(
        "pixel_distance",
        "pixels",
        "grey levels",
        -1,
        "how far the channels' mean and deviation of the cameras lie from the source's",
        "it is the same for all runs of a source, so that it never orders those",
    ),
)

# Stability orders runs, as it is the same number whatever stands beside a run; agreement needs many beside it.
ORDER = next(measure for measure in MEASURES if measure.name == "stability_10")
# What scripts/calibrate_judge.py found; the numbers are in results/judge-cpu-2026-11-26.
VERDICT = (
    "a hint: where it was tried, the first of three runs was truly the best in 61 to 74 % of cases (chance: 33), of "
    "runs that were all well trained in 39 to 80 %; only labelled pairs can tell"
)


def ordered(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return the rows of runs, the best by ORDER first."""
    return rows.sort_values(ORDER.name, ascending=ORDER.better < 0, kind="stable", ignore_index=True)
