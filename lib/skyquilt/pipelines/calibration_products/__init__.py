"""Calibration Products Production (LDM-151 4.1.2): what is measured of each detector, a module per product."""
