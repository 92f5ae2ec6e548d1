"""The report's sections: plots of the cells, of what the run folders hold, and the pictures of `reidgen show`. No torch.

A section without data has no panels and one line that says which command fills it.
"""

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.errors import RunError
from reidgen.report.plots import Style, bars, curves, heat_map
from reidgen.runs import Run
from reidgen.tables.looks import mark, marks_legend
from reidgen.tables.looks import title as title_of
from reidgen.tables.paper import MEAN

RANKS = 20  # of the CMC curves
PICTURES = {  # what `reidgen show` makes, and its heading
    "ranks": "Ranked lists",
    "maps": "Activation maps",
    "tsne": "Features by t-SNE",
    "gates": "Channel gates",
    "distances": "Distances of pairs",
}
MANY = 36  # bar charts of one section
BUDGET = 3_500_000  # characters of embedded pictures without people; the whole file stays below 5 MB
FEWER = f" Of more than {MANY} charts, only the means of unseen are drawn; the tables hold the rest."
LOSSES = {"loss": "loss", "cross_entropy": "cross entropy", "triplet": "triplet loss", "snr": "SNR loss"}
CELL = ["source", "method", "target"]
Behind = tuple[dict[str, Any], Path, list[str]]  # a run's first row, its folder (which may be gone), its targets


@dataclass(frozen=True)
class Panel:
    """One picture with its heading. drawing: an <svg> or <img> with its alternative text, safe to put into a page."""

    title: str
    drawing: str
    caption: str = ""
    command: str = ""  # that made it


@dataclass(frozen=True)
class Section:
    """One part of the page. Without panels it is left out, and `missing` says how to fill it."""

    name: str
    title: str
    text: str
    missing: str
    panels: list[Panel] = field(default_factory=list)
    legend: bool = False


def make_sections(
    cells: pd.DataFrame, runs: list[Behind], results: Path, style: dict[str, Style], *, images: bool
) -> list[Section]:
    """Return all sections, those without data too.

    cells: Table.cells. runs: those behind them. style: title of a method -> Style.
    Raises RunError when a file of a run is damaged.
    """
    return [
        _heat_maps(cells),
        _scores(cells, style),
        _differences(cells, style),
        _cmc(runs, style),
        _training(runs, style),
        *_pictures(results, images=images),
    ]


def score(cell: "pd.Series[Any]") -> str:
    """Return a cell's mAP in words, with its spread over seeds."""
    std = cell["mAP_std_seeds"]
    return f"{cell['mAP']:.1f} " + ("(one seed)" if pd.isna(std) else f"(± {std:.1f} over {cell['seeds']} seeds)")


def _heat_maps(cells: pd.DataFrame) -> Section:
    """Return source x target for each method, or with one source method x target."""
    by, rows = ("method", "source") if cells["source"].nunique() > 1 else ("source", "method")
    limits = float(cells["mAP"].min()), float(cells["mAP"].max())
    panels = []
    for name, part in cells.groupby(by, sort=False):
        columns = headings(cells["target"])
        values = part.pivot(index=rows, columns="target", values="mAP").reindex(index=part[rows].unique(), columns=list(columns))  # fmt: skip
        seen = part.pivot(index=rows, columns="target", values="seen").reindex_like(values) == 1
        alt = f"Heat map of mAP in percent, {title_of(str(name))}: " + "; ".join(
            f"{title_of(str(row))} " + ", ".join(f"{target} {value:.1f}" for target, value in line.dropna().items())
            for row, line in values.iterrows()
        )
        values = values.rename(index=title_of, columns=columns)
        panels.append(Panel(title_of(str(name)), heat_map(values, framed=seen, limits=limits, alt=alt)))
    text = "mAP in %, one colour scale for all; framed: the source's own cameras (seen)."
    return Section("heat", "Where it works", text, "", panels)


def _scores(cells: pd.DataFrame, style: dict[str, Style]) -> Section:
    """Return for each source and target the methods as bars, with the standard deviation over seeds."""
    panels = []
    for source, target, part in _places(cells):
        std = part["mAP_std_seeds"]
        values = pd.DataFrame(
            {"value": part["mAP"], "low": part["mAP"] - std, "high": part["mAP"] + std, "text": part["mAP"].map("{:.1f}".format)}
        )  # fmt: skip
        values.index = pd.Index(part["method"].map(title_of))
        words = (f"{title_of(cell['method'])} {score(cell)}" for _, cell in part.iterrows())
        alt = f"Bars: mAP in percent, trained on {source}, measured on {target}: {', '.join(words)}"
        panels.append(Panel(f"{source} → {target}", bars(values, style=style, label="mAP in %", alt=alt)))
    text = "mAP in %; the whisker is one standard deviation over seeds to each side, none where there is one seed."
    text += FEWER * (len(panels) < len(cells.drop_duplicates(["source", "target"])))
    return Section("scores", "Scores", text, "", panels)


def _differences(cells: pd.DataFrame, style: dict[str, Style]) -> Section:
    """Return for each source and target the difference of every method from Baseline, with its 95 % interval."""
    panels, compared = [], cells[cells["gain_mAP_p"].notna()]
    for source, target, part in _places(compared):
        part = part.set_index(part["method"].map(title_of))
        values = part[["gain_mAP", "gain_mAP_low", "gain_mAP_high"]].set_axis(["value", "low", "high"], axis=1)
        marks = [f" {mark(cell)}".rstrip() for cell in part.to_dict("records")]
        values["text"] = values["value"].map("{:+.1f}".format).str.replace("-", "−") + marks
        words = (f"{name} {row['text']} ({row['low']:+.1f} to {row['high']:+.1f})" for name, row in values.iterrows())
        alt = f"Bars: mAP above Baseline in points, trained on {source}, measured on {target}: {', '.join(words)}"
        panels.append(
            Panel(f"{source} → {target}", bars(values, style=style, label="mAP above Baseline, points", alt=alt))
        )
    text = (
        "; ".join(
            ["mAP above Baseline in points", "the whisker is the 95 % interval", marks_legend(compared, "Baseline")]
        )
        + "."
    )
    text += FEWER * (len(panels) < len(compared.drop_duplicates(["source", "target"])))
    missing = "Differences from Baseline: there are no per-query numbers to test them with; run: reidgen bench"
    return Section("differences", "Differences from Baseline", text, missing * (not panels), panels)


def _cmc(runs: list[Behind], style: dict[str, Style]) -> Section:
    """Return for each source and target the CMC curves: the share of queries with a match among the nearest k."""
    parts = [found for run in runs if not (found := _run_cmc(*run)).empty]
    missing = "CMC curves: there are no per-query numbers (per_query.csv.gz in the run folders); run: reidgen bench"
    panels = []
    if parts:
        mean = pd.concat(parts).groupby(CELL, sort=False).mean()
        columns = headings(mean.index.get_level_values("target"))
        for (source, target), part in mean.groupby(["source", "target"], sort=False):
            lines = {
                title_of(str(method)): 100 * line for method, line in part.droplevel(["source", "target"]).iterrows()
            }
            words = ", ".join(
                f"{name} {line[1]:.1f} at rank 1, {line[10]:.1f} at rank 10" for name, line in lines.items()
            )
            alt = f"CMC curves in percent, trained on {source}, measured on {target}: {words}"
            drawn = curves(lines, style=style, labels=("rank", "queries matched in %"), alt=alt, top=100)
            panels.append(Panel(f"{source} → {columns[str(target)]}", drawn))
    text = f"The share of queries that find their person among the nearest 1 to {RANKS} images; mean over splits, then seeds."
    return Section("cmc", "CMC curves", text, missing * (not panels), panels, legend=True)


def _run_cmc(run: dict[str, Any], folder: Path, targets: list[str]) -> pd.DataFrame:
    """Return the CMC of one run, one row per target and one column per rank; none where the file is not there."""
    if not Run(folder).per_query.is_file():
        return pd.DataFrame()
    found = Run(folder).queries(["target", "split", "first_match"])
    found = found[(found["first_match"] > 0) & found["target"].isin(targets)]
    within = {rank: found["first_match"] <= rank for rank in range(1, RANKS + 1)}
    by = [found["target"].astype(str), found["split"]]
    mean = pd.DataFrame(within, index=found.index).groupby(by).mean().groupby(level=0).mean()
    return mean.rename_axis("target").reset_index().assign(source=run["source"], method=run["method"])


def _training(runs: list[Behind], style: dict[str, Style]) -> Section:
    """Return for each source and loss the training curves, mean over seeds."""
    parts, left = [], []
    for run, folder, _ in runs:
        if (folder / "log.csv").is_file():
            try:
                parts.append(_log(folder).assign(source=run["source"], method=run["method"]))
            except RunError as error:
                left.append(f"{error}.")
    missing = "Training curves: there are no logs (log.csv in the run folders); run: reidgen bench"
    panels = []
    if parts:
        mean = pd.concat(parts).groupby(["source", "method", "epoch"], sort=False)[list(LOSSES)].mean()
        for source, part in mean.groupby(level="source", sort=False):
            for loss, name in LOSSES.items():
                every = {title_of(str(m)): line.droplevel([0, 1])[loss] for m, line in part.groupby(level="method", sort=False)}  # fmt: skip
                if lines := {title: line for title, line in every.items() if line.any()}:
                    ends = ", ".join(
                        f"{title} {line.iloc[0]:.2f} to {line.iloc[-1]:.2f}" for title, line in lines.items()
                    )
                    alt = f"Training curves, {name} on {source}, first to last epoch: {ends}"
                    drawn = curves(lines, style=style, labels=("epoch", name), alt=alt)
                    panels.append(Panel(f"{source}: {name}", drawn))
    if left and not parts:
        missing = f"Training curves: {' '.join(left)}"
    text = "Mean of each epoch, then over seeds; a method without the SNR loss has no line there."
    text = " ".join((text, *left))
    return Section("training", "Training", text, missing * (not panels), panels, legend=True)


def _log(folder: Path) -> pd.DataFrame:
    """Return a run's losses by epoch. Raises RunError where its log is damaged: no reason to leave out the rest."""
    return Run(folder).training_log().reindex(columns=["epoch", *LOSSES], fill_value=0.0)


def _pictures(results: Path, *, images: bool) -> Iterator[Section]:
    """Yield a section for each kind of picture that `reidgen show` makes."""
    left = BUDGET
    files = sorted((results / "runs").glob("*/*/show/*.json"))
    for kind, title in PICTURES.items():
        panels, people, heavy = [], 0, 0
        for file in files:
            if file.name.split("-", 1)[0] != kind:
                continue
            facts = _picture_facts(file)
            if facts["images"] and not images:
                people += 1
                continue
            address = _address([file.parent / Path(name).name for name in facts["files"]])
            if not facts["images"]:
                if len(address) > left:
                    heavy += 1
                    continue
                left -= len(address)
            drawing = f'<img alt="{escape(facts["alt"])}" src="{address}">'
            panels.append(Panel(facts["title"], drawing, facts["caption"], f"{facts['command']}  # {facts['date']}"))
        missing = ""
        if people:
            missing = f"{title}: {people} picture{'s' * (people > 1)} with images of the data set left out; where its licence lets you pass them on, run: reidgen report --images"  # fmt: skip
        elif heavy:
            missing = f"{title}: {heavy} left out to keep this file small; they lie in {results / 'runs'}/*/*/show"
        elif not panels:
            missing = f"{title}: not drawn yet; run: reidgen show {kind} RUN --target NAME"
        yield Section(kind, title, "", missing, panels)


def _picture_facts(file: Path) -> dict[str, Any]:
    """Return what is known about a picture. Raises RunError where the file does not say it."""
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        suffixes = {Path(name).suffix for name in facts["files"]}
        if facts["alt"] and facts["title"] and suffixes and suffixes <= {".svg", ".png"}:
            return {"caption": "", "command": "", "date": "", **facts, "images": facts["images"] is not False}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is damaged; remove it and repeat its reidgen show command") from error
    raise RunError(f"{file} names no title, alternative text or file; remove it and repeat its reidgen show command")


def _address(files: list[Path]) -> str:
    """Return a picture as a data address: its SVG, where there is one, as that is sharp at every size."""
    file = min(files, key=lambda file: file.suffix != ".svg")
    try:
        content = base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise RunError(f"{file} is missing; repeat its reidgen show command") from error
    return f"data:image/{'svg+xml' if file.suffix == '.svg' else 'png'};base64,{content}"


def _places(cells: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    """Return source, heading of the target and its cells: first the mean of unseen, then target by target.

    Where these would be more than MANY, the means alone: nobody reads a hundred charts, and the tables hold them all.
    """
    places = []
    for source, block in cells.groupby("source", sort=False):
        columns = headings(block["target"])
        for target in sorted(columns, key=lambda name: name != MEAN):
            places.append((str(source), columns[target], block[block["target"] == target]))
    means = [place for place in places if place[1] == MEAN]
    return means if means and len(places) > MANY else places


def headings(targets: Iterable[str]) -> dict[str, str]:
    """Return target -> heading, in order and MEAN last; "synth-" goes where every target has it."""
    names = sorted(dict.fromkeys(targets), key=lambda name: name == MEAN)
    short = all(name.startswith("synth-") or name == MEAN for name in names)
    return {name: name.removeprefix("synth-") if short else name for name in names}
