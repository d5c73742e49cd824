"""Tables (LDM-151 9.2): the schemas of every table that Skyquilt writes."""

from __future__ import annotations

from skyquilt.primitives.schemas.reference import REFERENCE
from skyquilt.primitives.schemas.source import APERTURE_RADII, PIXEL_FLAGS, PLANNED_SOURCE, SOURCE
from skyquilt.primitives.schemas.truth import (
    AMPLIFIER_TRUTH,
    EVENT_TRUTH,
    OBJECT_TRUTH,
    PIXEL_TRUTH,
    PSF_TRUTH,
    SOURCE_TRUTH,
    VISIT_DETECTOR_TRUTH,
    VISIT_TRUTH,
)
from skyquilt.primitives.schemas.visit import PLANNED_VISIT_DETECTOR, VISIT, VISIT_DETECTOR

SCHEMAS = (
    SOURCE,
    VISIT,
    VISIT_DETECTOR,
    REFERENCE,
    SOURCE_TRUTH,
    OBJECT_TRUTH,
    VISIT_DETECTOR_TRUTH,
    VISIT_TRUTH,
    AMPLIFIER_TRUTH,
    EVENT_TRUTH,
    PIXEL_TRUTH,
    PSF_TRUTH,
)
"""Every schema, in the order of the page of tables."""

PLANNED = (PLANNED_SOURCE, PLANNED_VISIT_DETECTOR)
"""Columns of the products above that are not measured yet."""

__all__ = [
    "AMPLIFIER_TRUTH",
    "APERTURE_RADII",
    "EVENT_TRUTH",
    "OBJECT_TRUTH",
    "PIXEL_FLAGS",
    "PIXEL_TRUTH",
    "PLANNED",
    "PSF_TRUTH",
    "REFERENCE",
    "SCHEMAS",
    "SOURCE",
    "SOURCE_TRUTH",
    "VISIT",
    "VISIT_DETECTOR",
    "VISIT_DETECTOR_TRUTH",
    "VISIT_TRUTH",
]
