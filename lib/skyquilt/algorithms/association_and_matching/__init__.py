"""Association and Matching (LDM-151 8.24)."""
