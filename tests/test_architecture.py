"""Imports only go down the floors of ARCHITECTURE.md."""

import ast
import functools
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "reidgen"
# room: the rooms that it and all that it imports must never reach.
NEVER = {
    "tables": ("torch", "data", "models", "training", "evaluation", "grid", "robustness", "report", "pictures"),
    "report": ("torch", "training", "evaluation", "grid", "models"),
    "runs": ("torch", "data"),
    "rows": ("torch", "data", "runs"),
    "recipe": ("torch", "data"),
    "methods": ("torch", "data"),
    "status": ("torch",),
    "catalogue": ("torch", "data"),
    "protocols": ("torch", "data"),
    "ranking": ("data", "models", "runs"),
    "data.prepare": ("torch", "training", "evaluation"),
    "data.pack": ("torch",),
    "synth": ("torch", "training", "evaluation", "models"),
    "models": ("training", "evaluation", "tables"),
    "training": ("evaluation", "tables", "ranking"),
    "evaluation": ("training", "tables", "grid"),
    "features.store": ("torch",),
    "features.nearest": ("torch",),
    "features.approximate": ("torch",),
    "pages": ("torch",),
    "robustness.tables": ("torch",),
    "robustness.shifts": ("torch",),
    "errors": ("reidgen",),
}
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in PACKAGE.rglob("*.py")
}


@functools.cache
def imports(path: Path) -> set[str]:
    """Return the reidgen modules that a file imports anywhere, inside functions too, and "torch" for torch."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "reidgen":
            module = node.module.removeprefix("reidgen").lstrip(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".lstrip(".")
                found.add(inner if inner in MODULES else module)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {"torch" for name in names if name.split(".")[0] in ("torch", "torchvision", "safetensors")}
    return found


def reached(module: str) -> dict[str, str]:
    """Return every module that importing `module` leads to, torch too, each with the one that names it."""
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        here = waiting.pop()
        for other in imports(MODULES[here]) - {here} - set(found):
            found[other] = here
            if other:  # the package's own file names the verbs, which are imported when they are used
                waiting += [other] if other in MODULES else []
    return found


@pytest.mark.parametrize("module", [module for module in MODULES if module])
def test_no_module_leads_back_to_itself(module: str) -> None:
    path, reach = [module], reached(module)
    if module in reach:
        while (before := reach[path[-1]]) != module:
            path.append(before)
    assert module not in reach, f"imports go round: {' <- '.join([*path, module])}"


@pytest.mark.parametrize(
    ("module", "room"),
    [(module, room) for module in MODULES for room in NEVER if module == room or module.startswith(f"{room}.")],
)
def test_a_room_never_reaches_what_is_above_it(module: str, room: str) -> None:
    for other, through in reached(module).items():
        for never in NEVER[room]:
            inside = other == never or other.startswith(f"{never}.") or (never == "reidgen" and other != "torch")
            assert not inside, f"{module} leads to {other} through {through}"


def test_every_room_stands_in_the_architecture() -> None:
    text = (PACKAGE.parent / "ARCHITECTURE.md").read_text()
    names = {module.rpartition(".")[2] for module in MODULES if module and not module.startswith("__")}
    assert {name for name in names if name not in text} == set()
