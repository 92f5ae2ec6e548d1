"""The command that lists what can be named: methods, backbones, losses and recipes. torch is never imported."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from reidgen.commands.options import Plugin, Quiet
from reidgen.terminal import note, one_sentence, out, result

if TYPE_CHECKING:
    from rich.table import Table

    from reidgen.parts import Method, Part
    from reidgen.teststeps import StepRow


@one_sentence
def methods(
    name: Annotated[
        str, typer.Argument(help="A method, part, backbone, test step or recipe, to see all of it; or a group, table.")
    ] = "",
    plugin: Plugin = None,
    quiet: Quiet = False,
) -> None:
    """List methods, backbones, losses, test steps and recipes.

    Of a method, a part of one, a backbone, a test step or a recipe that is named, its parts, parameters or settings; of
    a group or a table (mixing, main), its methods.

    Example: reidgen methods

    Example: reidgen methods snr

    Example: reidgen methods mixing

    Example: reidgen methods --plugin examples/own_parts.py
    """
    from reidgen.backbones import BACKBONES
    from reidgen.methods import METHODS
    from reidgen.parts import TIMM, words_of
    from reidgen.recipe import RECIPES
    from reidgen.registry import broken, get_backbone, get_method, no_row, select_methods, words_for_methods
    from reidgen.teststeps import TEST_STEPS

    if name in BACKBONES or name.startswith(TIMM):
        row = get_backbone(name)
        params = ", ".join(f"{key} {words_of(value)}" for key, value in row.params.items())
        result(f"{row.name}: a backbone; {row.source}{f'; {params}' if params else ''} (from {row.origin})")
        return
    if name in TEST_STEPS:
        _show_step(TEST_STEPS[name])
        return
    if name in RECIPES:
        lines = RECIPES[name].to_toml().splitlines()
        own = [line for line in lines if line.split(" = ")[0] not in ("method", "source", "seed")]  # as a file has them
        out().print("\n".join(own), soft_wrap=True, markup=False, highlight=False)
        return
    if name:
        parts = _parts()
        if name in parts and name not in METHODS:
            _show_part(*parts[name])
            _say_tags()
            return
        words = words_for_methods()
        if "," not in name and name not in words:
            raise no_row("name", name, [*words, *parts, *BACKBONES, *TEST_STEPS, *RECIPES])
        chosen = [get_method(one) for one in select_methods(name)]
        if len(chosen) == 1:
            _show(chosen[0])
            _say_tags()
        else:
            out().print(_table("method", "title", map(_line, chosen)))
        return
    for table in _everything():
        out().print(table)
    for sentence in broken():
        note(f"note: an installed package's rows are left out: {sentence}")
    _say_tags()
    note("One method, or one test step, with its parameters: reidgen methods snr")


def _say_tags() -> None:
    note("Place 0 is the stem, places 1 to 4 are the stages. [S] the paper's slides, [A] code with the authors'")
    note("marks, [B] an independent re-implementation, [N] a secondary note that names the paper's table, [C] computed")
    note("here, [D] recollection of the paper, unconfirmed.")


def _parts() -> "dict[str, tuple[Part, str]]":
    """Return the parts of all rows and recipes by name, the first of a name, and what has it."""
    from reidgen.methods import SHARED
    from reidgen.registry import all_rows

    parts = {part.name: (part, "every method") for part in SHARED}
    for row in all_rows()[0]:
        parts |= {part.name: (part, row.name) for part in row.parts if part.name not in parts}
    return parts


def _everything() -> "Iterator[Table]":
    from reidgen.methods import SHARED
    from reidgen.parts import TIMM
    from reidgen.recipe import RECIPES
    from reidgen.registry import all_rows

    rows, backbones, steps = all_rows()
    losses = {part.name: (part, "every method") for part in SHARED}
    modules: dict[str, tuple[Part, str]] = {}
    for row in rows:
        losses |= {part.name: (part, row.name) for part in row.losses if part.name not in losses}
        own = [*([row.norm] if row.norm else []), *row.modules]
        modules |= {str(part.build): (part, row.name) for part in own if str(part.build) not in modules}
    yield _by_group(rows)
    timm = (f"{TIMM}NAME", "", "every network of timm, with its own pooling [B]; needs reidgen[timm]", "timm")
    yield _table("backbone", "", [*((row.name, "", row.source, row.origin) for row in backbones), timm])
    yield _table("module", "of", ((one.name, of, one.source, _origin(one)) for one, of in modules.values()))
    yield _table("loss", "of", ((one.name, of, one.source, _origin(one)) for one, of in losses.values()))
    yield _table("test step", "uses", ((one.name, _uses(one), one.source, one.origin) for one in steps))
    described = (
        f"{one.backbone}, {one.height}x{one.width}, {one.epochs} epochs, batches of {one.batch}, {one.dtype}, "
        f"{one.pooling} pooling"
        for one in RECIPES.values()
    )
    yield _table("recipe", "", ((one, "", words, "reidgen") for one, words in zip(RECIPES, described, strict=True)))


def _by_group(rows: "list[Method]") -> "Table":
    """Return the methods in the order of tables: Baseline, then each group below its name, its plug-ins' rows last."""
    from rich.text import Text

    from reidgen.methods import FIRST
    from reidgen.parts import GROUPS

    table = _table("method", "title", [_line(row) for row in rows if row.name == FIRST])
    for group in GROUPS:
        table.add_section()
        table.add_row(Text(group, style="dim"))
        for row in rows:
            if row.group == group and row.name != FIRST:
                table.add_row(*_line(row))
    return table


def _line(row: "Method") -> tuple[str, str, str, str]:
    return row.name, row.title, row.source, row.origin


def _table(kind: str, second: str, lines: Iterable[tuple[str, str, str, str]]) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in (kind, second, "source", "from"):
        table.add_column(title, no_wrap=title == kind)
    for line in lines:
        table.add_row(*line)
    return table


def _origin(part: "Part") -> str:
    return "reidgen" if not part.digest else str(part.build).partition(":")[0]


def _show(row: "Method") -> None:
    """Print a method with its parts, where they stand, and every parameter with its value and who says so."""
    out().print(f"{row.name}: {row.title}; {row.source} (from {row.origin})", soft_wrap=True)
    if row.norm:
        places = f" in {_places(row.norm)}" if row.norm.places else ""
        out().print(f"  in the place of BatchNorm2d{places}: {row.norm.name}; {row.norm.source}", soft_wrap=True)
        _print_parameters(row.norm)
    kinds = [("module", row.modules), ("loss", row.losses), ("augmentation", row.augmentations)]
    for kind, part in [(kind, part) for kind, parts in kinds for part in parts]:
        out().print(f"  {kind}: {part.name}{_where(part)}; {part.source}", soft_wrap=True)
        _print_parameters(part)
    if row.views > 1:
        out().print(f"  {row.views} views of each image: a step costs {row.views} forward passes", soft_wrap=True)
    if not row.parts:
        out().print("  no parts of its own: it is what the others are compared with")


def _show_part(part: "Part", of: str) -> None:
    """Print a part of a method: what has it, and every parameter; of a loss that all have, the recipe sets them."""
    out().print(f"{part.name}: a part of {of}; {part.source} (from {_origin(part)})", soft_wrap=True)
    _print_parameters(part)


def _print_parameters(part: "Part") -> None:
    from reidgen.methods import SHARED
    from reidgen.parts import words_of

    settable = "" if part in SHARED else f"--set {part.name}."
    for parameter, value in part.params.items():
        tag = part.tags.get(parameter, "")
        words = words_of(value).replace("/", ",")
        out().print(f"    {settable}{parameter}={words}{'   ' + tag if tag else ''}", soft_wrap=True)


def _show_step(row: "StepRow") -> None:
    """Print a test step, what it uses of the target, and every parameter with its value and who says so."""
    out().print(f"{row.name}: a test step (--test {row.name}); {row.source} (from {row.origin})", soft_wrap=True)
    out().print(f"  uses {_uses(row)}", soft_wrap=True)
    _print_parameters(row)


def _uses(row: "StepRow") -> str:
    """Return what a test step needs of the target beside the image itself."""
    uses = "unlabelled target images" if row.unlabelled else "no other image"
    return f"{uses}, other queries too" if row.transductive else uses


def _where(part: "Part") -> str:
    from reidgen.parts import IMAGES

    if not part.places:
        return ""
    if part.places == (IMAGES,):
        return " on the images"
    return f" {'before the last ReLU of' if part.before_relu else 'after'} {_places(part)}"


def _places(part: "Part") -> str:
    return f"place{'s' * (len(part.places) > 1)} {', '.join(map(str, part.places))}"
