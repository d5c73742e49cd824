"""Astrometric Fitting (LDM-151 8.13): the WCS of a visit from its matches."""
