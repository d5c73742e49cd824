"""The table of products: templates, paths and their inverse agree."""

from pathlib import Path

import pytest

from skyquilt.io.products import PRODUCTS, PUBLISHED, identify, path, template, unit_fields

UNIT = {
    "visit": 260101001,
    "detector": 7,
    "chunk": "260101001",
    "calibration": "demo_r-20260101",
    "tract": 3,
    "patch": 9,
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_path_says_what_it_is(name):
    """The product and unit that made a path are found again from it."""
    unit = {field: UNIT[field] for field in unit_fields(name)}
    found = identify(path(name, **unit).as_posix())
    assert found is not None
    assert found[0] == name
    assert {k: str(v) for k, v in found[1].items()} == {k: str(v) for k, v in unit.items()}


def test_templates_are_what_paths_fill_in():
    """A rule's template filled by Snakemake is the path of the product."""
    assert template("bootstrap_chunk_manifest") == "imchar/bootstrap/chunk_{chunk}/manifest.json"
    for name in PRODUCTS:
        unit = {field: UNIT[field] for field in unit_fields(name)}
        if "{detector" not in template(name):
            assert Path(template(name, **unit)) == path(name, **unit)


def test_wrong_units_are_refused():
    """A missing or unknown field is an error that names what is needed."""
    with pytest.raises(ValueError, match="needs visit, detector; got visit"):
        path("preliminary_visit_image", visit=1)
    with pytest.raises(KeyError):
        path("no_such_product")
    assert identify("somewhere/else.txt") is None


def test_published_names_are_products():
    """Each name of Data Preview 2 leads to a product of the last step."""
    assert set(PUBLISHED.values()) <= set(PRODUCTS)
