"""Code digests follow meaning."""

import textwrap

import pytest

from skyquilt.workflow import code


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library of four modules: the script uses `algorithms.a`, which uses `primitives.p`; nobody uses `algorithms.b`."""
    package = tmp_path / "skyquilt"
    for layer in ("primitives", "algorithms", "workflow"):
        (package / layer).mkdir(parents=True)
        (package / layer / "__init__.py").write_text('"""Layer."""\n')
    (package / "primitives" / "p.py").write_text("def one():\n    return 1\n")
    (package / "algorithms" / "a.py").write_text(
        "def two():\n    from skyquilt.primitives.p import one\n    return one() + 1\n"
    )
    (package / "algorithms" / "b.py").write_text("X = 3\n")
    (package / "workflow" / "job.py").write_text("Y = 3\n")
    script = tmp_path / "script.py"
    script.write_text(
        "from skyquilt.algorithms.a import two\nfrom skyquilt.workflow.job import Y\nprint(two())\n"
    )
    monkeypatch.setattr(code, "PACKAGE", package)

    def digest():
        code.syntax_digest.cache_clear()
        code.imported_modules.cache_clear()
        return code.stage_code_digest(script)

    yield package, script, digest
    code.syntax_digest.cache_clear()
    code.imported_modules.cache_clear()


def test_comments_docstrings_and_layout_change_nothing(library):
    """The digest is of the syntax tree alone."""
    package, script, digest = library
    before = digest()
    (package / "primitives" / "p.py").write_text(
        textwrap.dedent('''
        """A docstring."""


        def one():
            """One."""
            # a reason
            return (1)
        ''')
    )
    script.write_text("# joint\n" + script.read_text())
    assert digest() == before


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("primitives/p.py", "def one():\n    return 2\n"),
        ("algorithms/a.py", "def two():\n    from skyquilt.primitives.p import one\n    return one() + 2\n"),
        ("algorithms/__init__.py", "Z = 1\n"),
    ],
)
def test_a_change_of_meaning_anywhere_under_the_script_is_seen(library, place, text):
    """Also in modules imported inside functions, through others, and in package files."""
    package, _, digest = library
    before = digest()
    (package / place).write_text(text)
    assert digest() != before


@pytest.mark.parametrize("place", ["algorithms/b.py", "workflow/job.py"])
def test_what_the_script_does_not_use_or_what_only_runs_it_is_not_seen(library, place):
    """Another algorithm, or the workflow layer, does not make a product stale."""
    package, _, digest = library
    before = digest()
    (package / place).write_text("W = 99\n")
    assert digest() == before


def test_real_scripts_depend_on_what_they_use():
    """BootstrapImChar depends on background estimation, the combined bias does not."""
    import skyquilt

    scripts = skyquilt.production_root() / "scripts"
    assert "skyquilt.algorithms.background_estimation" in code.library_modules(
        scripts / "bootstrap_im_char.py"
    )
    assert "skyquilt.algorithms.background_estimation" not in code.library_modules(
        scripts / "combine_bias.py"
    )
