"""Measurement plugins (LDM-151 8.6.2): those of the library, a module per algorithm.

`BUILTIN` names them for the configuration.
"""

from __future__ import annotations

from skyquilt.algorithms.measurement.framework import Plugin
from skyquilt.algorithms.measurement.plugins.blendedness import Blendedness
from skyquilt.algorithms.measurement.plugins.centroids import Centroid, WindowCentroid
from skyquilt.algorithms.measurement.plugins.circular_apertures import CircularApertures
from skyquilt.algorithms.measurement.plugins.elliptical_apertures import EllipticalApertures
from skyquilt.algorithms.measurement.plugins.kron import Kron
from skyquilt.algorithms.measurement.plugins.local_sky import LocalSky
from skyquilt.algorithms.measurement.plugins.petrosian import Petrosian
from skyquilt.algorithms.measurement.plugins.pixel_flags import PixelFlags
from skyquilt.algorithms.measurement.plugins.point_source import PsfFlux
from skyquilt.algorithms.measurement.plugins.shapes import PsfShape, Shape
from skyquilt.algorithms.measurement.plugins.star_galaxy import Extendedness

BUILTIN: dict[str, type[Plugin]] = {
    plugin.name: plugin
    for plugin in (
        WindowCentroid,
        Centroid,
        PixelFlags,
        PsfShape,
        Shape,
        PsfFlux,
        CircularApertures,
        EllipticalApertures,
        Kron,
        Petrosian,
        LocalSky,
        Blendedness,
        Extendedness,
    )
}
"""The library's plugins by name, in their order."""
