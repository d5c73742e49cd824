"""Files for quality analysis (LDM-151 6.2.1): open what pictures and pages need, a detector or visit at a time."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.io.atomic import write_json
from skyquilt.io.fits import read_pixels
from skyquilt.io.manifests import Manifest, read_manifest
from skyquilt.io.parquet import read_table
from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import ConvexPolygon
from skyquilt.primitives.schemas import SOURCE
from skyquilt.quality.visit_pictures import (
    SOURCE_COLUMNS,
    VisitQualityConfig,
    detector_figures,
    draw_detector,
    layer_paths,
)

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.instrument.camera import Camera
    from skyquilt.primitives.sky_map import SkyMap

CORNERS = ("llc", "lrc", "urc", "ulc")


@dataclass(frozen=True)
class DetectorPages:
    """Files of a detector that a worker wrote.

    Parameters
    ----------
    pictures : tuple of str
        Names of the picture and its layers, the picture first.
    figures : str
        Name of the file of `detector_figures`.
    """

    pictures: tuple[str, ...]
    figures: str


@dataclass(frozen=True)
class DrawDetector:
    """Callable of the pool: draw one detector of a visit with its mask and sources, and list the latter.

    Parameters
    ----------
    manifest : Path
        Of the visit; checksums of what is opened are verified.
    directory : Path
        Where picture and figures go.
    config : VisitQualityConfig
    """

    manifest: Path
    directory: Path
    config: VisitQualityConfig

    def __call__(self, detector: int) -> DetectorPages:
        """Write the picture with its layers, and the figures of the sources.

        Raises
        ------
        ProcessingFailure
            TOO_FEW_INPUTS when the visit has no image of the detector.
        """
        visit = read_manifest(self.manifest)
        names = visit.members("preliminary_visit_image", detector=detector)
        if not names:
            raise ProcessingFailure(Reason.TOO_FEW_INPUTS, f"no image of detector {detector}")
        exposure = read_pixels(visit.open(names[0]))
        sources = read_table(visit.open("source.parquet"), SOURCE_COLUMNS, [("detector", "==", detector)])
        title = f"visit {visit.content['unit']['visit']}, detector {detector}"
        target = self.directory / f"detector_{detector:03d}.png"
        written = draw_detector(exposure.image, exposure.mask, sources, target, title, self.config)
        figures = target.with_suffix(".json")
        write_json(figures, detector_figures(sources, exposure.image.shape, self.config))
        return DetectorPages(tuple(path.name for path in written), figures.name)


@dataclass(frozen=True)
class ReleasePictures:
    """Pictures and figures of the visits of a release.

    Parameters
    ----------
    manifests : dict
        Visit -> manifest of its pictures.
    site : Path
        Directory of the pages; paths of pictures are relative to it.
    """

    manifests: Mapping[int, Manifest]
    site: Path

    def paths(self) -> dict[tuple[int, int], dict[str, str]]:
        """(visit, detector) -> paths of picture, image and mask."""
        found = {}
        for visit, manifest in self.manifests.items():
            base = Path("..") / manifest.directory.relative_to(self.site.parent)
            for name, entry in manifest.files.items():
                if entry["dataset"] == "visit_picture" and entry["unit"].get("layer") == "picture":
                    layers = {k: p.name for k, p in layer_paths(name).items() if p.name in manifest.files}
                    files = {"picture": name, **layers}
                    found[visit, entry["unit"]["detector"]] = {
                        k: (base / v).as_posix() for k, v in files.items()
                    }
        return found

    def figures(self, visit: int, detector: int) -> dict[str, Any] | None:
        """What `detector_figures` made of a detector; None when it was not drawn."""
        manifest = self.manifests.get(visit)
        names = manifest.members("visit_quality_table", detector=detector) if manifest else []
        return json.loads(manifest.open(names[0]).read_text()) if names else None


def sources_of(visits: Iterable[Manifest], columns: Sequence[str]) -> pd.DataFrame:
    """Rows of visits' Source tables one after the other, these columns only.

    Raises
    ------
    CorruptProduct
        When a table is not what its manifest says.
    """
    import pandas as pd

    tables = [read_table(visit.open("source.parquet"), columns) for visit in visits]
    return pd.concat([SOURCE.empty()[list(columns)], *tables], ignore_index=True)


def failures_of(manifests: Iterable[Manifest], unusable: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Everything without, or with a reserved, result: parts of visits, raw frames and visits that ingest set aside."""
    found = [{"stage": "ingest", **entry} for entry in unusable]
    for manifest in manifests:
        for part, entry in manifest.parts.items():
            if entry["status"] != "ok":
                kind, _, number = part.partition(" ")
                found.append(
                    {
                        "stage": manifest.content["stage"],
                        "visit": manifest.content["unit"].get("visit"),
                        "detector": int(number) if kind == "detector" else None,
                        "reason": entry["reason"],
                        "detail": entry["detail"],
                    }
                )
    return found


def focal_plane(camera: Camera) -> dict[int, dict[str, Any]]:
    """Detector -> name and corners in the focal plane [mm]."""
    return {
        detector.id: {"name": detector.name, "corners": np.transpose(camera.corners_mm(detector)).tolist()}
        for detector in camera.detectors
    }


def tracts_of(visit_detectors: pd.DataFrame, sky_map: SkyMap) -> list[dict[str, Any]]:
    """Tracts that the visits touch, with the outlines of themselves and their patches [deg]."""
    tracts = {}
    for _, rows in visit_detectors.groupby("visit"):
        ra, dec = (
            rows[[f"{corner}{axis}" for corner in CORNERS]].to_numpy().ravel() for axis in ("ra", "dec")
        )
        known = np.isfinite(ra) & np.isfinite(dec)
        if known.any():
            hull = ConvexPolygon.hull(ra[known], dec[known])
            tracts.update({tract.id: tract for tract in sky_map.tracts_overlapping(hull)})
    return [
        {
            "id": tract.id,
            "outline": np.transpose(tract.polygon.corners).tolist(),
            "patches": [
                {"id": patch.id, "outline": np.transpose(tract.wcs.polygon(patch.inner).corners).tolist()}
                for patch in tract.patches()
            ],
        }
        for _, tract in sorted(tracts.items())
    ]
