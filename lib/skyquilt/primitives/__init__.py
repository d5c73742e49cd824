"""Software primitives (LDM-151 9): what every algorithm stands on."""
