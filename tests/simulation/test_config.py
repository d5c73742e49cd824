"""Options are checked at once, each with its text."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import textwrap
import typing

import pytest

from skyquilt.instrument import load_camera
from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.atmosphere import AtmosphereConfig
from skyquilt.simulation.optics import PlacementConfig
from skyquilt.simulation.point_spread import PointSpreadConfig
from skyquilt.simulation.sky.asteroids import AsteroidsConfig
from skyquilt.simulation.sky.galaxies import GalaxiesConfig
from skyquilt.simulation.sky.reference import ReferenceConfig
from skyquilt.simulation.sky.stars import ClusterConfig, StarsConfig
from skyquilt.simulation.sky.supernovae import SupernovaeConfig
from skyquilt.simulation.sky.variables import VariablesConfig
from skyquilt.simulation.wavefront import WavefrontConfig


def sections(cls=SimulationConfig):
    """The configuration's dataclass and those nested in it."""
    hints = typing.get_type_hints(cls)
    nested = [hints[f.name] for f in dataclasses.fields(cls) if dataclasses.is_dataclass(hints[f.name])]
    return [cls, *(part for child in nested for part in sections(child))]


@pytest.mark.parametrize("cls", sections(), ids=lambda cls: cls.__name__)
def test_every_option_has_its_text(cls):
    """Each field of each section of the configuration is followed by a docstring."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    for line, following in zip(body, [*body[1:], None]):
        if isinstance(line, ast.AnnAssign):
            assert isinstance(following, ast.Expr), line.target.id
            assert isinstance(ast.literal_eval(following.value), str), line.target.id


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_visits": -1}, "n_visits must not be negative"),
        ({"bands": ()}, "bands must name"),
        ({"bands": ("r", "w")}, "'w' is not one of"),
        ({"sky_brightness": {"r": 21.0}}, "sky_brightness has no value for band 'g'"),
        ({"seeing": (1.2, 0.8)}, "seeing must be two ascending numbers"),
        ({"airmass_limit": 0.5}, "airmass_limit at least 1"),
        ({"field_dec": 89.0}, "field_dec must be within 85 deg"),
        ({"field_ra": 360.0}, "field_ra must be in"),
        ({"rotations": ()}, "rotations must hold"),
        ({"exposure_time": 0.0}, "exposure_time must be positive"),
        ({"n_snaps": 3}, "n_snaps must be 1 or 2"),
        ({"nights": (0, 3, 3)}, "nights must be ascending"),
        ({"nights": ()}, "nights must be ascending"),
        ({"pair_minutes": -1.0}, "pair_minutes must not be negative"),
        ({"site_latitude": 91.0}, "site_latitude must be in"),
        ({"atmosphere": AtmosphereConfig(extinction={"r": 0.1})}, "extinction has no value for band 'g'"),
        ({"start_date": "tomorrow"}, "tomorrow"),
        ({"visits_per_night": 500}, "visits_per_night must be in 1..499"),
        ({"days_between_nights": 0}, "days_between_nights must be at least 1"),
    ],
)
def test_nonsense_is_refused(change, words):
    """A value that cannot be stops with the option's name and what was expected."""
    with pytest.raises(ValueError, match=re.escape(words)):
        SimulationConfig(**change)


@pytest.mark.parametrize(
    ("cls", "change", "words"),
    [
        (AtmosphereConfig, {"clouds": -1.0}, "clouds must not be negative"),
        (AtmosphereConfig, {"sky_gradient": 0.95}, "sky_gradient must be below 0.9"),
        (PointSpreadConfig, {"ellipticity": 0.5}, "ellipticity must be at most 0.2"),
        (PointSpreadConfig, {"optics_share": 0.95}, "optics_share must be below 0.9"),
        (PlacementConfig, {"offset": -1.0}, "offset and rotation must not be negative"),
        (StarsConfig, {"dust": -0.1}, "dust must not be negative"),
        (ClusterConfig, {"radius": 0.0}, "radius must be positive"),
        (VariablesConfig, {"flaring": -0.1}, "flaring must not be negative"),
        (GalaxiesConfig, {"slope": 0.0}, "slope must be positive"),
        (SupernovaeConfig, {"peak_days": (3.0, 1.0)}, "peak_days must be two ascending"),
        (AsteroidsConfig, {"linkable": 2.0}, "linkable must be in 0..1"),
        (AsteroidsConfig, {"main_belt": -1}, "main_belt must not be negative"),
        (ReferenceConfig, {"galaxies": 2.0}, "galaxies must be in 0..1"),
        (WavefrontConfig, {"obscuration": 1.0}, "obscuration must be in"),
    ],
)
def test_nonsense_in_a_section_is_refused(cls, change, words):
    """So it is for the options of each section."""
    with pytest.raises(ValueError, match=re.escape(words)):
        cls(**change)


@pytest.mark.parametrize("name", ["demo", "tiny", "accuracy"])
def test_templates_name_their_cameras_site(name):
    """The simulated telescope stands where the camera's definition says."""
    import pathlib

    import yaml

    import skyquilt

    root = pathlib.Path(skyquilt.__file__).parents[2] / "config"
    content = yaml.safe_load((root / f"{name}.yaml").read_text())
    place = load_camera(content["survey"]["camera"]).observatory
    options = content["simulation"]
    config = SimulationConfig(**{key: value for key, value in options.items() if key.startswith("site_")})
    said = (config.site_longitude, config.site_latitude, config.site_elevation)
    assert said == (place.longitude, place.latitude, place.elevation)
