"""Pipelines (LDM-151 3-5): one module per pipeline, named as in the document."""
