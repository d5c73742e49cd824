"""Simulation (design 7): truth as Parquet tables by their schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyquilt.primitives.schemas.truth import (
    AMPLIFIER_TRUTH,
    OBJECT_TRUTH,
    SOURCE_TRUTH,
    VISIT_DETECTOR_TRUTH,
    VISIT_TRUTH,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from skyquilt.primitives.tables import TableSchema

TRUTH_SCHEMAS = {
    schema.name: schema
    for schema in (SOURCE_TRUTH, OBJECT_TRUTH, VISIT_DETECTOR_TRUTH, VISIT_TRUTH, AMPLIFIER_TRUTH)
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
