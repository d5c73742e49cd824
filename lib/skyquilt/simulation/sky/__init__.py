"""Simulation (design 7): the known sky, and a reference catalogue drawn from it."""

from skyquilt.simulation.sky.catalogue import Sky, simulate_sky
from skyquilt.simulation.sky.reference import REFERENCE_BANDS, reference_catalogue, write_reference
from skyquilt.simulation.sky.truth import object_truth

__all__ = ["REFERENCE_BANDS", "Sky", "object_truth", "reference_catalogue", "simulate_sky", "write_reference"]
