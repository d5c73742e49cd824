"""Measurement (LDM-151 8.6): numbers per source from pixels, one module per algorithm of 8.6.2.

All work on plain arrays: image [electron] with the background subtracted, variance [electron^2], and `bad`,
true for pixels that must not be used. Positions are pixels of those arrays.
"""
