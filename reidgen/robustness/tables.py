"""Rows of stress and attack -> tables and figures that compare methods. No torch, nothing written.

rows -> _alike (one recipe and one version of the data) -> means over splits, targets, seeds -> Grid, SVG text
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from reidgen.errors import ReidgenError
from reidgen.escapes import no_formula
from reidgen.methods import METHODS, title_of
from reidgen.report.plots import Style, styles
from reidgen.robustness.shifts import SEVERITIES, SHIFTS
from reidgen.robustness.trials import CLEAN, KINDS
from reidgen.runs import in_folders
from reidgen.tables.average import titles
from reidgen.tables.choose import latest_version
from reidgen.tables.formats import markdown, markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.console import Group

# The orders of what a column holds; whatever else stands there follows by alphabet.
SHIFT_ORDER = (CLEAN, *SHIFTS)
PATTERN_ORDER = (CLEAN, "noise", "blocks", "point", "label", "pair", "list")
PATTERN_NAMES = {CLEAN: "clean", "noise": "random noise", "blocks": "random blocks"}
PATTERN_NAMES |= {loss: f"{loss}-wise" for loss in PATTERN_ORDER[3:]}
UNSEEN = "mean of unseen"
MAKER_VERSION = r"-s\d+-[0-9a-f]+-([0-9a-f]{8})$"  # of a run's folder; those of reidgen 0.1.0 have none
SIDES = {"query": "queries", "both": "queries and gallery"}
STRESS_NOTE = (
    "drop: of mAP, in % of the clean mAP, mean of five severities, below 0 where the shift helps; mAP and Rank-1 in %; "
    "±: std over seeds"
)


@dataclass(frozen=True)
class Grid:
    """A small table: numbers in percent, one row per line of `values`, one column per method.

    spread: the standard deviation over seeds, NaN with one seed. better: "high" or "" per row: whether the highest is
    bold. titles: method -> its name in tables.
    """

    title: str
    values: pd.DataFrame
    spread: pd.DataFrame
    better: Sequence[str]
    titles: Mapping[str, str]

    def _lines(self, bold: str, escape: Callable[[str], str]) -> list[list[str]]:
        lines = []
        for (name, values), (_, spreads), better in zip(
            self.values.iterrows(), self.spread.iterrows(), self.better, strict=True
        ):
            shown = values.round(1)
            cells = []
            for value, spread in zip(shown, spreads, strict=True):
                text = "–" if pd.isna(value) else f"{value:.1f}"
                text = bold.format(text) if better and value == shown.max() and shown.count() > 1 else text
                cells.append(text if pd.isna(spread) or pd.isna(value) else f"{text} ±{spread:.1f}")
            lines.append([escape(str(name)), *cells])
        return lines

    def markdown(self) -> str:
        """Return the table as GitHub's Markdown, under its title."""
        head = ["", *(markdown(self.titles[method]) for method in self.values.columns)]
        lines = [head, [":--", *["--:"] * (len(head) - 1)], *self._lines("**{}**", markdown)]
        return f"**{markdown(self.title)}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def rich(self) -> "Group":
        """Return the table for a terminal, its title above it."""
        from rich import box
        from rich.console import Group
        from rich.table import Table as RichTable

        drawn = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        drawn.add_column("", no_wrap=True)
        for method in self.values.columns:
            drawn.add_column(markup(self.titles[method]).replace("-", "-\n", 1), justify="right", overflow="fold")
        for line in self._lines("[bold]{}[/bold]", markup):
            drawn.add_row(*line)
        return Group(f"[bold]{markup(self.title)}[/bold]", drawn)


@dataclass(frozen=True)
class Robustness:
    """All that a kind of trial has to say in numbers: its grids and what to know about them."""

    grids: list[Grid]
    notes: list[str]

    def markdown(self) -> str:
        """Return all grids as Markdown, the notes as a list below them."""
        notes = [f"- {markdown(note)}" for note in self.notes]
        return "\n".join([*(grid.markdown() for grid in self.grids), *notes]) + "\n"

    def json(self) -> dict[str, Any]:
        """Return what `csv` holds and the notes as what JSON can hold, null where there is no number."""
        return {"cells": json.loads(self._cells().to_json(orient="records")), "notes": self.notes}

    def csv(self) -> str:
        """Return one line per grid, row and method: the number in percent and its deviation over seeds.

        A name that a spreadsheet would run as a formula has a ' in front.
        """
        cells = self._cells()
        cells = cells.assign(**{column: cells[column].map(no_formula) for column in ("table", "row", "method")})
        return cells.to_csv(index=False, float_format="%.4f", lineterminator="\n")

    def _cells(self) -> pd.DataFrame:
        parts = [pd.DataFrame(columns=["table", "row", "method", "percent", "std_seeds"])] * (not self.grids)
        for grid in self.grids:
            long = grid.values.melt(ignore_index=False, var_name="method", value_name="percent").rename_axis("row")
            std = grid.spread.melt(ignore_index=False)["value"].to_numpy()
            parts.append(long.reset_index().assign(std_seeds=std, table=grid.title))
        return pd.concat(parts)[["table", "row", "method", "percent", "std_seeds"]]


def stress_table(rows: pd.DataFrame) -> Robustness:
    """Return, for each source, target and shifted side, the mean relative drop of mAP per shift.

    The drop 1 - mAP / clean mAP is averaged over splits and the five severities (a shift that lacks one has no number),
    then over seeds; "all shifts" is the mean over the eleven. As a method that starts low has little to lose, clean and
    mean shifted mAP and Rank-1 stand beside it, and only their best is bold. Backbones have tables of their own.
    rows: of `reidgen.robustness.trials.STRESS`. Raises ReidgenError when there are none.
    """
    rows, notes = _alike(_some(rows, "stress"), "shifts")
    notes.insert(0, STRESS_NOTE)
    grids = []
    for (name, target, where), block in _blocks(rows, "target", "where"):
        clean, shifted = block[block["shift"] == CLEAN], block[block["shift"] != CLEAN]
        runs = shifted.groupby(["method", "seed", "shift"])[["mAP", "rank1", "drop"]].mean()
        whole = shifted.groupby(["method", "seed", "shift"])["severity"].nunique() == SEVERITIES
        runs = (100 * runs[whole]).reset_index()
        every = runs.groupby(["method", "seed"])["shift"].transform("nunique") == len(SHIFTS)
        means = runs[every].groupby(["method", "seed"])[["mAP", "rank1", "drop"]].mean().reset_index()
        every_run, whole_run = (set(zip(part["method"], part["seed"], strict=True)) for part in (block, means))
        notes += [
            f"{name} on {target}: {titles(block)[method]} s{seed} lacks shifts; repeat: reidgen stress"
            for method, seed in sorted(every_run - whole_run)
        ]
        start = 100 * clean.groupby(["method", "seed"])[["mAP", "rank1"]].mean()
        whole_runs = means.set_index(["method", "seed"])
        lines = [
            _line("clean mAP", start["mAP"]),
            _line("clean Rank-1", start["rank1"]),
            *(
                _line(f"drop: {shift}", part.set_index(["method", "seed"])["drop"])
                for shift, part in _parts(runs, "shift", SHIFT_ORDER)
            ),
            _line("drop: all shifts", whole_runs["drop"]),
            _line("shifted mAP", whole_runs["mAP"]),
            _line("shifted Rank-1", whole_runs["rank1"]),
        ]
        better = ["high", "high", *[""] * (len(lines) - 4), "high", "high"]
        grids.append(_grid(f"{name} on {target}{_seen(block)}, {SIDES[where]} shifted", lines, better, block))
    return Robustness(grids, notes)


def stress_figures(rows: pd.DataFrame) -> dict[str, str]:
    """Return `stress_figure` for each source, target, shifted side and backbone, by a name for its file."""
    rows, _ = _alike(_some(rows, "stress"), "shifts")
    return {
        in_folders(f"stress-{name.replace(', ', '-')}-{target}-{where}"): stress_figure(block)
        for (name, target, where), block in _blocks(rows, "target", "where")
    }


def attack_table(rows: pd.DataFrame) -> Robustness:
    """Return, for each source and bound, mAP under each run's own patterns, and the transfer matrices.

    One grid for each seen target, one for the mean over the unseen targets that all methods have; a run that lacks one
    of them under a pattern does not count there. A transfer matrix holds the mean relative drop over the unseen targets
    that all of its cells have: a row for the method that made the pattern, a column for the victim. A run's own pattern
    and that of another run of its method (another seed) have rows of their own. Victims of different backbones have
    tables of their own, in which a maker of another one is named with it.
    rows: of `reidgen.robustness.trials.ATTACK`. Raises ReidgenError when there are none.
    """
    rows, notes = _alike(_some(rows, "attack"), "")
    notes.insert(0, "mAP in %; drop: in % of the clean mAP, mean over splits and targets; ±: std over seeds")
    grids = []
    for (name, bound), block in _blocks(rows, "bound"):
        where = f"{name}, bound {bound}/255"
        unseen, left_out = _common_targets(block[block["seen"] == 0])
        notes += [f"{name}: {', '.join(left_out)} left out of the mean, as not every method has it"] * bool(left_out)
        if (block["maker"] != "").any() and not (block["own"] == 1).any():
            notes.append(
                f"{name}: only patterns of other runs were tried, they stand in the transfer matrices and in "
                f"attack.csv; for a run's own: reidgen attack without --from"
            )
        notes += _torn(name, block)
        grids += [_pattern_grid(f"{where}, on {title}", part) for title, part in _groups(block).items()]
        for loss, part in _parts(unseen[unseen["maker"] != ""], "pattern", PATTERN_ORDER):
            if not (part["own"] == 0).any():
                continue
            title = f"{where}, {PATTERN_NAMES[loss]}: drop in %"
            targets = _in_all_cells(part)
            if other := sorted(set(part["target"]) - set(targets)):
                notes.append(
                    f"{title}: not in the transfer matrix, as not tried with every pattern: {', '.join(other)}"
                )
            if targets:
                title += f" on unseen targets ({', '.join(targets)}) by the pattern of (row) in (column)"
                grids.append(_transfer_grid(title, part[part["target"].isin(targets)]))
    return Robustness(grids, notes)


def attack_figures(rows: pd.DataFrame) -> dict[str, str]:
    """Return `attack_figure` for each source and bound, by a name for its file."""
    rows, _ = _alike(_some(rows, "attack"), "")
    return {
        in_folders(f"attack-{name.replace(', ', '-')}-{bound}"): attack_figure(groups, f"{name}, bound {bound}/255")
        for (name, bound), block in _blocks(rows, "bound")
        if (groups := _groups(block))
    }


def _blocks(rows: pd.DataFrame, *columns: str) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """Yield (name, a value of each of `columns`) and the rows of each source, value and backbone.

    The name is the source's, with the backbone behind it where that source has several.
    """
    backbones = rows.groupby("source")["backbone"].nunique()
    several = set(backbones[backbones > 1].index)
    for (source, *key, backbone), block in rows.groupby(["source", *columns, "backbone"]):
        yield (f"{source}, {backbone}" if source in several else source, *key), block


def _groups(block: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the rows of clean images, controls and own patterns: of each seen target, and of the
    common unseen ones.
    """
    own = _own(block)
    groups = {f"{target} (seen)": part for target, part in own[own["seen"] == 1].groupby("target")}
    unseen, _ = _common_targets(own[own["seen"] == 0])
    names, whole = sorted(unseen["target"].unique()), unseen[_has_all(unseen)]
    if len(whole):
        groups[names[0] if len(names) == 1 else f"{UNSEEN} ({', '.join(names)})"] = whole
    return groups


def _own(block: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of clean images, controls and own patterns."""
    return block[(block["own"] == 1) | (block["maker"] == "")]


def _has_all(rows: pd.DataFrame) -> "pd.Series[bool]":
    """Tell of which rows the run has, under the row's pattern, all targets: a mean over fewer is another one."""
    return rows.groupby(["method", "seed", "pattern"])["target"].transform("nunique") == rows["target"].nunique()


def _torn(name: str, block: pd.DataFrame) -> list[str]:
    """Return a note for each run that is not in the mean of unseen under some patterns, as it lacks targets."""
    own = _own(block)
    unseen, _ = _common_targets(own[own["seen"] == 0])
    names = titles(block)
    return [
        f"{name}: {names[str(method)]} s{seed} was not tried on all unseen targets with "
        f"{', '.join(pattern for pattern, _ in _parts(left, 'pattern', PATTERN_ORDER))}, so not in that mean; repeat: "
        "reidgen attack"
        for (method, seed), left in unseen[~_has_all(unseen)].groupby(["method", "seed"])
    ]


def _in_all_cells(part: pd.DataFrame) -> list[str]:
    """Return the targets on which every run met the patterns of every method that it met at all."""
    cells = part.groupby(["method", "seed", "own", "maker_method"])["target"].agg(set)
    return sorted(set.intersection(*cells))


def _pattern_grid(title: str, part: pd.DataFrame) -> Grid:
    lines = []
    for name, rows in _parts(part, "pattern", PATTERN_ORDER):
        lines.append(_line(f"{PATTERN_NAMES[name]}: mAP", _run_means(rows, "mAP")))
        if name != CLEAN:
            lines.append(_line(f"{PATTERN_NAMES[name]}: drop", _run_means(rows, "drop")))
    return _grid(title, lines, [""] * len(lines), part)


def _transfer_grid(title: str, part: pd.DataFrame) -> Grid:
    names = titles(part)
    same = (part["own"] == 0) & (part["maker_method"] == part["method"])
    part = part.assign(maker_method=part["maker_method"].mask(same, "another run of its method"))
    lines = [
        _line(names.get(name) or title_of(name), _run_means(rows, "drop"))
        for name, rows in _parts(part, "maker_method", list(METHODS))
    ]
    return _grid(title, lines, [""] * len(lines), part)


def _run_means(rows: pd.DataFrame, key: str) -> "pd.Series[float]":
    """Return percent per method and seed: the mean over splits, then over targets."""
    means = rows.groupby(["method", "seed", "target"])[key].mean().groupby(["method", "seed"]).mean()
    return 100 * means


def stress_figure(rows: pd.DataFrame) -> str:
    """Return mAP against severity as SVG text, a panel per shift and a line per method, of one block of `stress_table`.

    The band: plus and minus one standard deviation over seeds; with one seed the 95 % interval over query identities.
    """
    style = _style(rows["method"])
    means = rows.groupby(["method", "seed", "shift", "severity"])[["mAP", "mAP_se"]].mean() * 100
    seeds = means["mAP"].groupby(["method", "shift", "severity"])
    line = pd.DataFrame({"mAP": seeds.mean(), "band": seeds.std()})
    line["band"] = line["band"].fillna(1.96 * means["mAP_se"].groupby(["method", "shift", "severity"]).mean())

    def draw(figure: "Figure") -> None:
        panels = figure.subplots(3, 4, sharex=True, sharey=True).ravel()
        for axes, shift in zip(panels, SHIFT_ORDER[1:], strict=False):
            for method in style:
                here = line.loc[method].reset_index()
                curve = here[(here["shift"] == shift) | (here["shift"] == CLEAN)].sort_values("severity")
                colour, dash = style[method]
                axes.plot(curve["severity"], curve["mAP"], color=colour, linestyle=dash, linewidth=1.4)
                band = (curve["mAP"] - curve["band"], curve["mAP"] + curve["band"])
                axes.fill_between(curve["severity"], *band, color=colour, alpha=0.12, linewidth=0)
            axes.set_title(shift, fontsize=9)
            axes.set_ylim(bottom=0)
            axes.grid(True)
        panels[7].tick_params(labelbottom=True)  # below it is the legend
        figure.supxlabel("severity", fontsize=9)
        figure.supylabel("mAP in %", fontsize=9)
        _legend(panels[len(SHIFT_ORDER) - 1], style, titles(rows))

    first = rows.iloc[0]
    band = "± std over seeds" if rows["seed"].nunique() > 1 else "95 % over query identities"
    about = f"{first['source']} on {first['target']}{_seen(rows)}, {SIDES[first['where']]} shifted; band: {band}"
    return _svg(draw, (9.0, 6.4), about)


def attack_figure(groups: dict[str, pd.DataFrame], about: str) -> str:
    """Return mAP under each pattern as SVG text: a panel for each group of targets, a row per method, a mark per
    pattern.

    about: what stands above it.
    """
    marks = dict(zip(PATTERN_ORDER, "ox+^vsD", strict=True))
    colours = dict(
        zip(PATTERN_ORDER, ("#222222", "#7d8790", "#7d8790", "#a68a0d", "#1f9d78", "#d9730d", "#d64550"), strict=True)
    )

    def draw(figure: "Figure") -> None:
        for axes, (title, rows) in zip(
            figure.subplots(1, len(groups), squeeze=False, sharex=True)[0], groups.items(), strict=True
        ):
            methods = _ordered(rows["method"], list(METHODS))[::-1]
            for name, part in _parts(rows, "pattern", PATTERN_ORDER):
                mean = _run_means(part, "mAP").groupby("method").mean()
                below = 0.09 * (PATTERN_ORDER.index(name) - 3)  # so that equal numbers do not hide each other
                places = [methods.index(method) - below for method in mean.index]
                axes.scatter(
                    mean, places, marker=marks[name], color=colours[name], s=34, label=PATTERN_NAMES[name], zorder=3
                )
            axes.set_yticks(range(len(methods)), [titles(rows)[method] for method in methods])
            axes.set_xlim(left=0)
            axes.set_ylim(-0.6, len(methods) - 0.4)
            axes.set_title(title if len(title) < 40 else UNSEEN, fontsize=9)
            axes.set_xlabel("mAP in %", fontsize=9)
            axes.grid(True)
        handles, names = axes.get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)

    tallest = max((part["method"].nunique() for part in groups.values()), default=1)
    return _svg(draw, (4.2 * max(1, len(groups)), 1.8 + 0.36 * tallest), f"{about}: mAP under each pattern")


def _some(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    if rows.empty:
        targets = "--target synth-night" if kind == "stress" else "--target synth-plaza,synth-night"
        raise ReidgenError(f"there are no {kind} rows yet; run: reidgen {kind} RUN {targets}")
    assert set(KINDS[kind]) <= set(rows.columns)
    return rows


def _alike(rows: pd.DataFrame, table: str) -> tuple[pd.DataFrame, list[str]]:
    """Return per source, backbone and target the rows made like most of its rows (of equals, the latest), by the latest
    version of each method; and what was left out.
    """
    columns = ["hash", "version", "source_data", "data", *[table] * bool(table)]
    key = rows[columns].agg("/".join, axis=1)
    where = rows["source"] + ", " + rows["backbone"] + " on " + rows["target"]
    groups = rows.groupby([where.rename("where_"), key.rename("key")])["date"].agg(["size", "max"]).reset_index()
    best = (
        groups.sort_values(["size", "max"], kind="stable")
        .drop_duplicates("where_", keep="last")
        .set_index("where_")["key"]
    )
    alike = key == where.map(best)
    counts = where[~alike].value_counts().sort_index()
    notes = [f"{name}: {n} rows left out, made otherwise" for name, n in counts.items()]
    rows, earlier = _of_latest_versions(rows[alike].reset_index(drop=True))
    return rows, notes + earlier


def _of_latest_versions(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of the latest version of each method, which made a pattern too, and what was left out."""
    by_date, notes = rows.sort_values("date", kind="stable"), []
    current = latest_version(by_date).sort_index()
    for (source, method), left in rows[~current].groupby(["source", "method"]):
        notes.append(f"{source}: {len(left)} rows of {method} left out, made by an earlier version of the method")
    if "maker" in rows:
        version = by_date["maker"].str.extract(MAKER_VERSION)[0].fillna("")
        latest = latest_version(by_date.assign(method=by_date["maker_method"], row=version)).sort_index()
        for (source, maker), left in rows[current & ~latest].groupby(["source", "maker_method"]):
            notes.append(f"{source}: {len(left)} rows left out, of patterns by an earlier version of {maker}")
        current &= latest
    return rows[current], notes


def _common_targets(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return the rows of the targets that every method has, and the names of the other targets."""
    methods = rows.groupby("target")["method"].nunique()
    common = methods[methods == rows["method"].nunique()].index
    return rows[rows["target"].isin(common)], sorted(set(rows["target"]) - set(common))


def _line(name: str, runs: "pd.Series[float]") -> tuple[str, "pd.Series[float]", "pd.Series[float]"]:
    """Return a name, and per method the mean and the deviation over seeds; runs: indexed by method and seed."""
    methods = runs.groupby("method")
    return name, methods.mean(), methods.std()


def _grid(
    title: str,
    lines: list[tuple[str, "pd.Series[float]", "pd.Series[float]"]],
    better: Sequence[str],
    rows: pd.DataFrame,
) -> Grid:
    """Return the grid of named lines; rows: those that they were made of."""
    names = [name for name, *_ in lines]
    values, spread = (pd.DataFrame([line[part] for line in lines], index=names) for part in (1, 2))
    order = _ordered(values.columns, list(METHODS))
    return Grid(title, values[order], spread[order], better, titles(rows))


def _parts(rows: pd.DataFrame, column: str, order: Sequence[str]) -> list[tuple[str, pd.DataFrame]]:
    return [(name, rows[rows[column] == name]) for name in _ordered(rows[column], order)]


def _ordered(names: Iterable[str], first: Sequence[str]) -> list[str]:
    return sorted(set(names), key=lambda name: (first.index(name) if name in first else len(first), name))


def _seen(rows: pd.DataFrame) -> str:
    return " (seen)" if rows["seen"].any() else ""


def _style(methods: Iterable[str]) -> dict[str, Style]:
    return styles(_ordered(methods, list(METHODS)))


def _legend(axes: "Axes", style: dict[str, Style], names: Mapping[str, str]) -> None:
    for method, (colour, dash) in style.items():
        axes.plot([], [], color=colour, linestyle=dash, label=names[method])
    axes.set_axis_off()
    axes.legend(loc="center", frameon=False, fontsize=9)


def _svg(draw: Callable[["Figure"], None], size: tuple[float, float], about: str) -> str:
    """Return a figure on white as SVG text, the same for the same input, for a README and a paper."""
    import matplotlib
    from matplotlib.figure import Figure

    text = io.StringIO()
    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": about,
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.5,
    }
    with matplotlib.rc_context(settings):  # type: ignore[arg-type]
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(about, fontsize=9)
        draw(figure)
        figure.savefig(text, format="svg", metadata={"Date": None, "Title": about})
    return text.getvalue()
