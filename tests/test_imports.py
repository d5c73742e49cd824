"""The layers of LDM-151 2.4: imports point downwards only."""

import ast

import pytest

from skyquilt.workflow.code import PACKAGE

RANK = {
    "primitives": 0,
    "io": 1,
    "instrument": 1,
    "algorithms": 2,
    "pipelines": 3,
    "quality": 4,
    "workflow": 5,
}
ALLOWED = {layer: {other for other in RANK if RANK[other] < RANK[layer]} | {layer} for layer in RANK}
ALLOWED["simulation"] = {"primitives", "instrument", "simulation"}
ALLOWED["workflow"].add("simulation")

# what a simulation must not share with what it judges (design 7)
FORBIDDEN_IN_SIMULATION = {
    f"skyquilt.primitives.{name}" for name in ("wcs", "psf", "background", "transforms", "kernels")
}


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_downwards(path):
    """No module imports from a layer above its own."""
    layer = path.relative_to(PACKAGE).parts[0]
    if layer not in ALLOWED:
        return
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("skyquilt.")}
    layers = used & set(ALLOWED)
    assert layers <= ALLOWED[layer], f"{layer} imports {sorted(layers - ALLOWED[layer])}"


def test_simulation_shares_no_model_with_what_it_judges():
    """The simulation uses none of the pipeline's WCS, PSF, background or kernel code."""
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] == "simulation":
            assert not set(imports_of(path)) & FORBIDDEN_IN_SIMULATION, path
