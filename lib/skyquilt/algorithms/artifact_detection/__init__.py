"""Artifact Detection (LDM-151 8.2)."""
