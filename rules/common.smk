# Wildcard constraints and input functions. Nothing heavy is imported here: every SLURM job parses it twice.
import os
from pathlib import Path

from skyquilt.io.products import template
from skyquilt.workflow.calibration_kinds import KINDS
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


def registry_of(kind):
    """Input function: the registry's slice of a calibration of that kind."""
    return lambda wildcards: calibration_slice(kind, wildcards.calibration)


def used_by(kind):
    """Input function: manifests of the calibrations that one of that kind is made with."""

    def manifests(wildcards):
        return calibration_manifests(registry.calibrations(kind)[wildcards.calibration]["uses"])

    return manifests


def calibration_manifests(names):
    return [template(KINDS[kind].manifest, calibration=name) for kind in names for name in names[kind]]


def registry_of_chunk(wildcards):
    return chunk_slice(wildcards.chunk)


def calibrations_of_chunk(wildcards):
    return calibration_manifests(registry.chunks[wildcards.chunk]["calibrations"])


def planned_slices(wildcards):
    return [chunk_slice(chunk) for chunk in selected_chunks()]


def characterized_chunks(wildcards):
    return [template("bootstrap_chunk_manifest", chunk=chunk) for chunk in selected_chunks()]


def pictured_chunks(wildcards):
    return [template("visit_quality_chunk_manifest", chunk=chunk) for chunk in selected_chunks()]


def planned_calibrations(wildcards):
    return calibration_manifests(registry.needed_calibrations(selected_chunks()))


def planned_calibration_slices(wildcards):
    needed = registry.needed_calibrations(selected_chunks())
    return [calibration_slice(kind, name) for kind in needed for name in needed[kind]]


def everything(wildcards):
    """All manifests of the plan, intermediates too: Snakemake makes a missing one only when it is asked for.

    With tracts selected, the release-wide tables and pages are left as they are.
    """
    per_unit = [f(wildcards) for f in (planned_calibrations, characterized_chunks, pictured_chunks)]
    names = ("scorecard_manifest", "visit_tables_manifest", "quality_site_manifest")
    release = [] if config.get("tracts") else [template(name) for name in names]
    return [manifest for manifests in per_unit for manifest in manifests] + release
