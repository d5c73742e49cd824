"""Workflow: all that knows of Snakemake, and the command line (design 2 and 3)."""
