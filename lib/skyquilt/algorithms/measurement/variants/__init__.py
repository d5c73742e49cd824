"""Variants (LDM-151 8.6.1): the drivers of measurement, one module per context."""
