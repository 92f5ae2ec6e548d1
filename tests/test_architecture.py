"""Imports only go down the floors of ARCHITECTURE.md."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "reidgen"
FLOORS = {
    "__main__": 8, "cli": 7,
    "commands": 6, "commands.data": 6, "commands.runs": 6, "commands.tables": 6, "commands.probes": 6, "commands.options": 6,
    "bench": 5, "speed": 5, "tables": 5, "tables.compare": 5, "tables.explain": 5, "report": 5, "report.page": 5, "report.sections": 5,
    "pictures": 5, "pictures.show": 5, "robustness": 5, "robustness.stress": 5, "robustness.attack": 5, "robustness.subject": 5,
    "robustness.tables": 5,
    "training": 4, "evaluation": 4, "tables.looks": 4, "tables.significance": 4, "pictures.probes": 4, "pictures.drawings": 4,
    "data.batches": 3, "losses": 3, "models": 3, "models.network": 3, "models.backbones": 3, "models.norms": 3,
    "tables.paper": 3, "tables.identities": 3, "robustness.shifts": 3, "robustness.attack_losses": 3,
    "data.prepare": 2, "data.manifest": 2, "data.obtain": 2, "data.archives": 2, "data.download": 2, "data.check": 2,
    "data.listing": 2, "data.cuhk03": 2, "data.pack": 2, "data.readers": 2, "data.partitions": 2, "data.lists": 2,
    "data.synthetic": 2, "data.images": 2, "data.scenes": 2, "data.figures": 2, "data.people": 2, "data.drawing": 2,
    "ranking": 2, "tables.statistics": 2, "report.plots": 2, "robustness.trials": 2,
    "catalogue": 1, "protocols": 1, "entries": 1, "runs": 1, "recipe": 1, "methods": 1, "devices": 1, "parallel": 1, "pool": 1,
    "terminal": 1, "data": 1,
    "errors": 0, "files": 0, "": 0,
}  # fmt: skip
# The arrows within a floor, and nothing else.
ARROWS = {
    ("commands.data", "commands.options"), ("commands.runs", "commands.options"), ("commands.tables", "commands.options"),
    ("commands.probes", "commands.options"), ("commands.runs", "commands.tables"),
    ("losses", "models.norms"),
    ("models", "models.network"), ("models", "models.norms"),
    ("models.network", "models.backbones"), ("models.network", "models.norms"),
    ("data.readers", "data.partitions"), ("data.readers", "data.lists"), ("data.partitions", "data.lists"),
    ("data.prepare", "data.partitions"), ("data.prepare", "data.readers"), ("data.prepare", "data.manifest"), ("data.prepare", "data.obtain"),
    ("data.manifest", "data.readers"), ("data.obtain", "data.readers"), ("data.obtain", "data.archives"),
    ("data.obtain", "data.download"), ("data.obtain", "data.images"), ("data.archives", "data.cuhk03"), ("data.archives", "data.images"),
    ("data.check", "data.manifest"), ("data.listing", "data.manifest"), ("data.check", "data.readers"), ("data.check", "data.images"), ("data.prepare", "data.check"),
    ("data.prepare", "data.archives"), ("data.prepare", "data.download"), ("data.prepare", "data.synthetic"), ("data.prepare", "data.images"),
    ("data.synthetic", "data.images"), ("data.pack", "data.manifest"), ("data.pack", "data.images"),
    ("data.synthetic", "data.scenes"), ("data.synthetic", "data.figures"), ("data.synthetic", "data.people"),
    ("data.synthetic", "data.drawing"), ("data.scenes", "data.figures"), ("data.scenes", "data.people"),
    ("data.scenes", "data.drawing"), ("data.figures", "data.people"), ("data.figures", "data.drawing"),
    ("data.people", "data.drawing"),
    ("robustness.stress", "robustness.subject"), ("robustness.attack", "robustness.subject"),
    ("parallel", "devices"), ("catalogue", "entries"), ("protocols", "catalogue"), ("protocols", "entries"), ("runs", "recipe"), ("recipe", "methods"), ("files", "errors"),
    ("pictures.probes", "evaluation"), ("tables.explain", "tables.compare"), ("report.page", "tables.compare"), ("report.page", "tables.explain"), ("report.page", "report.sections"),
}  # fmt: skip
TORCH_FREE = (
    "tables.compare",
    "report.page",
    "report.sections",
    "report.plots",
    "robustness.tables",
    "robustness.shifts",
    "robustness.trials",
    "tables.explain",
    "runs",
    "recipe",
    "methods",
    "catalogue",
    "protocols",
    "data.prepare",
    "data.manifest",
    "data.obtain",
    "data.pack",
    "errors",
    "files",
)
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
