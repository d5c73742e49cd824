"""Pages of the quality site (LDM-151 6.2.1): markup, charts, style and script; numbers come from elsewhere.

Style and script are Python texts, so that the code digest of the stage covers them.
"""
