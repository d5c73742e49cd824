"""Stands for the script of a stage that is not built yet: the graph names it, nothing ever runs it."""

raise SystemExit("a planned survey is only planned")
