"""Quality pages (LDM-151 6.2.1): a site that opens from disk, from the survey down to a source on its pixels.

    index.html                                  survey, scorecard, sky, calibration products, visits, failures, costs
    failures.html                               every failure with its reason
    calibrations/<kind>-<id>.html               figures of a calibration product; its pictures lie in <kind>-<id>/
    visits/<visit>/index.html                   focal plane and detectors of a visit
    visits/<visit>/detector_<detector>.html     picture of a detector with its mask and sources
    assets/style.css, assets/site.js
    resources.js                                CPU and memory of the stages, which differ from run to run

No server, no resource from elsewhere, nothing fetched: data is part of the pages. All but resources.js has
the same bytes for the same input.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skyquilt.io.atomic import write_bytes
from skyquilt.quality.pages.script import SCRIPT
from skyquilt.quality.pages.style import STYLE
from skyquilt.quality.site.calibrations import served_by, write_calibration
from skyquilt.quality.site.config import QualitySiteConfig
from skyquilt.quality.site.detectors import write_detectors
from skyquilt.quality.site.failures import failure_order, grouped_failures, write_failures
from skyquilt.quality.site.index import scorecard_table, write_index
from skyquilt.quality.site.shell import RESOURCES, Site, plain
from skyquilt.quality.site.visits import write_visit

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.quality.calibration_pages import CalibrationProduct

__all__ = ["QualitySiteConfig", "scorecard_table", "write_resources", "write_site"]


def write_site(
    directory: Path,
    *,
    survey: Mapping[str, str],
    visits: pd.DataFrame,
    visit_detectors: pd.DataFrame,
    detector_outlines: Mapping[int, Mapping[str, Any]],
    tracts: Sequence[Mapping[str, Any]],
    scorecard: Mapping[str, Any],
    pictures: Mapping[tuple[int, int], str | Mapping[str, str]],
    failures: Sequence[Mapping[str, Any]],
    figures_of_detector: Callable[[int, int], Mapping[str, Any] | None] | None = None,
    calibrations: Iterable[CalibrationProduct] = (),
    config: QualitySiteConfig | None = None,
) -> list[Path]:
    """Write the pages.

    Parameters
    ----------
    directory : Path
    survey : mapping
        name, camera, sky_map: one line of text each.
    visits, visit_detectors : DataFrame
        Schemas VISIT and VISIT_DETECTOR.
    detector_outlines : mapping of detector number to mapping
        name, and corners: four (x, y) in the focal plane [mm].
    tracts : sequence of mappings
        id, outline (sequence of (ra, dec) [deg]), patches (sequence of mappings of id and outline).
    scorecard : mapping
        Of `make_scorecard`.
    pictures : mapping of (visit, detector) to path or mapping
        Path of the picture relative to `directory`, or paths of ``picture``, ``image`` and ``mask``: only
        with these layers can mask and sources be switched on and off.
    failures : sequence of mappings
        stage, visit and detector (either may be None), reason (code), detail.
    figures_of_detector : callable, optional
        Gives what `detector_figures` made of a detector of a visit, or None; called when the page is written,
        once for each detector with a picture in layers.
    calibrations : iterable of CalibrationProduct
        In the order of the index; taken one at a time. Their pictures are in place already.
    config : QualitySiteConfig, optional

    Returns
    -------
    list of Path
        Files written, in a fixed order; resources.js is not one of them.
    """
    ordered = sorted(failures, key=failure_order)
    find = figures_of_detector or (lambda visit, detector: None)
    site = Site(
        Path(directory), survey, detector_outlines, pictures, find, ordered, config or QualitySiteConfig(), []
    )
    site.write("assets/style.css", STYLE)
    site.write("assets/site.js", SCRIPT.lstrip())
    visits = visits.sort_values("visit", ignore_index=True)
    units = {int(v): rows.sort_values("detector") for v, rows in visit_detectors.groupby("visit")}
    nothing = visit_detectors.iloc[:0]
    made = [write_calibration(site, product) for product in calibrations]
    write_index(site, visits, units, nothing, tracts, scorecard, made)
    write_failures(site)
    by_visit, served = grouped_failures(ordered), served_by(made)
    numbers = [int(v) for v in visits["visit"]]
    for i, (number_, visit) in enumerate(zip(numbers, visits.to_dict("records"))):
        near = (numbers[i - 1] if i else None, numbers[i + 1] if i + 1 < len(numbers) else None)
        rows, failed = units.get(number_, nothing), by_visit.get(number_, [])
        write_visit(site, visit, rows, failed, near, served.get(number_, ()))
        write_detectors(site, visit, rows, failed)
    return site.written


def write_resources(directory: Path, resources: Mapping[str, Any]) -> Path:
    """Write what the stages cost, beside index.html; not part of a manifest.

    Parameters
    ----------
    resources : mapping
        ``stages``: a list of mappings with name and, where known, jobs, cpu_seconds,
        cpu_seconds_per_megapixel, wall_seconds (summed over jobs), peak_megabytes, megapixels.
    """
    path = Path(directory) / RESOURCES
    content = json.dumps(plain(resources), allow_nan=False, sort_keys=True).replace("<", "\\u003c")
    write_bytes(path, f"window.RESOURCES = {content};\n".encode())
    return path
