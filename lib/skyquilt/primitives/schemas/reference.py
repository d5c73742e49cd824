"""Tables (LDM-151 5.1.1): columns of a reference catalogue in memory, whatever file it came from."""

from __future__ import annotations

from skyquilt.primitives.tables import Column, TableSchema

REFERENCE = TableSchema(
    name="reference_catalog",
    tap_name="",
    section="5.1.1",
    columns=(
        Column("refId", "i8", "", "Number of the star in its catalogue, or of its row there."),
        Column("ra", "f8", "deg", "Right ascension (ICRS) at epoch."),
        Column("dec", "f8", "deg", "Declination (ICRS) at epoch."),
        Column("raErr", "f8", "deg", "Error of ra times cos(dec), 1 sigma; NaN if unknown."),
        Column("decErr", "f8", "deg", "Error of dec, 1 sigma; NaN if unknown."),
        Column("pmRa", "f8", "mas/yr", "Proper motion in ra times cos(dec); NaN if unknown."),
        Column("pmDec", "f8", "mas/yr", "Proper motion in dec; NaN if unknown."),
        Column("pmRaErr", "f8", "mas/yr", "Error of pmRa, 1 sigma."),
        Column("pmDecErr", "f8", "mas/yr", "Error of pmDec, 1 sigma."),
        Column("parallax", "f8", "mas", "Parallax; NaN if unknown."),
        Column("parallaxErr", "f8", "mas", "Error of parallax, 1 sigma."),
        Column("epoch", "f8", "d", "Epoch of ra and dec, MJD, TAI; NaN if unknown."),
        Column(
            "isStar",
            "bool",
            "",
            "Whether the catalogue calls it a point source; null if it does not say.",
            nullable=True,
        ),
    ),
    band_columns=(
        Column("flux_{band}", "f8", "nJy", "Flux in band {band}; NaN if unknown."),
        Column("fluxErr_{band}", "f8", "nJy", "Error of flux_{band}, 1 sigma; NaN if unknown."),
    ),
)
"""One row per star, ordered by refId."""
