"""Skyquilt: survey processing after LDM-151. `skyquilt run` calls this; so can plain `snakemake`, after an ingest."""

from snakemake.utils import min_version

min_version("9.27")


include: "rules/common.smk"
include: "rules/calibration.smk"
include: "rules/image_characterization.smk"
include: "rules/postprocessing.smk"
include: "rules/quality.smk"


rule all:
    default_target: True
    input:
        everything,
