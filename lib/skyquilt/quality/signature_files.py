"""Instrument signature and artifacts against truth, from the files of a survey (LDM-151 6.1).

`JudgeDetector` runs the production's own ISR and search for artifacts once more on the snaps for which the
simulation kept its noise-free images, and compares. `calibration_tables` compares what was measured of the
detectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from skyquilt.pipelines.detector_image import (
    DetectorImageConfig,
    SignatureRemoval,
    SnapImage,
    marked_snaps,
    snap_image,
)
from skyquilt.pipelines.visit_files import VisitFiles, read_characterization
from skyquilt.quality.signature_truth import CalibratedFrame, FrameTruth, frame_tables

if TYPE_CHECKING:
    import pandas as pd

    from skyquilt.algorithms.instrument_signature_removal import DetectorCalibrations
    from skyquilt.primitives.detector_characterization import Linearizer

KEYS = ("visit", "snap", "detector")
_LEVEL_STEPS = 25


@dataclass(frozen=True)
class JudgeDetector:
    """Callable of the pool: tables of the snaps of one detector of a visit.

    Parameters
    ----------
    visits : dict
        Visit -> its files.
    bands : dict
        Visit -> band.
    removal : SignatureRemoval
    config : DetectorImageConfig
    truth : Path
        Directory of the truth.
    """

    visits: Mapping[int, VisitFiles]
    bands: Mapping[int, str]
    removal: SignatureRemoval
    config: DetectorImageConfig
    truth: Path

    def __call__(self, unit: tuple[int, int]) -> dict[str, pd.DataFrame]:
        """Tables of `frame_tables` with visit, snap and detector in front."""
        visit, detector = unit
        data = self.visits[visit]
        calibrations = data.read_calibrations(detector)
        found: dict[str, list[pd.DataFrame]] = {}
        usable, _ = marked_snaps(detector, data, self.removal, self.config)
        for one in usable:
            truth = read_frame_truth(self.truth, visit, one.snap, detector, self.bands[visit])
            calibrated = calibrated_frame(one, calibrations)
            uncorrected = self._uncorrected(data, detector, one.snap, calibrations)
            for name, columns in frame_tables(calibrated, uncorrected, truth).items():
                found.setdefault(name, []).append(_table(columns, (visit, one.snap, detector)))
        return concatenated(found)

    def _uncorrected(
        self, data: VisitFiles, detector: int, snap: int, calibrations: DetectorCalibrations
    ) -> CalibratedFrame | None:
        """The frame without the brighter-fatter correction; None where it was not corrected for."""
        config = self.removal.config
        if calibrations.brighter_fatter is None or "brighter_fatter" in config.skip:
            return None
        skip = (*config.skip, "brighter_fatter")
        without = replace(self.removal, config=replace(config, skip=skip))
        return calibrated_frame(snap_image(detector, snap, data, without), calibrations)


def calibrated_frame(image: SnapImage, calibrations: DetectorCalibrations) -> CalibratedFrame:
    """The snap with the flat that it was divided by and the fringes that were subtracted."""
    box = image.exposure.box
    isr = image.isr
    flat = np.ones(box.shape, np.float32)
    if calibrations.flat is not None and isr.steps.get("flat") == "done":
        flat = calibrations.flat.subimage(box).image
    fringe = None
    if calibrations.fringe is not None and isr.fringe_applied:
        fringe = np.float32(isr.fringe_scale) * np.nan_to_num(calibrations.fringe.subimage(box).image)
    return CalibratedFrame(image.exposure, flat, fringe)


def read_frame_truth(directory: Path, visit: int, snap: int, detector: int, band: str) -> FrameTruth:
    """The truth about one snap of a detector; FileNotFoundError where no images were kept."""
    import pandas as pd
    from astropy.io import fits

    with fits.open(directory / "expected" / f"{visit}_{snap}_{detector}.fits") as hdus:
        expected, light = (np.array(hdus[name].data, np.float32) for name in ("EXPECTED", "LIGHT"))
    here = [("visit", "==", visit), ("detector", "==", detector)]
    pixels, events = (
        pd.read_parquet(directory / f"{name}_truth.parquet", filters=[*here, ("snap", "==", snap)])
        for name in ("pixel", "event")
    )
    sources = pd.read_parquet(directory / "source_truth.parquet", filters=here)
    rows = pd.read_parquet(directory / "visit_detector_truth.parquet", filters=here)
    fringe = _fringe(directory, detector, band, float(rows["fringeScale"].iloc[0]), expected - light)
    return FrameTruth(expected, light, fringe, pixels, events, sources)


def _fringe(directory: Path, detector: int, band: str, scale: float, sky: np.ndarray) -> np.ndarray | None:
    """Fringes in a frame [electron], from the pattern that the detector has and the sky received."""
    from astropy.io import fits

    with fits.open(directory / f"detector_{detector:03d}.fits") as hdus:
        name = f"FRINGE_{band}"
        if name not in hdus or not hdus[name].data.any():
            return None
        pattern = scale * hdus[name].data.astype(np.float32)
    # expected sky is smooth x (1 + pattern) x response
    return sky * pattern / (1 + pattern)


def visits_with_images(truth: Path) -> list[int]:
    """Visits for which the simulation kept its images, ascending."""
    return sorted({int(path.name.split("_")[0]) for path in (truth / "expected").glob("*.fits")})


def calibration_tables(
    manifests: Mapping[str, Path], truth: Path, detectors: Iterable[int]
) -> dict[str, pd.DataFrame]:
    """What was measured of the detectors beside what is true.

    Parameters
    ----------
    manifests : dict
        Kind (crosstalk, linearizer, ptc) -> manifest.
    truth : Path
        Directory of the truth.

    Returns
    -------
    dict
        amplifiers: detector, amplifier, gain, gain_error, true_gain, read_noise, read_noise_error,
        true_read_noise (with the rounding of the converter);
        crosstalk: detector, victim, source, coefficient, error, true;
        linearity: detector, amplifier, level [ADU], deviation (fraction) from a straight line.
    """
    import pandas as pd

    amplifiers = pd.read_parquet(truth / "amplifier_truth.parquet").set_index(["detector", "amplifier"])
    found: dict[str, list[pd.DataFrame]] = {}
    for detector in detectors:
        for kind, table in (
            ("ptc", _amplifier_table),
            ("crosstalk", _crosstalk_table),
            ("linearizer", _linearity_table),
        ):
            if kind not in manifests:
                continue
            component = read_characterization(manifests[kind], kind, detector)
            if component is not None:
                name, rows = table(component, detector, amplifiers.loc[detector], truth)
                found.setdefault(name, []).append(rows)
    return concatenated(found)


def _amplifier_table(ptc, detector, amplifiers, truth):
    import pandas as pd

    true = amplifiers.loc[list(ptc.amplifiers)]
    rows = {
        "detector": detector,
        "amplifier": list(ptc.amplifiers),
        "gain": ptc.gain,
        "gain_error": ptc.gain_error,
        "true_gain": true["gain"].to_numpy(),
        "read_noise": ptc.read_noise,
        "read_noise_error": ptc.read_noise_error,
        "true_read_noise": np.hypot(true["readNoise"], true["gain"] / np.sqrt(12)).to_numpy(),
    }
    return "amplifiers", pd.DataFrame(rows)


def _crosstalk_table(crosstalk, detector, amplifiers, truth):
    import pandas as pd
    from astropy.io import fits

    with fits.open(truth / f"detector_{detector:03d}.fits") as hdus:
        true = np.array(hdus["CROSSTALK"].data, np.float64)
    victim, source = np.nonzero(~np.eye(len(crosstalk.amplifiers), dtype=bool))
    rows = {
        "detector": detector,
        "victim": [crosstalk.amplifiers[k] for k in victim],
        "source": [crosstalk.amplifiers[k] for k in source],
        "coefficient": crosstalk.coefficients[victim, source],
        "error": crosstalk.errors[victim, source],
        "true": true[victim, source],
    }
    return "crosstalk", pd.DataFrame(rows)


def _linearity_table(linearizer: Linearizer, detector, amplifiers, truth):
    import pandas as pd

    parts = []
    for number, name in enumerate(linearizer.amplifiers):
        if not linearizer.measured[number]:
            continue
        one = amplifiers.loc[name]
        linear = one["linearityScale"] * np.linspace(0.01, 0.9, _LEVEL_STEPS)
        stored = true_reading(one, linear)
        inside = stored <= linearizer.largest[number]
        measured = linearizer.linear(number, stored[inside])
        ratio = measured / linear[inside]
        # the unit is the gain's: small signals have it
        rows = {"detector": detector, "amplifier": name, "level": linear[inside], "deviation": ratio - 1}
        parts.append(pd.DataFrame(rows))
    columns = ["detector", "amplifier", "level", "deviation"]
    return "linearity", pd.concat(parts) if parts else pd.DataFrame(columns=columns)


def true_reading(amplifier: Mapping[str, float], linear: np.ndarray) -> np.ndarray:
    """What a simulated amplifier reads for linear signals [ADU above bias]; the formula of AMPLIFIER_TRUTH."""
    u = linear / amplifier["linearityScale"]
    knee = amplifier["linearityKnee"]
    bend = amplifier["linearityLoss"] * (1 + knee) * u**2 / (knee + u**2)
    wave = amplifier["linearityWave"] * np.sin(np.pi * amplifier["linearityWaves"] * u) ** 2
    return linear * (1 - bend + wave)


def _table(columns: Mapping[str, Any], key: Sequence[int]) -> pd.DataFrame:
    import pandas as pd

    single = not any(np.ndim(value) for value in columns.values())
    table = pd.DataFrame({name: [value] if single else value for name, value in columns.items()})
    for name, value in reversed(list(zip(KEYS, key))):
        table.insert(0, name, value)
    return table


def concatenated(found: Mapping[str, Sequence[pd.DataFrame]]) -> dict[str, pd.DataFrame]:
    """Tables of one name joined; empty ones do not count."""
    import pandas as pd

    return {
        name: pd.concat([part for part in parts if len(part)] or list(parts[:1]), ignore_index=True)
        for name, parts in found.items()
    }
