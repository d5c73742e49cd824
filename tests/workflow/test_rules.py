"""Rules, scripts and stages agree; Snakemake's own lint has nothing new to say."""

import ast
import os
import re
import subprocess
import sys

import pytest

import skyquilt
from skyquilt.io.products import PRODUCTS, template
from skyquilt.workflow.config import SECTIONS
from skyquilt.workflow.stages import STAGES, unroll

ROOT = skyquilt.production_root()
RULES = {
    match[1]: text
    for path in sorted((ROOT / "rules").glob("*.smk"))
    for text in re.split(r"\n(?=# [\d.]+\nrule )", "\n" + path.read_text())
    if (match := re.search(r"^rule (\w+):", text, re.MULTILINE))
}
# a pip installation is the environment: rules need none of their own
ACCEPTED = "* Specify a conda environment or container for each rule.:"


def test_every_stage_is_a_rule_a_script_and_a_section():
    """One name for all four, so that grep finds them."""
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert set(STAGES) == set(RULES) == scripts
    assert set(STAGES) <= set(SECTIONS)


@pytest.mark.parametrize("name", STAGES)
def test_a_rule_keeps_the_contract(name):
    """Its own stage file goes in, its one manifest comes out, its log is where progress looks for it."""
    text, stage = RULES[name], STAGES[name]
    assert f'stage="stage/{name}.json"' in text
    assert f'manifest=template("{stage.manifest}")' in text
    assert template(stage.manifest).endswith("/manifest.json")
    assert f'"logs/{name}/' in text
    assert f'"../scripts/{name}.py"' in text
    assert text.strip().startswith(f"# {stage.section}\n")
    assert PRODUCTS[stage.manifest].section == stage.section


@pytest.mark.parametrize("name", STAGES)
def test_a_script_is_a_thin_joint(name):
    """It carries its section, ends with run(main, globals()), and imports no other script."""
    text = (ROOT / "scripts" / f"{name}.py").read_text()
    assert STAGES[name].section in ast.get_docstring(ast.parse(text))
    assert text.rstrip().endswith("run(main, globals())")
    assert "scripts" not in text
    assert text.count("\n") < 150


def test_common_imports_nothing_heavy():
    """Parsing the Snakefile, which a SLURM job does twice, loads none of numpy, pandas, astropy, numba."""
    code = (
        "import sys\nimport skyquilt.io.products, skyquilt.workflow.registry\n"
        "print(sorted({'numpy', 'pandas', 'astropy', 'numba', 'pyarrow', 'scipy'} & set(sys.modules)))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_lint(tmp_path):
    """`snakemake --lint` finds nothing but what is accepted above."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--lint"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "SKYQUILT_FRESH": "1"},
    )
    findings = re.findall(r"^\s+\* .*$", done.stderr + done.stdout, re.MULTILINE)
    assert "Lints for rule combine_bias" in done.stderr + done.stdout
    assert {finding.strip() for finding in findings} == {ACCEPTED}


def test_formatted():
    """snakefmt would change nothing."""
    command = [sys.executable, "-m", "snakefmt", "--check", "Snakefile", "rules"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_steps_unroll_into_a_chain():
    """Each step starts from the one before it; only the first is per visit."""
    steps = unroll(["bootstrap_im_char", "joint_cal", "refine_im_char", "joint_cal", "final_im_char"])
    assert [s.name for s in steps] == ["bootstrap", "joint_cal1", "refine1", "joint_cal2", "final1"]
    assert [s.previous for s in steps] == [None, "bootstrap", "joint_cal1", "refine1", "joint_cal2"]
    assert [s.per_tract for s in steps] == [False, True, True, True, True]
    with pytest.raises(ValueError, match="must begin"):
        unroll(["joint_cal"])
    with pytest.raises(ValueError, match="must begin"):
        unroll(["bootstrap_im_char", "bootstrap_im_char"])
