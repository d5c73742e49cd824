"""Reference catalogues (LDM-151 5.1.1): tables of stars of any format, read by a map of their columns.

A map is a mapping as YAML gives it::

    path: reference/gaia_*.fits          # or a list; globs; relative to the map's directory
    columns:
      refId: source_id                   # leave out to number the rows
      ra: {column: ra, unit: degrees}    # degrees, radians, hourangle; text may be sexagesimal
      dec: dec
      raErr: {column: ra_error, unit: mas, cos_dec: true}
      pmRa: pmra                         # mas/yr unless it says otherwise
      isStar: {where: 'class == "STAR"'}
    epoch: {value: 2016.0, unit: jyear}  # or {column: ref_epoch, unit: mjd}
    bands:
      r: {magnitude: r_mag, error: r_mag_error, system: AB}
      i: {magnitude: i_mag, system: Vega, offset: 0.37, where: 'survey == "x"'}
      g: {flux: g_flux, error: g_flux_error, unit: Jy}
    filter: 'ruwe < 1.4 and phot_g_n_obs >= 8'

and, where the file needs it, ``format`` (else by suffix), ``extension`` (of a FITS file), ``names`` (columns
of a text file without a heading) and ``missing`` (numbers that stand for nothing, as 9999). Where a unit is
not given it is the file's, else degrees, and mas for errors, parallax and motions per year. Columns of
``REFERENCE`` come out; what the catalogue does not have is NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skyquilt.io.reference_catalog.column_map import ReferenceCatalogError, ReferenceCatalogMap
from skyquilt.io.reference_catalog.files import read_chunks
from skyquilt.io.reference_catalog.motion import positions_at
from skyquilt.io.reference_catalog.standard_form import standard_form
from skyquilt.primitives.schemas import REFERENCE

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ReferenceCatalogError", "ReferenceCatalogMap", "positions_at", "read_reference"]


def read_reference(catalog: ReferenceCatalogMap, ra: float, dec: float, radius_deg: float) -> pd.DataFrame:
    """Stars of a catalogue within a cone, in the standard form.

    The cut is on the catalogue's own positions: add to the radius what stars may have moved since. Rows
    without a position are left out.

    Parameters
    ----------
    catalog : ReferenceCatalogMap
        What to read and how.
    ra, dec : float
        Centre of the cone [deg, ICRS].
    radius_deg : float
        Radius of the cone [deg]; 180 reads all.

    Returns
    -------
    DataFrame
        Columns of `REFERENCE` for the map's bands, ordered by refId; no rows when no star is in the cone.

    Raises
    ------
    FileNotFoundError
        A path finds no file.
    ReferenceCatalogError
        A file cannot be read, lacks a column, or holds what its map does not say.
    """
    parts = []
    row = 0
    for path in catalog.files():
        for chunk in read_chunks(path, catalog):
            part = standard_form(chunk, catalog, row, (ra, dec, radius_deg))
            row += chunk.size
            if len(part):
                parts.append(part)
    schema = REFERENCE.for_bands(catalog.bands)
    stars = schema.concat(parts).drop_duplicates(["refId", "ra", "dec"])
    twice = stars["refId"][stars["refId"].duplicated()]
    if len(twice):
        raise ReferenceCatalogError(
            f"{catalog.where}.columns.refId: {len(twice)} numbers stand for several positions, as "
            f"{twice.iloc[0]}; leave refId out to number the rows"
        )
    return stars.sort_values("refId", kind="stable", ignore_index=True)
