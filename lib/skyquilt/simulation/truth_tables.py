"""Simulation (design 7): truth as Parquet tables by their schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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

if TYPE_CHECKING:
    import pyarrow as pa

    from skyquilt.primitives.tables import TableSchema
    from skyquilt.simulation.detector_effects import ChargeEvent, TrueAmplifier

TRUTH_SCHEMAS = {
    schema.name: schema
    for schema in (
        SOURCE_TRUTH,
        OBJECT_TRUTH,
        VISIT_DETECTOR_TRUTH,
        VISIT_TRUTH,
        AMPLIFIER_TRUTH,
        EVENT_TRUTH,
        PIXEL_TRUTH,
        PSF_TRUTH,
    )
}

_ARROW_TYPES = {"str": "string", "bool": "bool", "f4": "float32", "f8": "float64"}


def write_truth(directory: Path, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Write `<name>.parquet` for each table of truth.

    Parameters
    ----------
    tables : mapping of schema name to columns
        A table without columns is written empty.

    Raises
    ------
    TableError
        When columns are missing, extra or of the wrong type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, columns in tables.items():
        family = TRUTH_SCHEMAS[name]
        frame = family.conform(columns) if columns else family.empty()
        schema = family.resolved(frame.columns)
        arrow = _arrow_schema(schema)
        arrays = [pa.array(frame[f.name].to_numpy(), type=f.type, from_pandas=False) for f in arrow]
        pq.write_table(pa.Table.from_arrays(arrays, schema=arrow), directory / f"{name}.parquet")


FrameEvents = tuple[int, int, int, tuple["ChargeEvent", ...]]
"""Visit, snap, detector and what happened in that frame."""


def event_columns(frames: Sequence[FrameEvents]) -> dict[str, Any]:
    """Columns of EVENT_TRUTH; empty without events."""
    rows = [(*unit, event) for *unit, events in frames for event in events]
    if not rows:
        return {}
    events = [row[3] for row in rows]
    ends = np.array([event.ends for event in events])
    return {
        "visit": [row[0] for row in rows],
        "snap": [row[1] for row in rows],
        "detector": [row[2] for row in rows],
        "kind": [event.kind for event in events],
        "event": [event.event for event in events],
        "peakElectrons": [event.electrons.max() for event in events],
        "peakSnr": [event.peak_snr for event in events],
        "nPixels": [event.x.size for event in events],
        "surfaceBrightness": [event.surface_brightness for event in events],
        "width": [event.width for event in events],
        **{name: ends[:, k] for k, name in enumerate(("x0", "y0", "x1", "y1"))},
    }


def pixel_columns(frames: Sequence[FrameEvents]) -> dict[str, Any]:
    """Columns of PIXEL_TRUTH; empty without events."""
    rows = [(*unit, event) for *unit, events in frames for event in events]
    if not rows:
        return {}
    events = [row[3] for row in rows]
    lengths = [event.x.size for event in events]
    kinds = np.empty(len(events), dtype=object)
    kinds[:] = [event.kind for event in events]
    return {
        "visit": np.repeat([row[0] for row in rows], lengths),
        "snap": np.repeat([row[1] for row in rows], lengths),
        "detector": np.repeat([row[2] for row in rows], lengths),
        "kind": np.repeat(kinds, lengths),
        "event": np.repeat([event.event for event in events], lengths),
        "x": np.concatenate([event.x for event in events]),
        "y": np.concatenate([event.y for event in events]),
        "electrons": np.concatenate([event.electrons for event in events]),
    }


def amplifier_columns(amplifiers: Sequence[tuple[int, TrueAmplifier]]) -> dict[str, Any]:
    """Columns of AMPLIFIER_TRUTH for amplifiers of given detectors."""
    truths = [a for _, a in amplifiers]
    return {
        "detector": [d for d, _ in amplifiers],
        "amplifier": [a.definition.name for a in truths],
        "gain": [a.gain for a in truths],
        "readNoise": [a.read_noise for a in truths],
        "saturationAdu": [float(a.saturation_adu) for a in truths],
        "fullWell": [a.full_well for a in truths],
        "biasLevel": [a.bias_level for a in truths],
        "linearityLoss": [a.curve.loss for a in truths],
        "linearityKnee": [a.curve.knee for a in truths],
        "linearityWave": [a.curve.wave for a in truths],
        "linearityWaves": [a.curve.waves for a in truths],
        "linearityScale": [a.curve.scale for a in truths],
    }


def _arrow_schema(schema: TableSchema) -> pa.Schema:
    """Types, and units and descriptions where the production's own tables have them."""
    import pyarrow as pa

    fields = []
    for column in schema.columns:
        kind = _ARROW_TYPES.get(column.dtype) or f"int{8 * int(column.dtype[1])}"
        about = {"unit": column.unit, "description": column.doc}
        fields.append(pa.field(column.name, pa.type_for_alias(kind), nullable=False, metadata=about))
    about = {
        "skyquilt.schema": schema.name,
        "skyquilt.tap_name": schema.tap_name,
        "skyquilt.section": schema.section,
        "skyquilt.version": schema.version,
        "skyquilt.provenance": json.dumps({}),
    }
    return pa.schema(fields, metadata=about)
