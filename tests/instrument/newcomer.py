"""A camera that nobody defined before: its page of YAML, and raw frames made with plain NumPy and astropy."""

import numpy as np
from astropy.io import fits

SCALE = 40.0  # arcsec per mm
PIXEL = 0.0125  # mm: 0.5 arcsec
NX, NY = 400, 320
GAINS = {"west": (1.9, 2.1), "east": (2.0, 2.2)}
NOISE = 6.0  # electrons
BIAS = 500.0  # ADU
FULL = 60000.0  # ADU, where the converter stops
POSITION_ANGLE = 30.1  # deg; the header says 30.0
POINTING = (150.0, 20.0)
OFFSET_ARCSEC = (9.0, 12.0)  # 15 arcsec
DISTORTION = 1e-3 / 5.0**2  # 0.1 % at 5 mm
PLACES = {"west": (-2.6, 0.1, 0.0), "east": (2.7, -0.05, 90.0)}  # x, y [mm], turned by [deg]

DEFINITION = """
name: newcomer
observatory: {name: Somewhere, longitude: 10.0, latitude: 40.0}
focal_plane: {plate_scale: 40.0}
filters: {Blue glass: g, Red glass: r}
detector_types:
  chip:
    size: [400, 320]
    pixel_size_um: 12.5
    amplifiers:
      grid: [2, 1]                   # left and right half, read from opposite sides
      names: [L, R]
      read_out: [lower_left, upper_right]
      stored: as_read
      prescan: 6
      overscan: 20
      gain: [1.9, 2.0]               # of the laboratory
      read_noise: 6
      saturation: 59000
detectors:
  - {id: 1, name: west, centre_mm: [-2.6, 0.1], extensions: [1, 2]}
  - {id: 2, name: east, centre_mm: [2.7, -0.05], rotation_deg: 90, extensions: {R: 4, L: 3}}
files: {layout: visit, pattern: 'nc_*.fits'}
header:
  recognise: {CAMERA: Home made}
  visit: {keyword: $FILE, extract: 'nc_(\\d+)'}
  frame_type: {keyword: WHAT, map: {stars: science, nothing: bias, '/^dome/': flat}}
  exposure_time: {keyword: T_MS, unit: ms}
  boresight_ra: {keyword: TEL-RA, unit: sexagesimal}
  boresight_dec: {keyword: TEL-DEC, unit: sexagesimal}
  rotation: POSANGLE
  physical_filter: GLASS
  datetime_begin: {join: [UTDATE, UTSTART], scale: utc}
wcs: {source: nominal}
"""


class Sky:
    """Stars of a field, with magnitudes."""

    def __init__(self, seed=3, count=300):
        rng = np.random.default_rng(seed)
        self.xi, self.eta = rng.uniform(-420.0, 420.0, (2, count))  # arcsec about the pointing
        self.mag = 10 + rng.exponential(1.5, count)
        d = np.radians(POINTING[1])
        xi, eta = np.radians(self.xi / 3600), np.radians(self.eta / 3600)
        self.dec = np.degrees(
            np.arctan2((np.sin(d) + eta * np.cos(d)), np.hypot(np.cos(d) - eta * np.sin(d), xi))
        )
        self.ra = POINTING[0] + np.degrees(np.arctan2(xi, np.cos(d) - eta * np.sin(d)))

    def write(self, path):
        """As a CSV with the columns that the check expects."""
        rows = [f"{a:.7f},{d:.7f},{m:.2f}" for a, d, m in zip(self.ra, self.dec, self.mag)]
        path.write_text("\n".join(["ra,dec,mag", *rows]) + "\n")
        return path

    def pixels(self, name, parity=1):
        """True pixel positions of the stars on a detector."""
        x0, y0, turn = PLACES[name]
        east, north = self.xi - OFFSET_ARCSEC[0], self.eta - OFFSET_ARCSEC[1]
        a = np.radians(POSITION_ANGLE)
        # +y of the focal plane lies at the position angle, +x a quarter turn on towards west
        field_y = east * np.sin(a) + north * np.cos(a)
        field_x = parity * (-east * np.cos(a) + north * np.sin(a))
        radius = np.hypot(field_x, field_y) / SCALE
        mm = radius.copy()
        for _ in range(20):
            mm = radius / (1 + DISTORTION * mm**2)
        share = np.where(radius > 0, mm / np.maximum(radius, 1e-12), 1.0) / SCALE
        u, v = field_x * share - x0, field_y * share - y0
        t = np.radians(turn)
        x = (u * np.cos(t) + v * np.sin(t)) / PIXEL + (NX - 1) / 2
        y = (-u * np.sin(t) + v * np.cos(t)) / PIXEL + (NY - 1) / 2
        return x, y


def electrons(kind, name, sky, rng, level, parity):
    """Electrons gathered by a detector."""
    if kind == "bias":
        return np.zeros((NY, NX))
    image = np.full((NY, NX), float(level))
    if kind == "science":
        yy, xx = np.mgrid[:NY, :NX]
        for x, y, mag in zip(*sky.pixels(name, parity), sky.mag):
            if -10 < x < NX + 10 and -10 < y < NY + 10:
                y0, x0 = max(int(y) - 12, 0), max(int(x) - 12, 0)
                part = np.s_[y0 : int(y) + 13, x0 : int(x) + 13]
                flux = 3e5 * 10 ** (-0.4 * (mag - 10))
                r2 = (xx[part] - x) ** 2 + (yy[part] - y) ** 2
                image[part] += flux / (2 * np.pi * 1.3**2) * np.exp(-0.5 * r2 / 1.3**2)
    return rng.poisson(image).astype(float)


def raw_amplifier(part, gain, rng, flip):
    """A half of the detector as its amplifier stores it: first read first, prescan and overscan beside."""
    part = part[::-1, ::-1] if flip else part
    ny, nx = part.shape
    stored = np.zeros((ny, 6 + nx + 20))
    stored[:, 6 : 6 + nx] = part
    adu = (stored + rng.normal(0, NOISE, stored.shape)) / gain + BIAS
    return np.minimum(np.round(adu), FULL).astype("uint16")


def write_frame(folder, number, kind, sky=None, level=2000.0, seed=0, parity=1, header=None):
    """One raw file with both detectors."""
    rng = np.random.default_rng([seed, number])
    words = {"science": "stars", "bias": "nothing", "flat": "dome lamp"}
    primary = fits.PrimaryHDU()
    primary.header.update(
        {
            "CAMERA": "Home made",
            "WHAT": words[kind],
            "T_MS": 30000,
            "TEL-RA": "10:00:00.0",
            "TEL-DEC": "+20:00:00",
            "POSANGLE": 30.0,
            "GLASS": "Red glass",
            "UTDATE": "2026-03-04",
            "UTSTART": f"05:{number % 60:02d}:07.5",
        }
    )
    for key, value in (header or {}).items():
        if value is None:
            del primary.header[key]
        else:
            primary.header[key] = value
    hdus = [primary]
    for name, gains in GAINS.items():
        image = electrons(kind, name, sky, rng, level, parity)
        hdus.append(fits.ImageHDU(raw_amplifier(image[:, : NX // 2], gains[0], rng, False)))
        hdus.append(fits.ImageHDU(raw_amplifier(image[:, NX // 2 :], gains[1], rng, True)))
    path = folder / f"nc_{number:04d}.fits"
    fits.HDUList(hdus).writeto(path)
    return path


def write_night(folder, sky, parity=1, header=None):
    """Two biases, two flats, two science frames."""
    frames = [write_frame(folder, 1, "bias"), write_frame(folder, 2, "bias")]
    frames += [write_frame(folder, n, "flat", level=20000.0) for n in (3, 4)]
    return frames + [
        write_frame(folder, n, "science", sky, 400.0, parity=parity, header=header) for n in (5, 6)
    ]
