"""Sources are drawn where and as bright as the truth says, and its signal to noise is what a fit reaches."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skyquilt.simulation import SimulationConfig
from skyquilt.simulation.detector_effects.config import DetectorEffectsConfig
from skyquilt.simulation.frame import frame_truth, make_frame, sky_image, visit_truth
from skyquilt.simulation.optics import camera_optics, pixel_from_sky, sky_from_pixel
from skyquilt.simulation.point_spread_truth import psf_truth
from skyquilt.simulation.scene import add_and_measure, draw_scene, image_sky, isolated
from skyquilt.simulation.schedule import science_visit, science_visits
from skyquilt.simulation.sky import simulate_sky
from skyquilt.simulation.sky.asteroids import AsteroidsConfig
from skyquilt.simulation.sky.catalogue import ASTEROID
from skyquilt.simulation.sky.stars import StarsConfig
from skyquilt.simulation.stamps import galaxy_stamp, star_stamp

CONFIG = SimulationConfig(seed=3, asteroids=AsteroidsConfig(0, 0))
# without motions and air the places at the epoch are those of the visit
STILL = dataclasses.replace(CONFIG, stars=StarsConfig(motions=False, parallaxes=False, fast=0.0)).ideal_sky()
RADIUS = 0.04


@dataclasses.dataclass(frozen=True)
class EvenDetector:
    """What the scene asks of a detector's truth."""

    response: np.ndarray
    full_well: np.ndarray


def even(frame, response=0.9, full_well=9e4):
    shape = (frame.detector.ny, frame.detector.nx)
    return EvenDetector(np.full(shape, response, np.float32), np.full(shape, full_well, np.float32))


def frame_of(config, camera, index, detector):
    return make_frame(
        config, camera_optics(camera), camera.detector(detector), science_visit(config, index), 6.0
    )


@pytest.fixture(scope="module")
def sky():
    return simulate_sky(CONFIG, RADIUS)


@pytest.fixture
def frame(camera):
    """The second, turned detector of the first visit."""
    return frame_of(CONFIG, camera, 0, 4)


def shape_of(stamp, where):
    rows, columns = np.mgrid[where]
    total = stamp.sum()
    x, y = (stamp * columns).sum() / total, (stamp * rows).sum() / total
    return total, x, y


def large(frame, size=1200):
    return dataclasses.replace(frame, detector=dataclasses.replace(frame.detector, nx=size, ny=size - 100))


def test_star_stamps_hold_their_electrons_at_their_place(frame):
    """The sum of a star's noise-free stamp is its electrons to 1e-3, its centroid its place to 1 mas."""
    profile = frame.profile(80.3, 64.7)
    for electrons in (1e3, 1e5, 1e7):
        stamp, where = star_stamp(large(frame), profile, 600.3, 540.7, electrons)
        total, x, y = shape_of(stamp, where)
        assert 0.999 * electrons < total < electrons
        assert_allclose([x, y], [600.3, 540.7], atol=1e-3 / frame.pixel_arcsec)


def test_galaxy_stamps_hold_their_electrons_at_their_place(sky, frame):
    """The sum of a galaxy's stamp is its electrons to 2e-3, its centroid its place to 0.02 px."""
    for k in np.flatnonzero(sky.is_galaxy)[:12]:
        stamp, where = galaxy_stamp(large(frame), frame.profile(80, 64), sky, k, 600.3, 540.7, 5e4)
        total, x, y = shape_of(stamp, where)
        assert_allclose(total, 5e4, rtol=2e-3)
        assert_allclose([x, y], [600.3, 540.7], atol=0.02)


def test_galaxies_are_galsims(sky, frame):
    """Stamps are those that galsim draws of the same bulge, disk and PSF, to 1e-3 of the light of the stamp and
    of the peak."""
    import galsim

    params = galsim.GSParams(folding_threshold=1e-3, maximum_fft_size=8192)
    galaxies = np.flatnonzero(sky.is_galaxy)
    share = sky.bulge_share["r"][galaxies]
    chosen = galaxies[[int(share.argmax()), int(share.argmin()), int(np.abs(share - 0.5).argmin())]]
    profile = frame.profile(80.0, 64.0)
    for k in chosen:
        stamp, where = galaxy_stamp(large(frame), profile, sky, k, 600.3, 540.7, 1e5)
        bulge = galsim.DeVaucouleurs(half_light_radius=float(sky.bulge_radius[k]), gsparams=params)
        disk = galsim.Exponential(half_light_radius=float(sky.disk_radius[k]), gsparams=params)
        bulge = bulge.shear(g1=float(sky.bulge_g1[k]), g2=float(sky.bulge_g2[k]))
        disk = disk.shear(g1=float(sky.disk_g1[k]), g2=float(sky.disk_g2[k]))
        share = float(sky.bulge_share["r"][k])
        from skyquilt.simulation.optics import pixel_jacobian

        jacobian = pixel_jacobian(frame.optics, large(frame).detector, frame.pointing, 600.3, 540.7)
        wcs = galsim.JacobianWCS(*jacobian.ravel().tolist())
        galaxy = wcs.toImage(bulge * share + disk * (1 - share))
        image = galsim.Convolve([galaxy, profile.galsim_profile(params)]) * 1e5
        rows, columns = where
        bounds = galsim.BoundsI(columns.start, columns.stop - 1, rows.start, rows.stop - 1)
        theirs = galsim.ImageD(bounds)
        image.drawImage(theirs, scale=1.0, center=galsim.PositionD(600.3, 540.7), method="auto")
        # the light beyond the stamp, folded in on one side and cut off on the other
        lost = 1e5 - theirs.array.sum()
        assert np.abs(stamp - theirs.array).sum() < 2e-3 * 1e5 + 2 * abs(lost)
        assert np.abs(stamp - theirs.array).max() < 1e-3 * stamp.max()


def test_stamps_beside_the_detector_are_cut(frame):
    """A star outside sheds its wings on the detector only, as much as the whole stamp has there."""
    profile = frame.profile(0.0, 60.0)
    stamp, (rows, columns) = star_stamp(frame, profile, -7.4, 60.2, 1e6)
    assert columns.start == 0
    detector = dataclasses.replace(frame.detector, nx=frame.detector.nx + 100)
    wider = dataclasses.replace(frame, detector=detector)
    whole, (all_rows, all_columns) = star_stamp(wider, profile, 92.6, 60.2, 1e6)
    assert rows == all_rows
    assert_allclose(stamp, whole[:, 100 - all_columns.start :], rtol=1e-9)
    assert star_stamp(frame, profile, -1e4, 60.2, 1e6) is None


def test_galaxies_are_sheared_towards_their_direction_on_the_sky(camera, sky):
    """A galaxy stretched to the north is so on the sky, though the detector is turned by 90.3 degrees."""
    k = int(np.flatnonzero(sky.is_galaxy)[0])
    n = len(sky)
    sheared = dict.fromkeys(("bulge_g1", "disk_g1"), np.full(n, -0.6))
    sheared |= dict.fromkeys(("bulge_g2", "disk_g2"), np.zeros(n))
    sheared |= {name: np.full(n, 2.0) for name in ("bulge_radius", "disk_radius")}
    sky = dataclasses.replace(sky, **sheared)
    for number, along in ((1, 0), (4, 1)):
        frame = large(frame_of(CONFIG, camera, 0, number), 400)
        stamp, where = galaxy_stamp(frame, frame.profile(150, 150), sky, k, 150.0, 150.0, 1e5)
        rows, columns = np.mgrid[where]
        weight = stamp * np.exp(-((rows - 150) ** 2 + (columns - 150) ** 2) / 200)
        extent = [(weight * (axis - 150) ** 2).sum() for axis in (rows, columns)]
        # rotation 0: north is along y of detector 1, and along x of detector 4, turned by 90 degrees
        assert extent[along] > 1.5 * extent[1 - along]


def test_snr_is_the_scatter_of_an_optimal_fit(frame, rng):
    """The inverse relative scatter of the fitted amplitude over 4000 noisy images is the truth's snr."""
    profile = frame.profile(80.0, 60.0)
    n = 4000
    for electrons in (2e3, 5e4):
        stamp, _ = star_stamp(frame, profile, 80.2, 60.1, electrons)
        core = np.ascontiguousarray(stamp[40:85, 55:105])
        level = frame.sky_electrons
        ones = np.ones(core.shape, np.float32)
        light = np.zeros(core.shape)
        args = (core, ones, level * np.ones(core.shape), frame.read_noise**2)
        snr2, brightest = add_and_measure(light, *args)
        assert_allclose(add_and_measure.py_func(np.zeros(core.shape), *args), (snr2, brightest), rtol=1e-12)
        assert_array_equal(light, core)
        assert_allclose(brightest, core.max() + level)
        snr = math.sqrt(snr2)
        variance = core + level + frame.read_noise**2
        weight = (core / variance) / (core**2 / variance).sum()
        counts = rng.poisson(core + level, (n, *core.shape)) - level
        counts = counts + frame.read_noise * rng.normal(size=counts.shape)
        amplitudes = (counts * weight).sum(axis=(1, 2))
        # amplitude is one on average; a sample standard deviation has relative error 1/sqrt(2n)
        assert abs(amplitudes.std() * snr - 1) < 4 / math.sqrt(2 * n)
        assert abs(amplitudes.mean() - 1) < 4 / snr / math.sqrt(n)


def test_isolation_is_the_pairwise_sum(rng):
    """The tree's answer is the double loop's."""
    n, radius = 60, 6.0
    x, y, flux = rng.uniform(0, 60, n), rng.uniform(0, 60, n), 10 ** rng.uniform(0, 4, n)
    chosen = np.arange(0, n, 2)
    expected = []
    for k in chosen:
        around = sum(flux[j] for j in range(n) if j != k and math.hypot(x[j] - x[k], y[j] - y[k]) <= radius)
        expected.append(around < 0.01 * flux[k])
    assert isolated(x, y, flux, chosen, radius).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_truth_of_a_scene_describes_its_sources(camera):
    """Rows are the sources centred on the detector; electrons, peaks and places follow from the sky's."""
    sky = simulate_sky(STILL, RADIUS)
    frame = frame_of(STILL, camera, 0, 1)
    scene = draw_scene(STILL, frame, sky, even(frame))
    x, y = pixel_from_sky(frame.optics, frame.detector, frame.pointing, sky.ra, sky.dec)
    nx, ny = frame.detector.nx, frame.detector.ny
    inside = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    electrons = sky.flux_at(frame.visit.mid_mjd_tai)["r"] / frame.njy_per_electron
    inside &= electrons > 1e-3
    assert scene.truth["id"].tolist() == sky.id[inside].tolist()
    assert_allclose(scene.truth["x"], x[inside], atol=1e-6)
    assert_allclose(scene.truth["electrons"], electrons[inside])
    # a source is no brighter in one pixel than in all, and no fainter than the sky alone
    peak = scene.truth["peakElectrons"]
    assert (peak < 1.05 * (electrons[inside] + 1.05 * frame.sky_electrons)).all()
    assert (peak > 0.7 * frame.sky_electrons).all()
    assert_allclose(scene.truth["fullWellFraction"], peak / 9e4)
    # no measurement beats the source's own photon noise
    assert (scene.truth["snr"] < np.sqrt(0.91 * electrons[inside]) + 1e-6).all()


def test_light_adds_up(camera):
    """Stars and galaxies alone sum to the light of both; sky is apart; nothing is negative."""
    sky = simulate_sky(STILL, RADIUS)
    frame = frame_of(STILL, camera, 1, 4)
    whole = draw_scene(STILL, frame, sky, even(frame))
    parts = [sky.select(sky.is_star), sky.select(~sky.is_star)]
    halves = [draw_scene(STILL, frame, part, even(frame)).light for part in parts]
    assert_allclose(whole.light, halves[0] + halves[1], atol=1e-6)
    assert whole.light.min() >= 0
    assert_allclose(whole.sky, sky_image(frame), rtol=1e-12)


def test_snaps_share_the_light(camera, sky):
    """Two snaps have half of the light of one exposure each, and the same truth but for read noise and peaks."""
    one, two = (dataclasses.replace(CONFIG, n_snaps=n, snap_gap=0.0) for n in (1, 2))
    scenes = []
    for config in (one, two):
        frame = frame_of(config, camera, 0, 1)
        scenes.append(draw_scene(config, frame, sky, even(frame)))
    assert len(scenes[1].snaps) == 2
    # the middle of the visit is the same without a gap; stamps of galaxies end at 0.03 of the noise of 10 e
    assert_allclose(scenes[1].snaps[0].light, 0.5 * scenes[0].snaps[0].light, rtol=1e-6, atol=0.3)
    assert scenes[1].snaps[0].light is scenes[1].snaps[1].light
    assert_allclose(scenes[1].snaps[1].sky, 0.5 * scenes[0].snaps[0].sky, rtol=1e-9)
    assert_allclose(scenes[1].truth["peakElectrons"], 0.5 * scenes[0].truth["peakElectrons"], rtol=1e-6)
    assert (scenes[1].truth["snr"] <= scenes[0].truth["snr"] * (1 + 1e-6)).all()
    assert not scenes[1].snaps[0].light.flags.writeable


def test_asteroids_move_between_snaps_and_leave_trails(camera):
    """What moves is at its ephemeris in each snap, drawn out by its way, with its electrons, and alone moves."""
    config = dataclasses.replace(
        CONFIG,
        n_snaps=2,
        snap_gap=60.0,
        star_density=0.0,
        galaxy_density=0.0,
        asteroids=AsteroidsConfig(0, 40, magnitudes=(17.0, 19.0)),
    )
    sky = simulate_sky(config, 0.05)
    assert (sky.kind == ASTEROID).all()
    visit = science_visit(config, 0)
    near = sky.positions_at(visit.mid_mjd_tai)
    fast = 0
    for detector in (1, 4):
        frame = frame_of(config, camera, 0, detector)
        x, y = pixel_from_sky(frame.optics, frame.detector, frame.pointing, *near)
        inside = np.flatnonzero(
            (x > 40) & (x < frame.detector.nx - 40) & (y > 40) & (y < frame.detector.ny - 40)
        )
        for k in inside[:4]:
            scene = draw_scene(config, frame, sky.select(np.array([k])), even(frame))
            places = []
            for light in scene.snaps:
                total, *place = shape_of(
                    light.light, (slice(0, frame.detector.ny), slice(0, frame.detector.nx))
                )
                assert total < scene.truth["electrons"][0] / 2
                assert total > 0.97 * scene.truth["electrons"][0] / 2
                places.append(place)
            moved = math.hypot(*np.subtract(places[1], places[0]))
            length = scene.truth["trailLength"][0]
            # from middle to middle: 75 s; within a snap: 15 s
            assert_allclose(moved, 5 * length, rtol=0.1, atol=0.1)
            fast += length > 0.2
    assert fast > 0


def test_zero_point_and_sky_are_the_configurations(camera):
    """A star of 20 mag gives the configured electrons at the airmass; the sky its magnitude per square arcsec."""
    frame = frame_of(STILL, camera, 0, 1)
    star = 10 ** ((31.4 - 20) / 2.5) / frame.njy_per_electron
    loss = STILL.atmosphere.extinction["r"] * (frame.visit.airmass - 1)
    assert_allclose(star, 3300.0 * 30 * 10 ** (-0.4 * loss))
    assert_allclose(frame.sky_electrons, 3300.0 * 30 * 10 ** (-0.4 * 1.2) * 0.25)
    row = frame_truth(frame)
    assert_allclose(row["noiseElectrons"] ** 2, frame.sky_electrons + frame.read_noise**2)
    assert_allclose(row["fwhmArcsec"], row["fwhmPixels"] * 0.5)
    # the effective PSF is wider than the atmosphere by the optics and the pixel of half an arcsec
    assert 0.8 < row["fwhmArcsec"] < 1.7


def test_sky_follows_the_pixels_area(camera):
    """Without gradients the sky is the solid angle of each pixel, by finite differences on the sky."""
    frame = frame_of(STILL, camera, 0, 4)
    sky = sky_image(frame)
    for x, y in ((3.0, 5.0), (80.0, 60.0), (155.0, 120.0)):
        corners = [
            sky_from_pixel(
                frame.optics, frame.detector, frame.pointing, np.array([x + dx]), np.array([y + dy])
            )
            for dx, dy in ((-0.5, 0), (0.5, 0), (0, -0.5), (0, 0.5))
        ]
        ra, dec = np.array(corners)[:, :, 0].T
        east = (ra - ra[0]) * np.cos(np.radians(dec)) * 3600
        north = (dec - dec[0]) * 3600
        area = abs((east[1] - east[0]) * (north[3] - north[2]) - (east[3] - east[2]) * (north[1] - north[0]))
        expected = frame.sky_electrons * area / frame.pixel_arcsec**2
        assert_allclose(sky[int(y), int(x)], expected, rtol=1e-4)


def test_imaged_places_are_those_of_the_light(camera, sky):
    """Imaged positions, through the optics alone, are the pixels; they differ from ICRS by the air."""
    frame = frame_of(CONFIG, camera, 1, 1)
    imaged = image_sky(frame, sky)
    back = sky_from_pixel(frame.optics, frame.detector, frame.pointing, imaged.x, imaged.y)
    assert_allclose(back[1], imaged.seen_dec, atol=1e-9)
    shift = np.hypot(
        (imaged.seen_ra - imaged.ra) * np.cos(np.radians(imaged.dec)), imaged.seen_dec - imaged.dec
    )
    assert 1e-3 < np.median(shift) * 3600 < 0.5
    # relative to each other the shifts along the zenith follow colour: it explains them but for turbulence
    offset = (imaged.seen_dec - imaged.dec) * 3600
    axis = math.cos(math.radians(frame.visit.parallactic_angle))
    design = np.stack([np.ones(len(offset)), imaged.ra, imaged.dec, imaged.shift], axis=1)
    design[:, 1:3] -= design[:, 1:3].mean(axis=0)
    solution = np.linalg.lstsq(design, offset, rcond=None)[0]
    assert_allclose(solution[3], axis, atol=0.15)


@pytest.mark.parametrize("parity", [1, -1])
def test_spectra_are_drawn_out_along_their_shift(make_camera, sky, parity):
    """In pixels of a turned detector, in both parities, a spectrum's spread lies along the line on which colours
    are apart."""
    camera = make_camera(parity=parity)
    config = dataclasses.replace(CONFIG, rotations=(33.0,))
    frame = frame_of(config, camera, 1, 4)
    visit = frame.visit
    position = np.array([visit.ra]), np.array([visit.dec])
    places = []
    for k in (1, -1):
        flux = {b: np.array([10.0 ** (0.3 * k * j)]) for j, b in enumerate("ugrizy")}
        seen = frame.atmosphere.image(*position, frame.atmosphere.shares(flux))
        places.append(
            [float(c[0]) for c in pixel_from_sky(frame.optics, frame.detector, frame.pointing, *seen)]
        )
    along = np.subtract(*places)
    along /= np.linalg.norm(along)
    plain, wide = (frame.profile(*places[0], 1.0, spread).squares[0] for spread in (0.0, 0.3))
    xx, xy, yy = np.subtract(wide, plain)
    expected = 8 * math.log(2) * (0.3 / frame.pixel_arcsec) ** 2
    # distortion stretches by some 1e-3
    assert_allclose(
        [xx, xy, yy],
        expected * np.array([along[0] ** 2, along[0] * along[1], along[1] ** 2]),
        atol=0.01 * expected,
    )


def test_wavefront_sensors_see_donuts(camera):
    """Out of focus a star is a ring of the pupil's size with the star's light, dark in the middle."""
    detector = dataclasses.replace(camera.detector(1), purpose="wavefront", nx=300, ny=300)
    frame = make_frame(STILL, camera_optics(camera), detector, science_visit(STILL, 0), 6.0)
    from skyquilt.simulation.wavefront import make_donut

    donut = make_donut(STILL.wavefront, detector, np.zeros(8), 2.0)
    image, column, row = donut.image(150.3, 149.8, 1e5)
    assert_allclose(image.sum(), 1e5, rtol=2e-3)
    rows, columns = np.mgrid[row : row + image.shape[0], column : column + image.shape[1]]
    assert_allclose((image * columns).sum() / image.sum(), 150.3, atol=0.02)
    distance = np.hypot(columns - 150.3, rows - 149.8)
    # 400 micron out of focus at f/1.234 with pixels of 10 micron
    radius = 400 / (2 * 1.234) / 10
    ring = image[(distance > 0.7 * radius) & (distance < 0.9 * radius)].mean()
    assert image[distance < 0.4 * radius].mean() < 0.25 * ring
    assert image[distance > 1.3 * radius].mean() < 0.02 * ring
    scene = draw_scene(STILL, frame, simulate_sky(STILL, RADIUS), even(frame))
    assert set(scene.truth["kind"]) <= {"star", "supernova"}
    assert len(scene.truth["id"]) > 0
    row = frame_truth(frame)
    assert all(np.isfinite(row[f"zernike{n}"]) for n in range(4, 12))
    assert psf_truth(frame)["x"].size == 0


def test_detectors_out_of_place_see_the_sky_from_there(camera):
    """A displaced detector images sources elsewhere by its displacement; the truth says where it is."""
    from skyquilt.simulation.optics import PlacementConfig

    config = dataclasses.replace(STILL, placement=PlacementConfig(offset=3.0, rotation=0.05))
    plain, moved = (frame_of(c, camera, 0, 1) for c in (STILL, config))
    sky = simulate_sky(STILL, 0.02)
    first, second = (image_sky(f, sky) for f in (plain, moved))
    row = frame_truth(moved)
    shift = np.subtract((row["centreXmm"], row["centreYmm"]), plain.detector.centre_mm) / 0.01
    assert np.abs(shift).max() > 0.5
    middle = np.argmin(np.hypot(first.x - 80, first.y - 64))
    found = (second.x - first.x)[middle], (second.y - first.y)[middle]
    # 0.05 deg over some 20 px
    assert_allclose(found, -shift, atol=0.2)


def test_psf_truth_is_the_profiles(frame):
    """25 places of a detector, edges included, with sizes near the visit's and their moments."""
    table = psf_truth(frame)
    assert table["x"].size == 25
    assert (table["x"].min(), table["x"].max()) == (0, frame.detector.nx - 1)
    assert_allclose(table["fwhm"] * frame.pixel_arcsec, frame.visit.seeing, rtol=0.35)
    # a Gaussian of that FWHM would have T = 2 (FWHM / 2.355)^2; wings make it greater
    assert (table["T"] > 2 * (table["fwhm"] / 2.3548) ** 2).all()
    assert np.ptp(table["T"]) > 0


def test_visit_truth_has_the_columns_of_its_schema(camera):
    """Tables of visits and of their detectors conform to their schemas."""
    from skyquilt.primitives.schemas.truth import SOURCE_TRUTH, VISIT_TRUTH

    table = VISIT_TRUTH.conform(visit_truth(CONFIG, science_visits(CONFIG)))
    assert (table["airmass"] >= 1).all()
    assert (table["skyFactor"] > 0.8).all()
    frame = frame_of(CONFIG, camera, 0, 1)
    scene = draw_scene(CONFIG, frame, simulate_sky(CONFIG, 0.02), even(frame))
    SOURCE_TRUTH.conform(scene.truth)


def test_an_ideal_survey_keeps_its_sky():
    """Without effects both air and instrument are ideal, and nothing else is changed."""
    ideal = CONFIG.without_effects(n_visits=2)
    assert ideal.detector == DetectorEffectsConfig.none()
    assert ideal.stars == CONFIG.stars
    assert ideal.n_visits == 2
