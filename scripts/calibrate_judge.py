"""Does an order of models that needs no labels agree with the true one? And does the interval of labelled pairs hold?

    python scripts/calibrate_judge.py FOLDER --runs RESULTS --data DATA --target pku --target synth-night

FOLDER gets measures.csv (a row per target and run: every measure of `reidgen judge`, and the true mAP and Rank-1 of
`reidgen evaluate`), tau.csv (Kendall's tau-b of each measure with the truth, by target and over all, with a bootstrap
interval over the models), coverage.csv (30 labelled pairs drawn many times with the true labels: how often the
interval holds the truth) and few.csv (of every three models: how often the best by a measure is the truly
best, where chance finds a third, and the mean tau). Targets of a run's own family are left out for it.
"""

# T targets, M models, B draws

import argparse
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reidgen.judging.measures import MEASURES

DRAWS = 2000
COUNT = 30
TRUTHS = ("mAP", "rank1")


def tau(one_M: NDArray[np.float64], other_M: NDArray[np.float64], times_BM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Kendall's tau-b of two scores on samples that hold each model so many times, float64 (B,).

    With times of 1 it is tau-b itself; NaN where either score is the same for all.
    """
    sign_MM, sign_of_other_MM = (np.sign(some[:, None] - some[None]) for some in (one_M, other_M))

    def weighed(matrix_MM: NDArray[np.float64]) -> NDArray[np.float64]:
        total: NDArray[np.float64] = ((times_BM @ matrix_MM) * times_BM).sum(1)
        return total

    below = np.sqrt(weighed(sign_MM**2) * weighed(sign_of_other_MM**2))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: NDArray[np.float64] = weighed(sign_MM * sign_of_other_MM) / below
    return found


def resampled(models: int, seed: int = 0) -> NDArray[np.float64]:
    """Return how often each model stands in each of DRAWS bootstrap samples, float64 (DRAWS, M)."""
    drawn = np.random.default_rng(seed).integers(models, size=(DRAWS, models))
    return np.stack([np.bincount(row, minlength=models) for row in drawn]).astype(np.float64)


def taus(rows: pd.DataFrame, group: str) -> pd.DataFrame:
    """Return tau of each measure with each truth on each target, and the mean over the targets ("all"), with intervals.

    rows: as measures.csv. The bootstrap draws models, the same for all targets; it says nothing of other targets.
    """
    models, made = sorted(set(rows["run"])), []
    times_BM = resampled(len(models))
    ones = np.ones((1, len(models)))
    for measure in MEASURES:
        for truth in TRUTHS:
            parts = []
            for target, part in rows.groupby("target", sort=True):
                here = part.set_index("run").reindex(models)
                good = (here[measure.name].notna() & here[truth].notna()).to_numpy()
                score_M = measure.better * here[measure.name].fillna(0).to_numpy(dtype=float)
                true_M = here[truth].fillna(0).to_numpy(dtype=float)
                drawn_B = tau(score_M, true_M, times_BM * good)
                value = tau(score_M, true_M, ones * good)[0]
                parts.append((value, drawn_B))
                made.append((target, measure.name, truth, int(good.sum()), value, *_ends(drawn_B)))
            mean = np.mean([value for value, _ in parts])
            mean_B = np.mean([drawn_B for _, drawn_B in parts], axis=0)
            made.append(("all", measure.name, truth, len(models), mean, *_ends(mean_B)))
    columns = ["target", "measure", "truth", "models", "tau", "low", "high"]
    found = pd.DataFrame(made, columns=columns)
    return pd.concat([found, chosen_elsewhere(found)], ignore_index=True).assign(group=group)


def chosen_elsewhere(found: pd.DataFrame) -> pd.DataFrame:
    """Return for each target the row of the measure with the highest mean tau on the other targets: what whoever
    chooses a measure on these sets may expect of it on a further one."""
    rows = []
    for _, part in found[found["target"] != "all"].groupby("truth"):
        part = part[part["models"] == part.groupby("target")["models"].transform("max")]  # no tau of a few seeds
        wide = part.pivot(index="target", columns="measure", values="tau").dropna(axis=1)
        for target in wide.index if len(wide) > 1 else []:
            best = wide.drop(index=target).mean().idxmax()
            row = part[(part["target"] == target) & (part["measure"] == best)].iloc[0]
            rows.append({**row.to_dict(), "measure": f"chosen elsewhere: {best}"})
    return pd.DataFrame(rows, columns=found.columns)


def _ends(drawn_B: NDArray[np.float64]) -> tuple[float, float]:
    held = drawn_B[np.isfinite(drawn_B)]
    return (float(np.quantile(held, 0.025)), float(np.quantile(held, 0.975))) if len(held) else (np.nan, np.nan)


def simulate(hit_N: NDArray[np.bool_], unsure: float, draws: int = DRAWS, seed: int = 0) -> dict[str, float]:
    """Draw COUNT labelled pairs of N many times and return how the estimate and its interval do.

    hit_N: of every crop, whether its nearest crop of another camera shows the same person. unsure: the share of pairs,
    whatever they show, that the person cannot tell. coverage: how often the interval holds the true share; bias: of the
    estimate, with unsure pairs counted as another person; width: of the interval.
    """
    from reidgen.judging.labels import interval

    dice, truth = np.random.default_rng(seed), hit_N.mean()
    held, shares, widths = [], [], []
    for _ in range(draws):
        told = hit_N[dice.choice(len(hit_N), COUNT, replace=False)]
        vague = dice.random(COUNT) < unsure
        same, maybe = int((told & ~vague).sum()), int(vague.sum())
        low, high = interval(same, COUNT)[0], interval(same + maybe, COUNT)[1]
        held.append(low <= truth <= high)
        shares.append(same / COUNT)
        widths.append(high - low)
    return {"truth": truth, "coverage": np.mean(held), "bias": np.mean(shares) - truth, "width": np.mean(widths)}


def groups(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows of all models, and of those that were trained longest, where these are others and enough."""
    longest = rows["epochs"].max()
    long = rows[rows["epochs"] == longest]
    some = [(f"trained {longest} epochs", long)] if 3 < long["run"].nunique() < rows["run"].nunique() else []
    return [("every model", rows), *some]


def in_few(agreements: pd.DataFrame, rows: pd.DataFrame, size: int = 3) -> list[dict[str, Any]]:
    """Return how the orders of every `size` of the runs in `agreements` do on one target, by agreement among these
    alone and by stability; rows: as measures.csv, of the target."""
    names = sorted(set(agreements["run"]) & set(rows["run"]))
    beside = agreements.pivot(index="run", columns="other", values="agreement_10").loc[names, names].to_numpy()
    here = rows.set_index("run").loc[names]
    true_M, stable_M = here["mAP"].to_numpy(), here["stability_10"].to_numpy()
    found: dict[str, list[tuple[bool, float]]] = {"agreement_10": [], "stability_10": []}
    for some in map(list, itertools.combinations(range(len(names)), size)):
        scores = {"agreement_10": np.nanmean(beside[np.ix_(some, some)], axis=1), "stability_10": stable_M[some]}
        for measure, score in scores.items():
            right = score.argmax() == true_M[some].argmax()
            found[measure].append((bool(right), float(tau(score, true_M[some], np.ones((1, size)))[0])))
    return [
        {"measure": measure, "size": size, "groups": len(told), "best_is_best": np.mean([one for one, _ in told]),
         "tau": np.nanmean([one for _, one in told])}
        for measure, told in found.items()
    ]  # fmt: skip


def coverage(
    models: list[Any], names: list[str], data: Path, measures: pd.DataFrame, say: Callable[[str], None]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return `simulate` of each target and run, with every crop as a query, and with a tenth of pairs unsure; and
    `in_few` of each target."""
    from reidgen.data.manifest import load_index, load_prepared
    from reidgen.judging.crops import of_target
    from reidgen.judging.judge import judge

    rows, few = [], []
    for name in names:
        crops = of_target(name, data)
        index = load_index(load_prepared(name, data))
        pid = index[index["part"] != "train"].drop_duplicates("path").set_index("path")["pid"]
        found = judge(models, crops, data=data, queries=len(crops), measures=False, report=lambda *_: None)
        pid_N = pid.reindex(found.paths).to_numpy()
        for model in models:
            first = found.first[model.info["digest"]]
            hit_N = (first >= 0) & (pid_N[first] == pid_N[found.query_Q])
            for unsure in (0.0, 0.1):
                told = {"target": name, "run": model.info["name"], "crops": len(hit_N), "unsure": unsure}
                rows.append(told | simulate(hit_N, unsure))
        few += [
            {"target": name, "group": group, **one}
            for group, part in groups(measures[measures["target"] == name])
            for one in in_few(found.agreements, part)
        ]
        say(f"coverage: {name}")
    return pd.DataFrame(rows), pd.DataFrame(few)


def measured(runs: list[Any], name: str, data: Path, queries: int) -> pd.DataFrame:
    """Return the measures of all runs on a target, with the true mAP and Rank-1 of each (percent)."""
    from reidgen.data.manifest import load_prepared
    from reidgen.evaluation import evaluate
    from reidgen.extractor import Extractor
    from reidgen.judging.crops import of_target
    from reidgen.judging.judge import judge

    quiet = lambda *_: None  # noqa: E731
    family = load_prepared(name, data).dataset.family or name
    unseen = [run for run in runs if family not in {one["family"] for one in run.facts()["sources"]}]
    truths = []
    for run in unseen:
        if not run.evaluated(name, load_prepared(name, data).digest):
            evaluate(run, name, data=data, device="cpu", report=quiet)
        rows = run.own_rows()
        mine = rows[(rows["target"] == name) & (rows["test"] == "plain")]
        truths.append({truth: 100 * mine[truth].mean() for truth in TRUTHS} | {"epochs": run.recipe().epochs})
    models = [Extractor(run, device="cpu") for run in unseen]
    found = judge(models, of_target(name, data), data=data, queries=queries, report=quiet).rows
    return pd.concat([found.drop(columns="digest"), pd.DataFrame(truths)], axis=1).assign(target=name)


def main() -> None:
    """Measure, compare and write; what is written of a target already is kept."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("folder", type=Path)
    words.add_argument("--runs", type=Path, required=True, help="a results folder with trained runs")
    words.add_argument("--data", type=Path, required=True)
    words.add_argument("--target", action="append", required=True)
    words.add_argument("--queries", type=int, default=200)
    asked = words.parse_args()
    import torch

    from reidgen.extractor import Extractor
    from reidgen.runs import Run

    torch.set_num_threads(1)
    runs = [Run(done.parent) for done in sorted((asked.runs / "runs").glob("*/*/done"))]
    file = asked.folder / "measures.csv"
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.target:
        rows = pd.read_csv(file) if file.is_file() else pd.DataFrame({"target": []})
        if name not in set(rows["target"]):
            fresh = measured(runs, name, asked.data, asked.queries)
            pd.concat([rows, fresh] if len(rows) else [fresh]).to_csv(file, index=False, float_format="%.6g")
        print(f"measured: {name}", flush=True)
    rows = pd.read_csv(file)
    parts = [taus(part, group) for group, part in groups(rows)]
    pd.concat(parts).to_csv(asked.folder / "tau.csv", index=False, float_format="%.3f")
    models = [Extractor(run, device="cpu") for run in runs]
    found, few = coverage(models, asked.target, asked.data, rows, lambda line: print(line, flush=True))
    found.to_csv(asked.folder / "coverage.csv", index=False, float_format="%.4f")
    few.to_csv(asked.folder / "few.csv", index=False, float_format="%.4f")


if __name__ == "__main__":
    main()
