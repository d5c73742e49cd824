"""Artifact Detection (LDM-151 8.2): what is in an image and did not come from the sky.

`cosmic_rays`         hits by their shape in one image (8.2.1), with `sharpness`, `star_widths`
`satellite_trails`    lines (8.2.2)
`ghosts`              reflections of bright stars (8.2.1)
`snaps`               what is in one snap of a visit only, and the sum of the snaps (8.2.3, 5.1.1.6, 5.1.1.7)
"""
