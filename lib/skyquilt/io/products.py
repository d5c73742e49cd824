"""Data products (LDM-151 Table 1, products.md): the one place where paths are said.

Rules, notebooks and the command line ask here: `template` for a rule, `path` for a file. A product that is
made in every image characterization step has ``{step}`` in its path; before the first joint calibration a step
is per visit, afterwards per tract and visit.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Product:
    """One kind of file.

    Parameters
    ----------
    template : str
        Path within the survey directory; fields in braces are data units.
    section : str
        Section of LDM-151.
    doc : str
        One sentence.
    readers : tuple of str
        Stages that read it. When all of them are done, nothing to come needs the file.
    release : bool
        True for what a release keeps; such files are never pruned.
    """

    template: str
    section: str
    doc: str
    readers: tuple[str, ...] = ()
    release: bool = True


PRODUCTS: dict[str, Product] = {
    "bias_manifest": Product(
        "calibration/bias/{calibration}/manifest.json", "4.1.2.1", "What made a combined bias."
    ),
    "bias": Product(
        "calibration/bias/{calibration}/detector_{detector:03d}.fits",
        "4.1.2.1",
        "Combined bias of a detector [ADU].",
    ),
    "crosstalk_manifest": Product(
        "calibration/crosstalk/{calibration}/manifest.json", "4.1.2.3", "What made a crosstalk matrix."
    ),
    "crosstalk": Product(
        "calibration/crosstalk/{calibration}/crosstalk.fits",
        "4.1.2.3",
        "Crosstalk matrix of each detector.",
    ),
    "linearizer_manifest": Product(
        "calibration/linearizer/{calibration}/manifest.json",
        "4.1.2.3",
        "What made a correction of nonlinearity.",
    ),
    "linearizer": Product(
        "calibration/linearizer/{calibration}/linearizer.fits",
        "4.1.2.3",
        "Correction of nonlinearity of each detector [ADU].",
    ),
    "ptc_manifest": Product(
        "calibration/ptc/{calibration}/manifest.json",
        "4.1.2.3",
        "What made a photon transfer and its brighter-fatter kernel.",
    ),
    "ptc": Product(
        "calibration/ptc/{calibration}/ptc.fits",
        "4.1.2.3",
        "Photon transfer of each detector: gain, noise, full well, covariances.",
    ),
    "bfk": Product(
        "calibration/ptc/{calibration}/bfk.fits",
        "4.1.2.3",
        "Brighter-fatter kernel of each detector.",
    ),
    "dark_manifest": Product(
        "calibration/dark/{calibration}/manifest.json", "4.1.2.1", "What made a combined dark."
    ),
    "dark": Product(
        "calibration/dark/{calibration}/detector_{detector:03d}.fits",
        "4.1.2.1",
        "Combined dark of a detector [electron/s].",
    ),
    "flat_manifest": Product(
        "calibration/flat/{calibration}/manifest.json", "4.1.2.1", "What made a combined flat."
    ),
    "flat": Product(
        "calibration/flat/{calibration}/detector_{detector:03d}.fits",
        "4.1.2.1",
        "Combined flat of a detector: response of median 1.",
    ),
    "defects_manifest": Product(
        "calibration/defects/{calibration}/manifest.json", "4.1.2.3", "What made a list of defects."
    ),
    "defects": Product(
        "calibration/defects/{calibration}/defects.fits",
        "4.1.2.3",
        "Defects of each detector.",
    ),
    "fringe_manifest": Product(
        "calibration/fringe/{calibration}/manifest.json", "4.1.2.3", "What made a fringe frame."
    ),
    "fringe": Product(
        "calibration/fringe/{calibration}/detector_{detector:03d}.fits",
        "4.1.2.3",
        "Fringe pattern of a detector [electron per electron of sky].",
    ),
    "bootstrap_chunk_manifest": Product(
        "imchar/bootstrap/chunk_{chunk}/manifest.json", "5.1.1", "Visits that one job characterized."
    ),
    "bootstrap_manifest": Product(
        "imchar/bootstrap/{visit}/manifest.json", "5.1.1", "What became of a visit."
    ),
    "preliminary_visit_image": Product(
        "imchar/bootstrap/{visit}/detector_{detector:03d}.fits",
        "5.1.1.4",
        "Pixels of a CalExp: background-subtracted image [electron], mask, variance.",
        readers=("visit_quality",),
        release=False,
    ),
    "preliminary_psf": Product(
        "imchar/bootstrap/{visit}/psf.fits", "5.1.1.16", "PSF model of each detector."
    ),
    "preliminary_wcs": Product("imchar/bootstrap/{visit}/wcs.fits", "5.1.1.15", "WCS of each detector."),
    "preliminary_photo_calib": Product(
        "imchar/bootstrap/{visit}/photo_calib.fits", "5.1.1", "nJy per electron of each detector."
    ),
    "preliminary_visit_image_background": Product(
        "imchar/bootstrap/{visit}/background.fits",
        "5.1.1.9",
        "Background that was subtracted, each detector.",
    ),
    "preliminary_source": Product(
        "imchar/bootstrap/{visit}/source.parquet", "5.1.1.3", "Sources of a visit after BootstrapImChar."
    ),
    "visit_quality_chunk_manifest": Product(
        "quality/visits/chunk_{chunk}/manifest.json",
        "6.2.1",
        "Visits whose pictures and figures one job made.",
    ),
    "visit_quality_manifest": Product(
        "quality/visits/{visit}/manifest.json", "6.2.1", "Pictures of a visit."
    ),
    "visit_picture": Product(
        "quality/visits/{visit}/detector_{detector:03d}.png",
        "6.2.1",
        "A detector with mask and sources; image and mask alone lie beside it.",
    ),
    "visit_quality_table": Product(
        "quality/visits/{visit}/detector_{detector:03d}.json",
        "6.2.1",
        "What the page of a detector shows of its sources.",
    ),
    "visit_tables_manifest": Product("release/visits/manifest.json", "5.6", "What made the visit tables."),
    "visit_table": Product("release/visits/visit_table.parquet", "5.6", "One row per visit."),
    "visit_detector_table": Product(
        "release/visits/visit_detector_table.parquet",
        "5.6",
        "One row per visit and detector, with its status.",
    ),
    "why_missing": Product(
        "release/visits/why_missing.hsp",
        "5.6.2",
        "Sky map of reasons (bits) why a visit's detector has no result.",
    ),
    "scorecard_manifest": Product("quality/scorecard/manifest.json", "6.1", "What made the scorecard."),
    "scorecard": Product(
        "quality/scorecard/scorecard.json", "6.1", "Figures against truth and requirements."
    ),
    "quality_site_manifest": Product("quality/site/manifest.json", "6.2.1", "What made the quality pages."),
}

# What a user asks for by the names of Rubin's Data Preview 2, and the product of a step that it is.
PUBLISHED: dict[str, str] = {
    "source": "preliminary_source",
    "visit_image": "preliminary_visit_image",
    "visit_image_background": "preliminary_visit_image_background",
}


def template(name: str, **fixed: int | str) -> str:
    """Path with wildcards for a rule: ``{visit}``; fields given are filled in."""
    text = re.sub(r"{(\w+):[^}]*}", r"{\1}", PRODUCTS[name].template)
    return re.sub(r"{(\w+)}", lambda m: str(fixed.get(m[1], m[0])), text)


def path(name: str, root: str | Path = ".", **unit: int | str) -> Path:
    """Path of one file.

    Raises
    ------
    KeyError
        When there is no such product.
    ValueError
        When a field of its data unit is missing or unknown.
    """
    wanted = unit_fields(name)
    if set(unit) != set(wanted):
        raise ValueError(f"{name} needs {', '.join(wanted) or 'no unit'}; got {', '.join(unit) or 'none'}")
    return Path(root) / PRODUCTS[name].template.format(**unit)


def unit_fields(name: str) -> list[str]:
    """Fields of a product's data unit, in the order of its path."""
    return [field for _, field, _, _ in string.Formatter().parse(PRODUCTS[name].template) if field]


def identify(relative: str) -> tuple[str, dict[str, int | str]] | None:
    """Product and unit of a path within the survey, or None when it is no product."""
    for name in PRODUCTS:
        if match := _pattern(name).fullmatch(relative):
            return name, {
                key: int(value) if value.isdigit() else value for key, value in match.groupdict().items()
            }
    return None


def describe() -> Mapping[str, Product]:
    """All products, for the docs."""
    return PRODUCTS


@cache
def _pattern(name: str) -> re.Pattern[str]:
    parts = []
    for literal, field, spec, _ in string.Formatter().parse(PRODUCTS[name].template):
        parts.append(re.escape(literal))
        if field:
            number = spec or field in ("visit", "detector", "tract", "patch")
            parts.append(rf"(?P<{field}>\d+)" if number else rf"(?P<{field}>[^/]+)")
    return re.compile("".join(parts))
