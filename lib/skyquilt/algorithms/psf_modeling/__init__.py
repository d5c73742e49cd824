"""FitPSF (LDM-151 5.1.1.16, 8.9 to 8.11): the PSF of a visit from its stars."""
