"""Configuration: typed, layered, and refused with a word that helps."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from skyquilt.workflow import config
from skyquilt.workflow.config import (
    ConfigurationError,
    build,
    check_sections,
    default_yaml,
    field_docs,
    from_mapping,
)


@dataclass(frozen=True)
class Inner:
    """Inner options."""

    order: int = 2
    """Order of the fit."""


@dataclass(frozen=True)
class Outer:
    """Outer options."""

    threshold: float = 5.0
    """Threshold [sigma]."""

    planes: tuple[str, ...] = ("BAD",)
    """Planes left out."""

    kind: Literal["mean", "median"] = "mean"
    """How to combine."""

    limit: float | None = None
    """Limit, or none."""

    inner: Inner = field(default_factory=Inner)
    """Inner."""

    def __post_init__(self):
        if self.threshold <= 0:
            raise ValueError(f"threshold must be positive, got {self.threshold}")


@pytest.fixture
def outer(monkeypatch):
    """A section `outer` of the class above."""
    monkeypatch.setattr(config, "section_class", lambda name: Outer)


def test_later_layers_win_option_by_option(outer):
    """A camera sets one option, the survey another; the rest are defaults."""
    camera = ({"outer": {"threshold": 4, "inner": {"order": 3}}}, "camera x")
    survey = ({"outer": {"planes": ["BAD", "SATURATED"], "threshold": "1e1"}}, "survey.yaml")
    assert build("outer", camera, survey) == Outer(10.0, ("BAD", "SATURATED"), "mean", None, Inner(3))
    assert build("outer") == Outer()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"treshold": 4}, "survey.yaml: outer.treshold: no such option; did you mean threshold?"),
        ({"inner": {"ordr": 4}}, "survey.yaml: outer.inner.ordr: no such option; did you mean order?"),
        ({"zzz": 4}, "no such option; there are inner, kind, limit, planes, threshold"),
        ({"threshold": "high"}, "survey.yaml: outer.threshold: expected float, got 'high'"),
        ({"inner": 3}, "survey.yaml: outer.inner: expected options, found 3"),
        ({"inner": {"order": 2.5}}, "survey.yaml: outer.inner.order: expected int, got 2.5"),
        ({"inner": {"order": True}}, "survey.yaml: outer.inner.order: expected int, got True"),
        ({"kind": "mode"}, "outer.kind: expected one of mean, median, got 'mode'"),
        ({"planes": 3}, "outer.planes: expected a list, got 3"),
        ({"threshold": -1}, "survey.yaml: outer: threshold must be positive, got -1.0"),
    ],
)
def test_a_wrong_option_says_where_what_and_how_to_mend(outer, values, message):
    """Unknown keys come with a suggestion, wrong types with what was expected, each with the file it stands in."""
    with pytest.raises(ConfigurationError) as error:
        build("outer", ({"outer": values}, "survey.yaml"))
    assert message in str(error.value)


def test_unknown_sections_are_refused():
    """A misspelt section would otherwise be ignored silently."""
    with pytest.raises(
        ConfigurationError, match="bootstrap_imchar: no such section; did you mean bootstrap_im_char"
    ):
        check_sections({"bootstrap_imchar": {}}, "survey.yaml")


def test_from_mapping_inverts_as_plain():
    """A dataclass survives JSON."""
    value = Outer(7.0, (), "median", 3.0, Inner(5))
    assert from_mapping(Outer, config.as_plain(value), "outer", {}) == value


@pytest.mark.parametrize("name", config.SECTIONS)
def test_every_option_is_documented_where_it_is_defined(name):
    """Each field of each stage's dataclass has its docstring, nested ones too, and the default builds."""
    import dataclasses
    import typing

    def check(cls):
        docs, hints = field_docs(cls), typing.get_type_hints(cls)
        for each in dataclasses.fields(cls):
            assert docs.get(each.name), f"{cls.__name__}.{each.name} has no docstring"
            if dataclasses.is_dataclass(hints[each.name]):
                check(hints[each.name])

    check(config.section_class(name))
    build(name)


def test_default_yaml_is_the_defaults():
    """Reading config/default.yaml back gives the dataclasses' own defaults."""
    import yaml

    layer = yaml.safe_load(default_yaml())
    check_sections(layer, "default.yaml")
    for name in config.SECTIONS:
        assert build(name, (layer, "default.yaml")) == build(name)
