"""The report's sections: plots of the cells, of what the run folders hold, and the pictures of `reidgen show`. No
torch.

A section without data has no panels and one line that says which command fills it.
"""

import base64
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from reidgen.errors import RunError
from reidgen.files import read_regular
from reidgen.integrity import passes_check
from reidgen.methods import FIRST
from reidgen.report.plots import Style, bars, curves, heat_map
from reidgen.rows import is_there
from reidgen.runs import Run
from reidgen.tables.choose import GROUP, group_names, trained_on
from reidgen.tables.formats import mark, marks_legend, signed
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
LINES = 8  # methods in a plot of curves, as many as there are colours
BUDGET = 3_500_000  # characters of embedded pictures without people; the whole file stays below 5 MB
FEWER = f" Of more than {MANY} charts, only the means of unseen are drawn; the tables hold the rest."
SELECTED = " Of many methods, Baseline, SNR and those with the highest mean of unseen are drawn."
NAMES = {"cross_entropy": "cross entropy", "triplet": "triplet loss", "snr": "SNR loss"}  # of losses, for people
NO_LOSS = ("epoch", "lr", "images_per_s", "seconds")  # the other columns of a log
# A run's first row with its `title` and `group`, its folder (which may be gone), its targets.
Behind = tuple[dict[str, Any], Path, list[str]]


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
    cells: pd.DataFrame, runs: list[Behind], style: dict[str, Style], *, curves_of: Collection[str]
) -> list[Section]:
    """Return the sections of plots, those without data too.

    cells: Table.cells. runs: those behind them. style: title of a method -> Style. curves_of: the titles of the methods
    that have lines in plots of curves.
    Raises RunError when a file of a run is damaged.
    """
    return [
        _heat_maps(cells),
        _scores(cells, style),
        _differences(cells, style),
        *_curves(runs, style, curves_of),
    ]


def _curves(runs: list[Behind], style: dict[str, Style], shown: Collection[str]) -> Iterator[Section]:
    """Yield the sections of curves, with lines for the methods of these titles."""
    few = [run for run in runs if run[0]["title"] in shown]
    said = "" if len(few) == len(runs) else SELECTED
    for section in (_cmc(few, style), _training(few, style)):
        yield replace(section, text=section.text + said)


def for_curves(cells: pd.DataFrame) -> list[str]:
    """Return the titles of the methods that have lines in plots of curves, in the table's order: all, or LINES of them.

    Baseline and SNR are among them; the others are those with the highest mAP on the mean of unseen, of any group of
    the first test: plain, where that is one.
    """
    titles = list(cells["title"].drop_duplicates())
    if len(titles) <= LINES:
        return titles
    first = cells[(cells["target"] == MEAN) & (cells["test"] == cells["test"].iloc[0])]
    best = first.groupby("title", sort=False)["mAP"].max()
    best = best.sort_values(ascending=False, kind="stable")
    always = cells["title"][cells["method"].isin([FIRST, "snr"])]
    chosen = list(dict.fromkeys([*always, *best.index, *titles]))[:LINES]
    return [title for title in titles if title in chosen]


def score(cell: "pd.Series[Any]") -> str:
    """Return a cell's mAP in words, with its spread over seeds."""
    std = cell["mAP_std_seeds"]
    return f"{cell['mAP']:.1f} " + ("(one seed)" if pd.isna(std) else f"(± {std:.1f} over {cell['seeds']} seeds)")


def _heat_maps(cells: pd.DataFrame) -> Section:
    """Return group x target for each method, or with one group method x target."""
    names = group_names(cells)
    cells = cells.assign(group=[names[key] for key in cells[GROUP].itertuples(index=False, name=None)])
    by, rows = ("title", "group") if len(names) > 1 else ("group", "title")
    limits = float(cells["mAP"].min()), float(cells["mAP"].max())
    columns = mean_first(cells["target"])
    panels = []
    for name, part in cells.groupby(by, sort=False):
        values = part.pivot(index=rows, columns="target", values="mAP")
        values = values.reindex(index=part[rows].unique(), columns=columns)
        seen = part.pivot(index=rows, columns="target", values="seen").reindex_like(values) == 1
        lines = (
            f"{row} " + ", ".join(f"{target} {value:.1f}" for target, value in line.dropna().items())
            for row, line in values.iterrows()
        )
        alt = f"Heat map of mAP in percent, {name}: {'; '.join(lines)}"
        drawing = heat_map(values, framed=seen, limits=limits, alt=alt)
        panels.append(Panel(str(name), drawing))
    text = "mAP in %, one colour scale for all; framed: the source's own cameras (seen)."
    return Section("heat", "Where it works", text, "", panels)


def _scores(cells: pd.DataFrame, style: dict[str, Style]) -> Section:
    """Return for each group and target the methods as bars, with the standard deviation over seeds."""
    std = cells["mAP_std_seeds"]
    values = cells.assign(value=cells["mAP"], low=cells["mAP"] - std, high=cells["mAP"] + std)
    values = values.assign(text=values["mAP"].map("{:.1f}".format))
    panels = []
    for place in _places(values):
        words = ", ".join(f"{cell['title']} {score(cell)}" for _, cell in place.cells.iterrows())
        alt = f"Bars: mAP in percent, {trained_on(place.group)}, measured on {place.target}: {words}"
        drawing = bars(place.bars, limits=place.limits, style=style, label="mAP in %", alt=alt)
        panels.append(Panel(f"{place.group} → {place.target}", drawing))
    text = "mAP in %, one scale for all of a source; the whisker is one standard deviation over seeds to each side, "
    text += "none where there is one seed."
    if len(panels) < len(cells.drop_duplicates([*GROUP, "target"])):
        text += FEWER
    return Section("scores", "Scores", text, "", panels)


def _differences(cells: pd.DataFrame, style: dict[str, Style]) -> Section:
    """Return for each group and target the difference of every method from Baseline, with its 95 % interval."""
    compared = cells[cells["gain_mAP_p"].notna()]
    values = compared.assign(value=compared["gain_mAP"], low=compared["gain_mAP_low"], high=compared["gain_mAP_high"])
    marks = [mark(cell) for cell in values.to_dict("records")]
    values["text"] = [f"{signed(value)} {sign}".rstrip() for value, sign in zip(values["value"], marks, strict=True)]
    panels = []
    for place in _places(values):
        words = ", ".join(
            f"{name} {row['text']} ({row['low']:+.1f} to {row['high']:+.1f})" for name, row in place.bars.iterrows()
        )
        alt = f"Bars: mAP above Baseline in points, {trained_on(place.group)}, measured on {place.target}: {words}"
        drawing = bars(place.bars, limits=place.limits, style=style, label="mAP above Baseline, points", alt=alt)
        panels.append(Panel(f"{place.group} → {place.target}", drawing))
    what = ["mAP above Baseline in points, one scale for all of a source", "the whisker is the 95 % interval"]
    text = "; ".join([*what, marks_legend(compared, "Baseline")]) + "."
    if len(panels) < len(compared.drop_duplicates([*GROUP, "target"])):
        text += FEWER
    missing = "Differences from Baseline: there are no per-query numbers to test them with; run: reidgen bench"
    return Section("differences", "Differences from Baseline", text, "" if panels else missing, panels)


def _cmc(runs: list[Behind], style: dict[str, Style]) -> Section:
    """Return for each source and target the CMC curves: the share of queries with a match among the nearest k."""
    parts, without = [], []
    for run in runs:
        if (found := _run_cmc(*run)).empty:
            without.append(run[1].name)
        else:
            parts.append(found)
    missing = "CMC curves: there are no per-query numbers (per_query.csv.gz in the run folders); run: reidgen bench"
    panels = []
    if parts:
        mean = pd.concat(parts).groupby(["group", "title", "target"], sort=False).mean()
        for (source, target), part in mean.groupby(["group", "target"], sort=False):
            lines = {str(title): 100 * line for title, line in part.droplevel(["group", "target"]).iterrows()}
            words = ", ".join(
                f"{name} {line[1]:.1f} at rank 1, {line[10]:.1f} at rank 10" for name, line in lines.items()
            )
            alt = f"CMC curves in percent, {trained_on(str(source))}, measured on {target}: {words}"
            drawn = curves(lines, style=style, labels=("rank", "queries matched in %"), alt=alt, top=100)
            panels.append(Panel(f"{source} → {target}", drawn))
    text = f"The share of queries that find their person among the nearest 1 to {RANKS} images; "
    text += "mean over splits, then seeds."
    if without:
        text += f" Without per-query numbers, so left out: {', '.join(without[:3])}"
        text += f" and {len(without) - 3} more runs." if len(without) > 3 else "."
    return Section("cmc", "CMC curves", text, "" if panels else missing, panels, legend=True)


def _run_cmc(run: dict[str, Any], folder: Path, targets: list[str]) -> pd.DataFrame:
    """Return the CMC of one run, one row per target and one column per rank; none where the file is not there."""
    if not is_there(Run(folder).per_query):
        return pd.DataFrame()
    found = Run(folder).queries(["target", "test", "split", "first_match"])
    found = found[(found["first_match"] > 0) & found["target"].isin(targets) & (found["test"] == run["test"])]
    within = {rank: found["first_match"] <= rank for rank in range(1, RANKS + 1)}
    by = [found["target"].astype(str), found["split"]]
    mean = pd.DataFrame(within, index=found.index).groupby(by).mean().groupby(level=0).mean()
    return mean.rename_axis("target").reset_index().assign(group=run["group"], title=run["title"])


def _training(runs: list[Behind], style: dict[str, Style]) -> Section:
    """Return for each source and loss the training curves, mean over seeds."""
    parts, left = [], []
    once = {folder: run for run, folder, _ in reversed(runs)}  # trained once, however often it was tested
    for folder, run in reversed(once.items()):
        if os.path.lexists(folder / "log.csv"):
            try:
                parts.append(_log(folder).assign(group=run["group"], title=run["title"]))
            except RunError as error:
                left.append(f"{error}.")
    missing = "Training curves: there are no logs (log.csv in the run folders); run: reidgen bench"
    panels = []
    if parts:
        logs = pd.concat(parts)
        losses = [name for name in logs if name not in (*NO_LOSS, "group", "title")]
        mean = logs.groupby(["group", "title", "epoch"], sort=False)[losses].mean()
        for source, part in mean.groupby(level="group", sort=False):
            for loss in losses:
                name = NAMES.get(str(loss), str(loss))
                every = {
                    str(title): line.droplevel([0, 1])[loss] for title, line in part.groupby(level="title", sort=False)
                }
                if lines := {title: line for title, line in every.items() if line.fillna(0).any()}:
                    ends = ", ".join(
                        f"{title} {line.iloc[0]:.2f} to {line.iloc[-1]:.2f}" for title, line in lines.items()
                    )
                    alt = f"Training curves, {name} on {source}, first to last epoch: {ends}"
                    drawn = curves(lines, style=style, labels=("epoch", name), alt=alt)
                    panels.append(Panel(f"{source}: {name}", drawn))
    if left and not parts:
        missing = f"Training curves: {' '.join(left)}"
    text = "Mean of each epoch, then over seeds; a method has lines for the losses that it has."
    text = " ".join((text, *left))
    return Section("training", "Training", text, "" if panels else missing, panels, legend=True)


def _log(folder: Path) -> pd.DataFrame:
    """Return a run's losses by epoch. Raises RunError where its log is damaged: no reason to leave out the rest."""
    return Run(folder).training_log().drop(columns=list(NO_LOSS[1:]), errors="ignore")


def show_sections(results: Path, *, images: bool) -> Iterator[Section]:
    """Yield a section for each kind of picture that `reidgen show` makes, those without a picture too.

    images: whether those that show images of a data set are among them.
    Raises RunError when a picture, or what is known about it, is damaged.
    """
    left = BUDGET
    files = sorted((results / "runs").glob("*/*/show/*.json"))
    for kind, title in PICTURES.items():
        panels, people, heavy, links = [], 0, 0, 0
        for file in files:
            if file.name.split("-", 1)[0] != kind:
                continue
            if not _of_run(file):
                links += 1
                continue
            facts = _picture_facts(file)
            if facts["images"] and not images:
                people += 1
                continue
            picture = _picture(file.parent, facts["files"])
            if not _of_run(picture):
                links += 1
                continue
            address = _address(picture, facts["digests"].get(picture.name))
            if not facts["images"]:
                if len(address) > left:
                    heavy += 1
                    continue
                left -= len(address)
            drawing = f'<img alt="{escape(facts["alt"])}" src="{address}">'
            panels.append(Panel(facts["title"], drawing, facts["caption"], f"{facts['command']}  # {facts['date']}"))
        missing = []
        if people:
            missing.append(
                f"{people} picture{'s' if people > 1 else ''} with images of the data set left out; "
                "where its licence lets you pass them on, run: reidgen report --images"
            )
        if heavy:
            missing.append(f"{heavy} left out to keep this file small; they lie in {results / 'runs'}/*/*/show")
        if links:
            missing.append(f"{links} left out, as links or no plain files of their run")
        if not missing and not panels:
            missing.append(f"not drawn yet; run: reidgen show {kind} RUN --target NAME")
        yield Section(kind, title, "", f"{title}: {'; '.join(missing)}" if missing else "", panels)


def _of_run(file: Path) -> bool:
    """Tell whether a file in the folder `show` of a run is a plain file of that run, reached through no link of it.

    A file that is not there counts as one: who reads it says so.
    """
    run = file.parents[1].resolve()
    inside = not file.is_symlink() and file.resolve().is_relative_to(run)
    return inside and (file.is_file() or not file.exists())


def _picture_facts(file: Path) -> dict[str, Any]:
    """Return what is known about a picture. Raises RunError where the file does not say it."""
    remedy = "remove it and repeat its reidgen show command"
    try:
        facts: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        said = {"caption": "", "command": "", "date": "", "digests": {}, **facts}
        names = said["files"]
        texts = [*names, *(said[key] for key in ("title", "alt", "caption", "command", "date"))]
        if not isinstance(names, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError
        # reidgen 0.1.0 wrote neither digests nor a check
        if not (passes_check(facts) or "digests" not in facts) or not isinstance(said["digests"], dict):
            raise ValueError
        images = said["images"] is not False
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(f"{file} is damaged; {remedy}") from error
    suffixes = {Path(name).suffix for name in names}
    if not (said["alt"] and said["title"] and suffixes and suffixes <= {".svg", ".png"}):
        raise RunError(f"{file} names no title, alternative text or file; {remedy}")
    return {**said, "images": images}


def _picture(folder: Path, names: list[str]) -> Path:
    """Return the file of a picture: its SVG, where there is one, as that is sharp at every size."""
    return min((folder / Path(name).name for name in names), key=lambda file: file.suffix != ".svg")


def _address(file: Path, digest: str | None) -> str:
    """Return a picture as a data address. Raises RunError when it is no PNG or SVG, or not of this SHA-256."""
    try:
        content = read_regular(file)
    except OSError as error:
        raise RunError(f"{file} is missing or cannot be read; repeat its reidgen show command") from error
    svg = file.suffix == ".svg"
    begins = (b"<?xml", b"<svg") if svg else (b"\x89PNG\r\n\x1a\n",)
    if not content.lstrip().startswith(begins) or (svg and b"<svg" not in content):
        raise RunError(f"{file} is no {file.suffix[1:].upper()} picture; repeat its reidgen show command")
    if digest not in (None, hashlib.sha256(content).hexdigest()):
        raise RunError(f"{file} is not the picture that was drawn; repeat its reidgen show command")
    return f"data:image/{'svg+xml' if svg else 'png'};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class _Place:
    """The cells of one chart of bars: a group and a target, and the scale it shares with its group."""

    group: str
    target: str
    cells: pd.DataFrame
    limits: tuple[float, float]

    @property
    def bars(self) -> pd.DataFrame:
        return self.cells.set_index("title")[["value", "low", "high", "text"]]


def _places(cells: pd.DataFrame) -> list[_Place]:
    """Return what each chart shows: of every group the mean of unseen first, then target by target.

    cells: with the columns value, low, high and text. Where these would be more than MANY charts, the means alone:
    nobody reads a hundred of them, and the tables hold them all.
    """
    places = []
    names = group_names(cells)
    for key, block in cells.groupby(GROUP, sort=False):
        ends = block[["value", "low", "high"]]
        limits = min(0.0, float(ends.min().min())), max(0.0, float(ends.max().max()))
        for target in mean_first(block["target"]):
            places.append(_Place(names[tuple(key)], target, block[block["target"] == target], limits))
    means = [place for place in places if place.target == MEAN]
    return means if means and len(places) > MANY else places


def mean_first(targets: Iterable[str]) -> list[str]:
    """Return the different targets in their order, with the mean of unseen in front."""
    return sorted(dict.fromkeys(targets), key=lambda target: target != MEAN)
