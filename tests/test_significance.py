"""Differences with intervals: from frames to numbers, against a bootstrap by a plain loop."""

import numpy as np
import pandas as pd
import pytest
from tabled import frame, row

from reidgen.tables.average import means_of
from reidgen.tables.identities import run_names
from reidgen.tables.paper import MEAN
from reidgen.tables.significance import differences as differences_over

METHODS = {"baseline": 0.3, "in": 0.3, "snr": 0.5}


def differences(rows: pd.DataFrame, identities: pd.DataFrame, *, against: str) -> pd.DataFrame:
    over = {key: mean.targets for key, mean in means_of(rows, asked=False).items()}
    return differences_over(rows, identities, against=against, means=over)


def simulate(
    *, targets: dict[str, int], seeds: int = 1, methods: dict[str, float] | None = None, people: int = 40
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return result rows and their identity sums: 3 queries per identity, half of the identities in each split."""
    rng, rows, parts = np.random.default_rng(0), [], []
    for target, splits in targets.items():
        for method, mean in (methods or METHODS).items():
            for seed in range(seeds):
                for split in range(splits):
                    pids = np.flatnonzero(np.random.default_rng(split).permutation(people) < people / min(splits, 2))
                    ap = np.clip(mean + 0.02 * rng.normal() + 0.1 * rng.normal(size=len(pids)), 0, 1)
                    hits = rng.binomial(3, ap)
                    rows.append(row(method, target, seed=seed, split=split, mAP=ap.mean(), rank1=hits.mean() / 3))
                    part = {"pid": pids, "queries": 3, "mAP": 3 * ap, "rank1": hits}
                    place = {"data": "aaaa1111", "target": target, "test": "plain", "split": split}
                    parts.append(pd.DataFrame({**place, **part}))
    made = frame(*rows)
    named = [part.assign(run=run) for run, part in zip(run_names(made), parts, strict=True)]
    return made, pd.concat(named, ignore_index=True)


def one(found: pd.DataFrame, method: str, target: str) -> pd.Series:
    return found[(found["method"] == method) & (found["target"] == target)].iloc[0]


def test_a_real_difference_is_found_and_none_is_not() -> None:
    found = differences(*simulate(targets={"duke": 1, "viper": 4}, seeds=3), against="baseline")
    assert set(found["method"]) == {"in", "snr"} and set(found["target"]) == {"duke", "viper", MEAN}
    assert (found["gain_seeds"] == 3).all()
    for target in ("duke", "viper", MEAN):
        assert one(found, "snr", target)["gain_mAP_p"] < 0.01 and one(found, "snr", target)["gain_mAP_low"] > 10
        assert one(found, "in", target)["gain_mAP_p"] > 0.05
    for part in ("low", "high"):
        assert found[f"gain_mAP_{part}"].notna().all() and found[f"gain_rank1_{part}"].notna().all()


def test_one_seed_with_splits_against_a_plain_loop() -> None:
    """The deviation of the difference over 4 splits when identities, each in all its splits, are drawn again."""
    rows, identities = simulate(targets={"viper": 4})
    found = one(differences(rows, identities, against="baseline"), "snr", "viper")
    identities = identities.assign(method=identities["run"].str.extract("/([a-z]+)-")[0], ap=identities["mAP"] / 3)
    wide = identities.pivot(index="pid", columns=["method", "split"], values="ap")
    rng, drawn = np.random.default_rng(1), []
    snr, baseline = wide["snr"].to_numpy(), wide["baseline"].to_numpy()
    for _ in range(2000):
        sample = rng.integers(len(wide), size=len(wide))
        drawn.append(100 * (np.nanmean(snr[sample], axis=0).mean() - np.nanmean(baseline[sample], axis=0).mean()))
    assert found["gain_mAP"] == pytest.approx(
        100 * (rows.groupby("method")["mAP"].mean().loc[["snr", "baseline"]] @ [1, -1])
    )
    half = (found["gain_mAP_high"] - found["gain_mAP_low"]) / 2
    assert half == pytest.approx(2.02 * np.std(drawn) * (40 / 39) ** 0.5, rel=0.06)  # Student, 39 degrees of freedom


def test_only_common_seeds_count() -> None:
    rows, identities = simulate(targets={"duke": 1}, seeds=3)
    fewer = rows[(rows["method"] != "snr") | (rows["seed"] > 0)]
    found = one(differences(fewer, identities, against="baseline"), "snr", "duke")
    mean = 100 * rows[rows["seed"] > 0].groupby("method")["mAP"].mean()
    assert found["gain_seeds"] == 2 and found["gain_mAP"] == pytest.approx(mean["snr"] - mean["baseline"])


def test_without_identities_there_is_a_difference_but_no_interval() -> None:
    rows, identities = simulate(targets={"duke": 1, "viper": 2}, seeds=2)
    lost = identities[(identities["target"] != "duke") | ~identities["run"].str.contains("snr-tiny-s1")]
    found = differences(rows, lost, against="baseline")
    gone = found["gain_mAP_p"].isna()
    assert set(zip(found["method"][gone], found["target"][gone], strict=True)) == {("snr", "duke"), ("snr", MEAN)}
    assert found["gain_mAP"].notna().all()
    assert differences(rows, pd.DataFrame(), against="baseline")["gain_rank1_low"].isna().all()


@pytest.mark.parametrize("change", [{"mAP": 1.2}, {"rank1": 0}])
def test_sums_that_do_not_give_the_rows_score_do_not_count(change: dict[str, float]) -> None:
    rows, identities = simulate(targets={"duke": 1})
    other = identities["run"].str.contains("snr")
    found = differences(rows, identities.mask(other, identities.assign(**change)), against="baseline")
    assert np.isnan(one(found, "snr", "duke")["gain_mAP_p"]) and one(found, "in", "duke")["gain_mAP_p"] > 0


def test_nothing_to_compare_with() -> None:
    rows, identities = simulate(targets={"duke": 1}, methods={"snr": 0.3})
    assert differences(rows, identities, against="baseline").empty


def test_the_same_numbers_twice() -> None:
    rows, identities = simulate(targets={"duke": 1, "grid": 2}, seeds=2)
    shuffled = rows.sample(frac=1, random_state=0), identities.sample(frac=1, random_state=0)
    found = [differences(*both, against="baseline") for both in ((rows, identities), shuffled)]
    keys = ["source", "method", "target"]
    pd.testing.assert_frame_equal(*(one.sort_values(keys, ignore_index=True) for one in found), rtol=1e-9)
