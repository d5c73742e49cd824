"""Background (LDM-151 9.1.1)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.interpolate import CubicSpline, RegularGridInterpolator

from skyquilt.primitives.background import (
    Background,
    ChebyshevLayer,
    ConstantLayer,
    CoordinateMap,
    MeshLayer,
    TransformedLayer,
    mesh_on_grid,
    natural_second_derivatives,
    spline_weights,
)
from skyquilt.primitives.chebyshev import ChebyshevSurface, surface_on_grid
from skyquilt.primitives.component import from_state
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.photo_calib import PhotoCalib

BOX = Box(5, -9, 31, 27)
Y, X = np.mgrid[BOX.y0 : BOX.y0 + BOX.ny, BOX.x0 : BOX.x0 + BOX.nx].astype(float)
# turned by 30 degrees, 10 micron pixels, far from the focal plane's centre [mm]
TO_FOCAL_PLANE = np.array([[120.0, 0.00866, -0.005], [-80.0, 0.005, 0.00866]])


def mesh(interpolation="bicubic", shape=(5, 4), seed=1, level=100.0):
    """A rough mesh over BOX."""
    values = np.random.default_rng(seed).normal(level, 10, shape)
    return MeshLayer.over(BOX, values, interpolation)


def focal_plane_layer():
    """A model in mm, seen by a turned detector."""
    model = ChebyshevLayer(ChebyshevSurface(np.array([[50.0, 3.0], [2.0, 1.0]]), -300, 300, -300, 300))
    return TransformedLayer(model, CoordinateMap.affine(TO_FOCAL_PLANE, BOX))


LAYERS = {
    "constant": ConstantLayer(12.25),
    "chebyshev": ChebyshevLayer(ChebyshevSurface.over(BOX, [[100.0, 3.0, 1.0], [2.0, 1.0, 0.5]])),
    "bicubic": mesh("bicubic"),
    "bilinear": mesh("bilinear"),
    "one node": MeshLayer.over(BOX, [[7.0]]),
    "one row": mesh("bicubic", (1, 6)),
    "two columns": mesh("bicubic", (5, 2)),
    "focal plane": focal_plane_layer(),
    "focal plane mesh": TransformedLayer(
        MeshLayer(np.arange(12.0).reshape(3, 4) ** 2, [119, 120, 121, 122], [-81, -80, -79]),
        CoordinateMap.affine(TO_FOCAL_PLANE, BOX),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer_has_the_same_bits_in_grid_part_and_point(name):
    """A pixel's value does not depend on what is evaluated with it; this is what restoration rests on."""
    layer = LAYERS[name]
    grid = layer.on_grid(BOX)
    np.testing.assert_array_equal(grid, layer.evaluate(X, Y))
    part = Box(BOX.x0 + 3, BOX.y0 + 7, 9, 4)
    np.testing.assert_array_equal(layer.on_grid(part), grid[part.slices(BOX)])
    assert from_state(layer.to_state()) == layer


def test_compiled_code_has_the_bits_of_plain_python():
    """The kernels round after each operation as Python does: no fused multiply-add of one kind of CPU."""
    layer, surface = mesh("bicubic", (6, 5)), LAYERS["chebyshev"].surface
    box = Box(BOX.x0, BOX.y0, 9, 8)
    plain = np.empty(box.shape)
    mesh_on_grid.py_func(layer._tables, layer.x, layer.y, box.x0, box.y0, plain)
    np.testing.assert_array_equal(layer.on_grid(box), plain)
    surface_on_grid.py_func(surface.coefficients, *surface._scales, box.x0, box.y0, plain)
    np.testing.assert_array_equal(surface.on_grid(box), plain)
    derivatives = np.empty_like(layer.values)
    natural_second_derivatives.py_func(layer.y, layer.values, derivatives)
    np.testing.assert_array_equal(layer._tables[1], derivatives)
    weights, plain_weights = np.empty(4), np.empty(4)
    for position in np.linspace(layer.x[0] - 5, layer.x[-1] + 5, 40):
        interval = spline_weights(layer.x, position, weights)
        assert interval == spline_weights.py_func(layer.x, position, plain_weights)
        np.testing.assert_array_equal(weights, plain_weights)


def test_bicubic_is_the_tensor_product_of_natural_splines():
    """Inside the mesh SciPy's natural splines give the same values; outside, their tangents."""
    layer = mesh("bicubic", (6, 5))
    along_y = CubicSpline(layer.y, layer.values, bc_type="natural")
    for x, y in zip(X.ravel()[::7], Y.ravel()[::7], strict=True):
        inside_y = np.clip(y, layer.y[0], layer.y[-1])
        nodes = along_y(inside_y) + (y - inside_y) * along_y(inside_y, 1)
        along_x = CubicSpline(layer.x, nodes, bc_type="natural")
        inside_x = np.clip(x, layer.x[0], layer.x[-1])
        expected = along_x(inside_x) + (x - inside_x) * along_x(inside_x, 1)
        np.testing.assert_allclose(layer.evaluate(x, y), expected, rtol=1e-12)


def test_bilinear_is_scipys():
    """Values inside and beyond the mesh are those of SciPy's linear interpolation."""
    layer = mesh("bilinear", (6, 5))
    twin = RegularGridInterpolator((layer.y, layer.x), layer.values, bounds_error=False, fill_value=None)
    np.testing.assert_allclose(layer.on_grid(BOX), twin((Y, X)), rtol=1e-12)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_mesh_reproduces_a_plane_everywhere(interpolation):
    """A gradient sampled on a mesh comes back at every pixel, also beyond the nodes."""
    nodes = mesh(interpolation)
    plane = lambda x, y: 100 + 0.3 * x - 0.2 * y  # noqa: E731
    layer = MeshLayer.over(BOX, plane(*np.meshgrid(nodes.x, nodes.y)), interpolation)
    np.testing.assert_allclose(layer.on_grid(BOX.grown(8)).mean(), 100 + 0.3 * X.mean() - 0.2 * Y.mean())
    np.testing.assert_allclose(layer.on_grid(BOX), plane(X, Y), rtol=1e-13)


def test_focal_plane_model_is_the_same_sky_for_every_detector():
    """The layer of a turned detector has the model's value at the pixel's place in mm."""
    layer = focal_plane_layer()
    u, v = (m[0] + m[1] * X + m[2] * Y for m in TO_FOCAL_PLANE)
    np.testing.assert_allclose(layer.on_grid(BOX), layer.layer.evaluate(u, v), rtol=1e-14)


def test_a_map_fitted_to_a_curved_transform_states_its_error():
    """The stated residual bounds the distance at random positions, and falls with the order."""

    def transform(x, y):
        r2 = (x**2 + y**2) / 1e6
        return 0.01 * x * (1 + r2), 0.01 * y * (1 + r2)

    rng = np.random.default_rng(5)
    x, y = rng.uniform(4.5, 35.5, 200), rng.uniform(-9.5, 17.5, 200)
    coarse, coarse_residual = CoordinateMap.fitted(transform, BOX, order=1)
    u, v = transform(x, y)
    distance = np.hypot(coarse.u.evaluate(x, y) - u, coarse.v.evaluate(x, y) - v)
    assert distance.max() <= coarse_residual
    _, residual = CoordinateMap.fitted(transform, BOX, order=3)
    assert residual < 1e-14 < coarse_residual


def test_layers_of_different_kinds_add_up():
    """A background is the sum of its layers, in float64, rounded once."""
    background = Background(tuple(LAYERS.values()))
    total = sum(layer.evaluate(X, Y) for layer in LAYERS.values())
    np.testing.assert_allclose(background.values(BOX), total, rtol=1e-14)
    np.testing.assert_array_equal(background.image(BOX), background.values(BOX).astype(np.float32))


def bits_of(image):
    """Bit patterns, for which -0.0 is not 0.0 and each NaN is itself."""
    return np.ascontiguousarray(image).view(np.int32)


def pixels(shape):
    """Images of any float32 bit patterns: NaNs with payload, infinities, subnormal and negative zeros."""
    special = [
        0,
        -(2**31),
        1,
        0x7F800000,
        -0x800000,
        0x7FC00000,
        0x7F800001,
        0x7FC12345,
        0x7F7FFFFF,
        -0x800001,
    ]
    patterns = st.one_of(st.sampled_from(special), st.integers(-(2**31), 2**31 - 1))
    return hnp.arrays(np.int32, shape, elements=patterns).map(lambda bits: bits.view(np.float32))


def backgrounds():
    """Constant and mesh backgrounds of any size from nothing to the end of float32 and beyond."""
    value = st.one_of(
        st.sampled_from([0.0, -0.0, 1e-45, 0.1, 1000.0, 3.4e38, 1e300]), st.floats(-1e5, 1e5, width=64)
    )
    mesh_values = hnp.arrays(np.float64, (2, 3), elements=st.floats(-1e4, 1e4))
    constant = value.map(lambda v: Background((ConstantLayer(v),)))
    return st.one_of(
        constant, mesh_values.map(lambda v: Background((MeshLayer.over(BOX, v), ConstantLayer(3.3))))
    )


@settings(max_examples=150, deadline=None)
@given(pixels((4, 6)), backgrounds())
def test_restoring_gives_every_bit_back(image, background):
    """Subtract and restore: the same bit patterns, whatever the pixels; through the state too."""
    box = Box(7, 2, 6, 4)
    subtracted, kept = background.subtract(image, box)
    np.testing.assert_array_equal(bits_of(kept.restore(subtracted, box)), bits_of(image))
    again = from_state(kept.to_state())
    np.testing.assert_array_equal(bits_of(again.restore(subtracted, box)), bits_of(image))
    part = Box(9, 3, 3, 2)
    where = part.slices(box)
    np.testing.assert_array_equal(bits_of(kept.restore(subtracted[where], part)), bits_of(image[where]))


@pytest.mark.parametrize(("sky", "noise", "most"), [(1000.0, 32.0, 0.0), (30.0, 7.0, 0.01), (5.0, 5.0, 0.3)])
def test_restoring_costs_little_under_a_real_sky(sky, noise, most):
    """A 600-row image comes back exactly; the share of kept pixels is none under a bright sky.

    Only pixels below half of the sky can lose bits: 15 sigma, 2 sigma and 0.5 sigma away here, of which again
    only some do.
    """
    box = Box(0, 0, 500, 600)
    image = np.random.default_rng(6).normal(sky, noise, box.shape).astype(np.float32)
    background = Background((MeshLayer.over(box, np.random.default_rng(7).normal(sky, 0.01 * sky, (6, 5))),))
    subtracted, kept = background.subtract(image, box)
    np.testing.assert_array_equal(bits_of(kept.restore(subtracted, box)), bits_of(image))
    assert len(kept.kept) <= most * image.size
    np.testing.assert_allclose(subtracted, image - background.image(box), rtol=0, atol=1e-3)


def test_subtraction_agrees_with_numpy_to_the_bit():
    """The kernel is float32(float64(image) - model) and its inverse float32(float64(image) + model)."""
    image = np.random.default_rng(8).normal(100, 10, BOX.shape).astype(np.float32)
    background = Background((LAYERS["bicubic"], LAYERS["focal plane"]))
    subtracted, kept = background.subtract(image, BOX)
    np.testing.assert_array_equal(subtracted, (image - background.values(BOX)).astype(np.float32))
    restored = (subtracted + background.values(BOX)).astype(np.float32)
    assert len(kept.kept) == (restored != image).sum()


def test_changed_pixels_are_not_undone():
    """A pixel interpolated after subtraction becomes its new value plus the model, kept or not."""
    image = np.full(BOX.shape, 0.1, dtype=np.float32)
    background = Background((ConstantLayer(1000.3),))
    subtracted, kept = background.subtract(image, BOX)
    assert len(kept.kept) == image.size
    subtracted[3, 4] = 2.0
    restored = kept.restore(subtracted, BOX)
    assert restored[3, 4] == np.float32(1002.3)
    restored[3, 4] = 0.1
    np.testing.assert_array_equal(restored, image)


def test_stages_compose_to_the_original():
    """Undoing one background and subtracting a longer one loses nothing of the first image."""
    image = np.random.default_rng(9).normal(3, 3, BOX.shape).astype(np.float32)
    first, kept = Background((ConstantLayer(2.5),)).subtract(image, BOX)
    second, longer = kept.plus(LAYERS["bicubic"], LAYERS["focal plane"]).subtract(
        kept.restore(first, BOX), BOX
    )
    np.testing.assert_array_equal(bits_of(longer.restore(second, BOX)), bits_of(image))
    assert len(longer.layers) == 3


def test_a_calibrated_background_is_the_sum_times_the_calibration():
    """Calibrating twice composes; the layers stay in electrons."""
    calib = PhotoCalib.from_surface(ChebyshevSurface.over(BOX, [[2.0, 0.1], [0.1, 0.0]]))
    background = Background((LAYERS["bilinear"],)).calibrated(calib)
    np.testing.assert_allclose(
        background.values(BOX), LAYERS["bilinear"].on_grid(BOX) * calib.calibration_image(BOX), rtol=1e-15
    )
    twice = background.calibrated(PhotoCalib(3.0))
    np.testing.assert_allclose(twice.values(BOX), 3 * background.values(BOX), rtol=1e-14)
    assert from_state(twice.to_state()) == twice


def test_senseless_layers_and_images_are_refused():
    """Values that are not finite, falling nodes, unknown words, other dtypes and shapes are errors."""
    with pytest.raises(ValueError, match="finite"):
        ConstantLayer(np.inf)
    with pytest.raises(ValueError, match="finite"):
        MeshLayer.over(BOX, [[np.nan]])
    with pytest.raises(ValueError, match="rise"):
        MeshLayer(np.ones((1, 2)), [1, 0], [0])
    with pytest.raises(ValueError, match="nodes for"):
        MeshLayer(np.ones((1, 2)), [0, 1], [0, 1])
    with pytest.raises(ValueError, match="bicubic or bilinear"):
        MeshLayer.over(BOX, [[1.0]], "cubic")
    with pytest.raises(ValueError, match="float32"):
        Background().subtract(np.zeros(BOX.shape), BOX)
    with pytest.raises(ValueError, match="shape"):
        CoordinateMap.affine(np.eye(2), BOX)
