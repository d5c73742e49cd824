# Wildcard constraints and input functions. Nothing heavy is imported here: every SLURM job parses it twice.
import os
from pathlib import Path

from skyquilt.io.products import template
from skyquilt.workflow.registry import UNUSABLE, Registry, calibration_slice, chunk_slice

# processes are the parallelism: libraries must not start threads of their own in every worker
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

if workflow.is_main_process and "SKYQUILT_FRESH" not in os.environ:
    from skyquilt.workflow.survey import require_fresh

    require_fresh(Path.cwd())

registry = Registry(Path.cwd())


wildcard_constraints:
    visit=r"\d+",
    chunk=r"\d+",
    tract=r"\d+",
    patch=r"\d+",
    calibration=r"[A-Za-z0-9_.+-]+",


def selected_chunks():
    """Chunks of the tracts given with --config tracts=[...], else of the whole survey."""
    return registry.selected_chunks(config.get("tracts"))


def threads_per_job(wildcards):
    return registry.execution("threads_per_job")


def execution(wildcards):
    """Options that a job needs to know; a profile may pin the CPU level where the survey does not."""
    options = {name: registry.execution(name) for name in ("max_failed_fraction", "cpu_level")}
    return {**options, "cpu_level": options["cpu_level"] or config.get("cpu_level", "")}


def registry_of_bias(wildcards):
    return calibration_slice("bias", wildcards.calibration)


def registry_of_flat(wildcards):
    return calibration_slice("flat", wildcards.calibration)


def bias_of_flat(wildcards):
    bias = registry.calibrations("flat")[wildcards.calibration]["bias"]
    return template("bias_manifest", calibration=bias) if bias else []


def registry_of_chunk(wildcards):
    return chunk_slice(wildcards.chunk)


def biases_of_chunk(wildcards):
    return [template("bias_manifest", calibration=name) for name in registry.chunks[wildcards.chunk]["bias"]]


def flats_of_chunk(wildcards):
    return [template("flat_manifest", calibration=name) for name in registry.chunks[wildcards.chunk]["flat"]]


def characterized_chunks(wildcards):
    return [template("bootstrap_chunk_manifest", chunk=chunk) for chunk in selected_chunks()]


def pictured_chunks(wildcards):
    return [template("visit_quality_chunk_manifest", chunk=chunk) for chunk in selected_chunks()]


def planned_biases(wildcards):
    return [template("bias_manifest", calibration=name) for name in registry.needed_biases(selected_chunks())]


def planned_flats(wildcards):
    return [template("flat_manifest", calibration=name) for name in registry.needed_flats(selected_chunks())]


def everything(wildcards):
    """All manifests of the plan, intermediates too: Snakemake makes a missing one only when it is asked for.

    With tracts selected, the release-wide tables and pages are left as they are.
    """
    per_unit = [f(wildcards) for f in (planned_biases, planned_flats, characterized_chunks, pictured_chunks)]
    names = ("scorecard_manifest", "visit_tables_manifest", "quality_site_manifest")
    release = [] if config.get("tracts") else [template(name) for name in names]
    return [manifest for manifests in per_unit for manifest in manifests] + release
