"""Imports only go down the floors of ARCHITECTURE.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "reidgen"
FLOORS = {
    "__main__": 7,
    "cli": 6,
    "bench": 5, "tables": 5,
    "training": 4, "evaluation": 4,
    "data.batches": 3, "losses": 3, "models": 3, "models.network": 3, "models.backbones": 3, "models.norms": 3,
    "data.prepare": 2, "data.pack": 2, "data.readers": 2, "data.synthetic": 2, "data.images": 2, "data.scenes": 2,
    "data.figures": 2, "data.people": 2, "data.drawing": 2, "ranking": 2,
    "catalogue": 1, "runs": 1, "recipe": 1, "methods": 1, "devices": 1, "data": 1,
    "errors": 0, "files": 0, "": 0,
}  # fmt: skip
# The arrows within a floor, and nothing else.
ARROWS = {
    ("losses", "models.norms"),
    ("models", "models.network"), ("models", "models.norms"),
    ("models.network", "models.backbones"), ("models.network", "models.norms"),
    ("data.prepare", "data.readers"), ("data.prepare", "data.synthetic"), ("data.prepare", "data.images"),
    ("data.synthetic", "data.images"), ("data.pack", "data.prepare"), ("data.pack", "data.images"),
    ("data.synthetic", "data.scenes"), ("data.synthetic", "data.figures"), ("data.synthetic", "data.people"),
    ("data.synthetic", "data.drawing"), ("data.scenes", "data.figures"), ("data.scenes", "data.people"),
    ("data.scenes", "data.drawing"), ("data.figures", "data.people"), ("data.figures", "data.drawing"),
    ("data.people", "data.drawing"),
    ("runs", "recipe"), ("recipe", "methods"), ("files", "errors"),
}  # fmt: skip
TORCH_FREE = ("tables", "runs", "recipe", "methods", "catalogue", "data.prepare", "data.pack", "errors", "files")
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in PACKAGE.rglob("*.py")
}


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


@pytest.mark.parametrize("module", MODULES)
def test_imports_only_go_down(module: str) -> None:
    for other in imports(MODULES[module]) - {"torch", module}:
        down = FLOORS[other] < FLOORS[module]
        assert down or (module, other) in ARROWS, f"{module} must not import {other}"


def test_no_floor_or_arrow_is_left_over() -> None:
    used = {(module, other) for module in MODULES for other in imports(MODULES[module])}
    assert set(FLOORS) == set(MODULES) and used >= ARROWS


@pytest.mark.parametrize("module", TORCH_FREE)
def test_light_modules_never_lead_to_torch(module: str) -> None:
    seen, waiting = set(), [module]
    while waiting:
        here = waiting.pop()
        seen.add(here)
        found = imports(MODULES[here])
        assert "torch" not in found, f"{module} leads to torch through {here}"
        waiting += [other for other in found - seen if other in MODULES]


def test_no_file_is_too_long_to_read_in_one_sitting() -> None:
    assert {module: n for module, path in MODULES.items() if (n := len(path.read_text().splitlines())) > 400} == {}
