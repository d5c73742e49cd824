"""Definitions and small raw files for the tests of the instrument package."""

import copy
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

from skyquilt.instrument.camera_yaml import load_camera, parse_camera

ROOT = Path(__file__).resolve().parents[2]

SMALL = {
    "name": "small",
    "observatory": {"longitude": -70.0},
    "focal_plane": {"plate_scale": 20.0},
    "filters": {"R": "r"},
    "detector_types": {
        "ccd": {
            "size": [12, 8],
            "pixel_size_um": 15,
            "amplifiers": {
                "grid": [2, 2],
                "prescan": 1,
                "overscan": 2,
                "parallel_overscan": 3,
                "extension": "{amplifier}",
                "gain": 2,
                "read_noise": 4,
                "saturation": 60000,
            },
        }
    },
    "detectors": [{"id": 3, "name": "C3", "type": "ccd"}],
    "header": {
        "recognise": {"INSTRUME": "Small"},
        "visit": "SEQ",
        "frame_type": {"keyword": "KIND", "map": {"sky": "science", "zero": "bias"}},
        "exposure_time": "EXPTIME",
        "boresight_ra": "RA",
        "boresight_dec": "DEC",
        "rotation": {"value": 0},
        "physical_filter": "FILTER",
        "datetime_begin": "DATE-OBS",
    },
}

HEADER = {
    "INSTRUME": "Small",
    "SEQ": 17,
    "KIND": "sky",
    "EXPTIME": 30.0,
    "RA": "10:00:00.0",
    "DEC": "-30:30:00.0",
    "FILTER": "R",
    "DATE-OBS": "2025-01-02T03:04:05.5",
}


def _edited(changes):
    data = copy.deepcopy(SMALL)
    for path, value in changes.items():
        *parents, last = path.split(".")
        place = data
        for key in parents:
            place = place[int(key)] if isinstance(place, list) else place[key]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return data


@pytest.fixture
def make_camera(tmp_path):
    """A small camera with changes, given as {'header.visit': ...}; None deletes a key."""

    def make(changes=None, folder=None):
        return parse_camera(yaml.safe_dump(_edited(changes or {})), "small.yaml", folder or tmp_path)

    return make


@pytest.fixture
def cameras():
    """The definitions that ship."""
    return {
        name: load_camera(ROOT / "config" / "cameras" / f"{name}.yaml")
        for name in ("demo", "tiny", "nickel", "stl1001", "hsc")
    }


@pytest.fixture
def shared_data():
    """Folder of real data, or skip."""
    folder = Path(os.environ.get("SKYQUILT_SHARED", ROOT.parent / "shared")) / "data"
    if not (folder / "nickel-20240512").is_dir():
        pytest.skip("the Nickel frames are not here")
    return folder


@pytest.fixture
def write_raw(tmp_path):
    """Write an image of a camera's detectors as a raw file; returns path and the assembled images."""

    def write(camera, header=None, name="raw.fits", detector_ids=None, dtype="uint16"):
        rng = np.random.default_rng(5)
        hdus, images = {}, {}
        for detector in camera.detectors:
            if detector_ids is not None and detector.id not in detector_ids:
                continue
            image = rng.integers(100, 60000, (detector.ny, detector.nx)).astype(dtype)
            images[detector.id] = image
            for amplifier in detector.amplifiers:
                key = amplifier.extension if amplifier.extension is not None else detector.extension
                nx, ny = amplifier.hdu_size
                pixels = hdus.setdefault(key, np.full((ny, nx), 7, dtype))
                section = pixels[amplifier.raw_section.slices()]
                section[amplifier.raw_data.slices()] = amplifier.from_assembled(image)
        primary = fits.PrimaryHDU(hdus.pop(None, None))
        primary.header.update(HEADER | (header or {}))
        for keyword in [key for key, value in (header or {}).items() if value is None]:
            del primary.header[keyword]
        parts = [fits.ImageHDU(pixels, name=str(key)) for key, pixels in hdus.items()]
        fits.HDUList([primary, *parts]).writeto(tmp_path / name, overwrite=True)
        return tmp_path / name, images

    return write


@pytest.fixture(scope="session")
def newcomer():
    """The module beside this one that makes the raw frames of an unknown camera."""
    path = Path(__file__).with_name("newcomer.py")
    spec = importlib.util.spec_from_file_location("newcomer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def newcomer_night(newcomer, tmp_path_factory):
    """Folder of the newcomer's night, its frames, and the catalogue of its field."""
    folder = tmp_path_factory.mktemp("newcomer")
    sky = newcomer.Sky()
    return folder, newcomer.write_night(folder, sky), sky.write(folder / "stars.csv")
