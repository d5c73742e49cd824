"""What is written from the code and never by hand: default options, environment, and the pages of docs that list things.

`make generated` writes them; a test holds them equal to what the code says.
"""

from __future__ import annotations

import ast
import csv
import re
import tomllib
from collections import defaultdict
from pathlib import Path

import skyquilt
from skyquilt.io.products import PRODUCTS, PUBLISHED
from skyquilt.primitives.failure import REASON_TEXTS
from skyquilt.primitives.schemas import PLANNED, SCHEMAS
from skyquilt.primitives.tables import schema_markdown
from skyquilt.workflow.code import PACKAGE
from skyquilt.workflow.config import default_yaml
from skyquilt.workflow.stages import STAGES

_SECTIONS = re.compile(r"LDM-151 ([\d., -]+)")
_RULE = re.compile(r"^# ([\d.]+)\nrule (\w+):", re.MULTILINE)
# conda-forge calls these otherwise than PyPI
CONDA_NAMES = {"xxhash": "python-xxhash", "snakemake": "snakemake-minimal", "build": "python-build"}
NOT_ON_CONDA = {"lsst-felis", "lsst-sdm-schemas"}


def generated_files() -> dict[str, str]:
    """Path in the repository -> content."""
    root = skyquilt.production_root()
    return {
        "config/default.yaml": default_yaml(),
        "environment.yml": environment_yaml(root),
        "docs/ldm151.md": ldm151_page(root),
        "docs/products.md": products_page(),
        "docs/tables.md": tables_page(),
        "docs/reasons.md": reasons_page(),
    }


def environment_yaml(root: Path) -> str:
    """The conda-forge environment, from pyproject's requirements."""
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    lines = [
        "# conda env create -f environment.yml; then: pip install --no-deps -e .",
        "# Written from pyproject.toml by `make generated`; do not edit.",
        "name: skyquilt",
        "channels: [conda-forge, bioconda, nodefaults]",
        "dependencies:",
        f"  - python {project['requires-python']}",
        "  - pip",
        "  - hatchling",
    ]
    from_pip = []
    for requirement in [*project["dependencies"], *extras["slurm"], *extras["test"]]:
        name = re.match(r"[A-Za-z0-9_-]+", requirement)[0]
        if name in NOT_ON_CONDA:
            from_pip.append(requirement)
        else:
            lines.append(f"  - {CONDA_NAMES.get(name, name)} {requirement[len(name) :]}")
    lines += ["  - pip:", *(f"      - {requirement}" for requirement in from_pip)]
    return "\n".join(lines) + "\n"


def ldm151_page(root: Path) -> str:
    """Where each section of LDM-151 lives: rule, modules, tests."""
    with open(root / "docs" / "ldm151_sections.tsv", newline="") as file:
        titles = {row["section"]: row["title"] for row in csv.DictReader(file, delimiter="\t")}
    places = _places(root)
    lines = [
        "# LDM-151: where each section lives",
        "",
        "Written by `make generated` from the first line of every module and the comment above every rule; an empty row",
        "is not built yet.",
        "",
        "| section | title | rule | modules | tests |",
        "|---|---|---|---|---|",
    ]
    for section in sorted(titles.keys() | places.keys(), key=lambda text: [int(n) for n in text.split(".")]):
        found = places[section]
        tests = sorted({test for module in found["module"] if (test := _test_of(root, module))})
        cells = [" ".join(f"`{name}`" for name in cell) for cell in (found["rule"], found["module"], tests)]
        lines.append(f"| {section} | {titles.get(section, '')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _places(root: Path) -> dict[str, dict[str, list[str]]]:
    places: dict[str, dict[str, list[str]]] = defaultdict(lambda: {"rule": [], "module": []})
    for path in sorted((root / "rules").glob("*.smk")):
        for section, rule in _RULE.findall(path.read_text()):
            places[section]["rule"].append(rule)
    for path in sorted(PACKAGE.rglob("*.py")):
        doc = ast.get_docstring(ast.parse(path.read_text())) or ""
        if match := _SECTIONS.search(doc.splitlines()[0] if doc else ""):
            for section in re.findall(r"\d+(?:\.\d+)*", match[1]):
                places[section]["module"].append(path.relative_to(PACKAGE).as_posix())
    return places


def _test_of(root: Path, module: str) -> str:
    path = Path(module)
    name = path.parent.name if path.stem == "__init__" else path.stem
    folder = path.parent.parent if path.stem == "__init__" else path.parent
    for place in (folder, *folder.parents):
        test = root / "tests" / place / f"test_{name}.py"
        if test.is_file():
            return test.relative_to(root).as_posix()
    return ""


def products_page() -> str:
    """Data products: names, paths, sections, and the two-way table of names."""
    lines = [
        "# Data products",
        "",
        "Written by `make generated` from `io/products.py`. Paths are within the survey directory; `skyquilt get NAME",
        "field=value` finds and checks a file. Products marked *no* are removed by `skyquilt prune` once their readers are",
        "done.",
        "",
        "| name | section | path | kept in a release | what |",
        "|---|---|---|---|---|",
    ]
    for name, product in PRODUCTS.items():
        kept = "yes" if product.release else f"no (read by {', '.join(product.readers)})"
        lines.append(f"| {name} | {product.section} | `{product.template}` | {kept} | {product.doc} |")
    lines += ["", "## Names of Data Preview 2", "", "| Rubin's name | ours, of the last step |", "|---|---|"]
    lines += [f"| {published} | {name} |" for published, name in PUBLISHED.items()]
    lines += [
        "",
        "## Stages",
        "",
        "| LDM-151 | section | rule, script and section of the configuration |",
        "|---|---|---|",
    ]
    lines += [f"| {stage.title} | {stage.section} | {stage.name} |" for stage in STAGES.values()]
    return "\n".join(lines) + "\n"


def tables_page() -> str:
    """Columns of every table."""
    return schema_markdown(SCHEMAS, PLANNED).rstrip() + "\n"


def reasons_page() -> str:
    """Reason codes and their bits."""
    lines = [
        "# Reason codes",
        "",
        "Written by `make generated` from `primitives/failure.py`. They stand in manifests, in `visit_detector_table`",
        "(`reasonCode`) and, as bits, in the *why missing* map.",
        "",
        "| code | bit | meaning |",
        "|---|---|---|",
    ]
    lines += [f"| {reason.value} | {reason.bit} | {text} |" for reason, text in REASON_TEXTS.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write every generated file that differs."""
    root = skyquilt.production_root()
    for name, text in generated_files().items():
        path = root / name
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
            print(f"wrote {name}")


if __name__ == "__main__":
    main()
