"""Algorithmic components (LDM-151 8): pure functions over arrays and primitives, one module per component."""
