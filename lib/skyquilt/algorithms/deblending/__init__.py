"""Deblending (LDM-151 8.5): the light of footprints with several peaks shared among their sources."""

from skyquilt.algorithms.deblending.deblended import Deblended
from skyquilt.algorithms.deblending.single_frame import SingleFrameDeblendingConfig, deblend_sources

__all__ = ["Deblended", "SingleFrameDeblendingConfig", "deblend_sources"]
