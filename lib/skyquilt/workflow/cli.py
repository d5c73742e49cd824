"""The command line `skyquilt` (design 3)."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from skyquilt import __version__
from skyquilt.workflow.config import ConfigurationError, load_survey
from skyquilt.workflow.registry import Registry, RegistryError

SIMULATED = "simulated"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 something failed, 2 the user must mend something."""
    options = build_parser().parse_args(arguments)
    try:
        if getattr(options, "survey", None) is not None:
            load_survey(options.survey)
        return options.function(options)
    except _user_errors() as error:
        print(f"skyquilt: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # the reader of our output (head, less) went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="skyquilt", description="Survey processing: raw frames to a release."
    )
    parser.add_argument("--version", action="version", version=f"skyquilt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_making(commands)
    _add_asking(commands)
    return parser


def _add_making(commands: argparse._SubParsersAction) -> None:
    init = _command(commands, "init", _init, "make a survey directory", survey=False)
    init.add_argument("directory", type=Path, help="where to make it; must not hold a survey yet")
    init.add_argument("--template", default="blank", help="blank, or a shipped survey: demo, tiny, accuracy")
    init.add_argument("--camera", default="", help="name of a shipped camera, or path of its YAML")
    init.add_argument("--raw", nargs="*", default=[], help="directories or patterns of raw frames")
    _command(
        commands, "simulate", _simulate, "make the raw frames and truth of a simulated survey", cores=True
    )
    _command(commands, "ingest", _ingest, "read raw headers into the registry", cores=True)
    run = _command(
        commands, "run", _run, "ingest, then make everything that is missing or stale", cores=True, graph=True
    )
    run.add_argument(
        "--verify", action="store_true", help="compare every checksum first, not only sizes and times"
    )
    run.add_argument(
        "--snakemake", default="", help='further options for snakemake, as in --snakemake="--dry-run"'
    )
    prune = _command(commands, "prune", _prune, "remove files that nothing to come needs")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    _command(commands, "warm", _warm, "compile all kernels into the cache", survey=False)


def _add_asking(commands: argparse._SubParsersAction) -> None:
    _command(commands, "status", _status, "how far the production is", tract=True)
    get = _command(commands, "get", _get, "path of a product, or a look at it", survey=False)
    get.add_argument("product", help="such as source, visit_image, bias, visit_table")
    get.add_argument("unit", nargs="*", help="data unit, such as visit=260101001 detector=2")
    get.add_argument("--survey", type=Path, default=Path(), help="survey directory (default: this one)")
    get.add_argument("--show", action="store_true", help="print the head of a table, the HDUs of an image")
    why = _command(commands, "why", _why, "chain of a file or source back to the raws", survey=False)
    why.add_argument("what", help="a file of the survey, or a source id")
    why.add_argument("--survey", type=Path, default=Path(), help="survey directory (default: this one)")
    verify = _command(commands, "verify", _verify, "compare all products with their manifests")
    verify.add_argument("--quick", action="store_true", help="sizes and times only")
    verify.add_argument("--keep", action="store_true", help="only report; set nothing aside")
    _command(commands, "plan", _plan, "what a run would do", cores=True, graph=True)
    camera = commands.add_parser("camera", help="camera definitions", description="Camera definitions.")
    of_camera = camera.add_subparsers(dest="camera_command", required=True, metavar="COMMAND")
    check = _command(
        of_camera, "check", _check_camera, "compare raw frames with a camera definition", survey=False
    )
    check.add_argument("raw", type=Path, nargs="+", help="raw frames: bias, flat, science, in any mixture")
    check.add_argument(
        "--camera", default="", help="name of a shipped camera, or path of a YAML; none: a first look"
    )
    check.add_argument(
        "--reference", type=Path, help="table with ra, dec, mag of stars, for orientation and scale"
    )
    _command(commands, "scorecard", _scorecard, "print the scorecard")


def _command(
    commands: argparse._SubParsersAction,
    name: str,
    function: object,
    help_: str,
    *,
    survey: bool = True,
    cores: bool = False,
    graph: bool = False,
    tract: bool = False,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_, description=help_[0].upper() + help_[1:] + ".")
    parser.set_defaults(function=function)
    if survey:
        parser.add_argument(
            "survey", type=Path, nargs="?", default=Path(), help="survey directory (default: this one)"
        )
    if cores:
        parser.add_argument(
            "--cores", type=int, default=_cores(), help="processes (default: all of this machine)"
        )
    if graph:
        parser.add_argument("--profile", default="default", help="default (this machine), slurm, or your own")
    if graph or tract:
        parser.add_argument(
            "--tract", type=int, action="append", default=[], help="only this tract; may be repeated"
        )
    return parser


def _init(options: argparse.Namespace) -> int:
    from skyquilt.workflow.template import make_survey

    path = make_survey(options.directory, options.template, options.camera, options.raw)
    first = "" if options.template == "blank" else f"skyquilt simulate {options.directory}; "
    print(f"{path}: look it over, then type: {first}skyquilt run {options.directory}")
    return 0


def _simulate(options: argparse.Namespace) -> int:
    from skyquilt.simulation import simulate_survey
    from skyquilt.workflow.pool import Pool
    from skyquilt.workflow.survey import Survey

    survey = Survey(options.survey)
    target = survey.root / SIMULATED
    if target.exists():
        raise ConfigurationError(f"{target}: is there already; remove it to simulate anew")
    config = survey.config("simulation")
    with Pool(options.cores) as pool:
        simulate_survey(config, survey.camera, target, pool.map)
    print(f"simulated raw frames, reference and truth are in {target}")
    return 0


def _ingest(options: argparse.Namespace) -> int:
    from skyquilt.workflow.run import prepare, run_lock
    from skyquilt.workflow.survey import Survey

    survey = Survey(options.survey)
    with run_lock(survey.root):
        prepare(survey, options.cores, print)
    return 0


def _run(options: argparse.Namespace) -> int:
    from skyquilt.workflow.run import run

    code = run(
        options.survey.resolve(),
        cores=options.cores,
        profile=options.profile,
        tracts=options.tract,
        full_verify=options.verify,
        extra=shlex.split(options.snakemake),
        say=lambda text: print(text, flush=True),
    )
    print(_progress(options.survey, options.tract))
    page = options.survey / "quality" / "site" / "index.html"
    if code == 0 and page.is_file() and not options.tract:
        print(f"look at it: {page}")
    return 1 if code else 0


def _status(options: argparse.Namespace) -> int:
    print(_progress(options.survey, options.tract))
    return 0


def _progress(root: Path, tracts: list[int]) -> str:
    from skyquilt.workflow.progress import progress_table, survey_progress

    return progress_table(survey_progress(root.resolve(), tracts or None))


def _get(options: argparse.Namespace) -> int:
    from skyquilt.workflow.get import describe, find

    paths = find(options.survey, options.product, options.unit)
    for path in paths:
        print(describe(path) if options.show else path)
    return 0


def _why(options: argparse.Namespace) -> int:
    from skyquilt.workflow.why import chain_of

    for line in chain_of(options.survey, options.what):
        print(line)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from skyquilt.workflow.verify import find_manifests, verify

    root = options.survey.resolve()
    count = sum(1 for _ in find_manifests(root))
    found = verify(root, full=not options.quick, mend=not options.keep)
    for name, problem in found.items():
        print(f"{name} {problem}")
    verb = "found" if options.keep else "set aside; the next run makes them again"
    print(f"{count} manifests; " + (f"{len(found)} problems {verb}" if found else "all products are whole"))
    return 1 if found else 0


def _check_camera(options: argparse.Namespace) -> int:
    from skyquilt.instrument import load_camera
    from skyquilt.instrument.camera_check import check
    from skyquilt.primitives.failure import ProcessingFailure

    camera = None
    if options.camera:
        file = Path(options.camera)
        camera = load_camera(file if file.is_file() else options.camera)
    try:
        report = check(options.raw, camera, options.reference)
    except ProcessingFailure as failure:
        raise ConfigurationError(failure.detail or failure.reason.text) from failure
    print(report.text())
    return 0 if report.good else 1


def _plan(options: argparse.Namespace) -> int:
    from skyquilt.workflow.plan import plan_table, planned_jobs
    from skyquilt.workflow.run import prepare, run_lock
    from skyquilt.workflow.survey import Survey

    survey = Survey(options.survey)
    with run_lock(survey.root):
        prepare(survey, options.cores, print)
    Registry(survey.root).selected_chunks(options.tract)
    jobs = planned_jobs(survey.root, options.cores, options.profile, options.tract)
    print(plan_table(jobs, survey.root, options.tract))
    return 0


def _prune(options: argparse.Namespace) -> int:
    from skyquilt.workflow.run import run_lock
    from skyquilt.workflow.verify import prunable, prune

    root = options.survey.resolve()
    with run_lock(root):
        members = prunable(root)
        size = sum(size for _, _, size in members) if options.dry_run else prune(root, members)
    print(
        f"{len(members)} files, {size} bytes {'could be' if options.dry_run else 'were'} removed; manifests stay"
    )
    return 0


def _warm(options: argparse.Namespace) -> int:
    from skyquilt.workflow.warm import warm

    print(warm())
    return 0


def _scorecard(options: argparse.Namespace) -> int:
    from skyquilt.io.products import path
    from skyquilt.quality.scorecard import format_scorecard

    file = path("scorecard", options.survey)
    if not file.is_file():
        raise ConfigurationError(f"{file}: no scorecard yet; type: skyquilt run {options.survey}")
    print(format_scorecard(json.loads(file.read_text())))
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _user_errors() -> tuple[type[Exception], ...]:
    """What the user can mend: shown as one line, without a traceback."""
    errors: list[type[Exception]] = [ConfigurationError, RegistryError]
    # classes of modules that were not loaded cannot have been raised
    for module, names in {
        "skyquilt.workflow.run": ("RunBusy",),
        "skyquilt.workflow.why": ("UnknownProduct",),
        "skyquilt.workflow.get": ("NoSuchProduct",),
        "skyquilt.workflow.plan": ("PlanError",),
        "skyquilt.instrument": ("CameraError",),
        "skyquilt.io.manifests": ("CorruptProduct",),
    }.items():
        if module in sys.modules:
            errors += [
                getattr(sys.modules[module], name) for name in names if hasattr(sys.modules[module], name)
            ]
    return tuple(errors)


if __name__ == "__main__":
    sys.exit(main())
