"""Point-Spread Functions (LDM-151 9.6): PSFEx models read as our polynomial PSFs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from skyquilt.primitives.failure import ProcessingFailure, Reason
from skyquilt.primitives.geometry import Box
from skyquilt.primitives.psf import PolynomialPsf


def read_psfex(
    path: str | Path, box: Box, extension: str | int | None = None, row: Mapping[str, Any] | None = None
) -> PolynomialPsf:
    """PSF of a PSFEx model (Bertin 2011), polynomial in x and y.

    Both forms are read: PSFEx's own (keywords POLZERO1 ... PSF_SAMP, column PSF_MASK), and tables with a row per
    detector whose columns have those names.

    Parameters
    ----------
    path : path
    box : Box
        Pixels of the image in the parent frame; PSFEx counts from 1 at its first pixel.
    extension : str or int, optional
        HDU; by default the first table.
    row : mapping, optional
        Column -> value that the row has; needed when there are several rows.

    Raises
    ------
    ProcessingFailure
        MISSING_FILE, UNREADABLE_FILE; BAD_HEADER when it depends on other things than x and y, is sampled
        coarser than the pixels, or the row is not there.
    """
    path = Path(path)
    model = _psfex_model(path, extension, row or {})
    basis = np.asarray(model["psf_mask"], np.float64)
    basis = basis.reshape(basis.shape[-3:])
    names = [str(model.get(f"polname{axis}", "")).strip() for axis in (1, 2)]
    degree = int(model.get("poldeg1", 0)) if len(basis) > 1 else 0
    # X_IMAGE and Y_IMAGE, or the same by another measurement (XWIN_IMAGE)
    plain = all(n[:1] == axis and n.endswith("_IMAGE") for n, axis in zip(names, "XY", strict=True))
    if degree and (not plain or (degree + 1) * (degree + 2) // 2 != len(basis)):
        raise ProcessingFailure(
            Reason.BAD_HEADER,
            f"{path.name}: {len(basis)} PSF terms in {names[0]}, {names[1]} of degree {degree}; expected a polynomial in "
            "X_IMAGE and Y_IMAGE",
        )
    step = float(model.get("psf_samp", 1.0))
    if not 0 < step <= 1:
        raise ProcessingFailure(
            Reason.BAD_HEADER, f"{path.name}: PSF_SAMP is {step:g}, expected more than 0 and at most 1 pixel"
        )
    zero = [float(model.get(f"polzero{axis}", 0.0)) for axis in (1, 2)]
    scale = [float(model.get(f"polscal{axis}", 1.0)) or 1.0 for axis in (1, 2)]
    domain, coefficients = _in_our_terms(degree, zero, scale, box)
    return PolynomialPsf.from_arrays(_odd(basis), coefficients, degree, domain, step)


def _psfex_model(path: Path, extension: str | int | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """Header and one row of a PSFEx table, names in lower case."""
    from astropy.io import fits

    with opened(path) as hdus:
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        if extension is not None:
            tables = [hdus[extension]]
        for hdu in tables:
            names = {name.lower(): name for name in hdu.columns.names}
            if "psf_mask" not in names:
                continue
            chosen = np.ones(len(hdu.data), bool)
            for column, wanted in row.items():
                if column.lower() in names:
                    cells = hdu.data[names[column.lower()]]
                    chosen &= np.array([str(cell).strip() == str(wanted).strip() for cell in cells])
            if np.count_nonzero(chosen) != 1:
                raise ProcessingFailure(
                    Reason.BAD_HEADER,
                    f"{path.name}: {np.count_nonzero(chosen)} of {len(chosen)} rows fit {dict(row)}, expected one",
                )
            number = int(np.flatnonzero(chosen)[0])
            header = {key.lower(): value for key, value in hdu.header.items()}
            return header | {lower: hdu.data[name][number] for lower, name in names.items()}
    raise ProcessingFailure(Reason.UNREADABLE_FILE, f"{path.name}: no table with a column PSF_MASK")


def _in_our_terms(degree: int, zero: list[float], scale: list[float], box: Box) -> tuple[Box, np.ndarray]:
    """Domain, and coefficients (n_basis, n_term) that make each PSFEx term of our polynomial terms."""
    from skyquilt.primitives.kernels import polynomial_terms

    # their centre in the parent frame; PSFEx counts from 1
    centre = zero[0] - 1.0 + box.x0, zero[1] - 1.0 + box.y0
    size = [max(round(abs(length)), 8) for length in scale]
    domain = Box(round(centre[0]) - size[0] // 2, round(centre[1]) - size[1] // 2, *size)
    steps = np.linspace(0.0, 1.0, degree + 3)
    x, y = (g.ravel() for g in np.meshgrid(domain.x0 + steps * domain.nx, domain.y0 + steps * domain.ny))
    u, v = (x - centre[0]) / scale[0], (y - centre[1]) / scale[1]
    # PSFEx: for each power of y all powers of x
    theirs = np.array([u**i * v**j for j in range(degree + 1) for i in range(degree + 1 - j)])
    ours = polynomial_terms(x, y, degree, domain)
    # both span the same polynomials: the solution is exact
    solution, *_ = np.linalg.lstsq(ours.T, theirs.T, rcond=None)
    return domain, solution.T


def _odd(basis: np.ndarray) -> np.ndarray:
    """Stamps with an odd, square side: PSFEx centres even ones at n // 2, as a row of zeros more does."""
    ny, nx = basis.shape[1:]
    side = max(ny + 1 - ny % 2, nx + 1 - nx % 2)
    low_y, low_x = side // 2 - ny // 2, side // 2 - nx // 2
    return np.pad(basis, ((0, 0), (low_y, side - ny - low_y), (low_x, side - nx - low_x)))


def opened(path: Path) -> Any:
    """The HDU list of a file; ProcessingFailure MISSING_FILE or UNREADABLE_FILE."""
    from astropy.io import fits

    if not path.is_file():
        raise ProcessingFailure(Reason.MISSING_FILE, f"{path.name}: there is no such file")
    try:
        return fits.open(path, memmap=False)
    except OSError as error:
        raise ProcessingFailure(Reason.UNREADABLE_FILE, f"{path.name}: {error}") from error
