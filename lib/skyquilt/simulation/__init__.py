"""Simulation (design 7): raws of a known sky through a known camera, with the truth.

`simulate_survey(config, camera, directory, map)` makes a survey. Nothing of the pipeline's WCS, PSF, warping
or background code is used.
"""

from skyquilt.simulation.config import SimulationConfig
from skyquilt.simulation.survey import simulate_survey

__all__ = ["SimulationConfig", "simulate_survey"]
