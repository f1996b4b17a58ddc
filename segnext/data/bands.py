"""Reads images of any number of bands, such as those of satellites: chosen bands of a TIFF file, as 8 bits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from segnext.data.depth import ValueRange, to_bytes
from segnext.data.images import ImageError, read_image
from segnext.one_line import one_line

Bands = tuple[int, ...]

TIFF_SUFFIXES = frozenset((".tif", ".tiff"))
_ROWS, _COLUMNS = "Y", "X"


def read_bands(
    path: str | os.PathLike[str],
    bands: Bands | None,
    value_range: ValueRange | None = None,
    *,
    upright: bool = True,
) -> np.ndarray:
    """Read chosen bands of a file, scaled to 8 bits.

    Args:
        path: a TIFF file whose bands are interleaved, in planes, or pages of equal size; or, for bands 0 to 2, any file
            of `segnext.data.images.read_image`, whose bands are red, green and blue.
        bands: their numbers, from 0, in the order of the network's channels; None: RGB, by `read_image`.
        value_range: the values that become 0 and 255; values of more than 8 bits need it. It holds for all bands.
        upright: see `read_image`; the bands of a TIFF are never turned.

    Returns:
        (H, W, number of bands) uint8, contiguous and writable.

    Raises:
        ImageError: the file cannot be read, has too few bands, or no range is known. ImportError: tifffile is missing.
    """
    if bands is None:
        return read_image(path, value_range, upright=upright)
    file = Path(path)
    is_tiff = file.suffix.lower() in TIFF_SUFFIXES
    values = _tiff(file) if is_tiff else read_image(file, value_range, upright=upright)
    if max(bands) >= values.shape[2]:
        raise ImageError(
            f"{file}: band {max(bands)} must be there, got {values.shape[2]} bands (counted from 0); correct bands in "
            "the data YAML"
        )
    chosen = values[:, :, list(bands)]
    if chosen.dtype == np.uint8 and (value_range is None or not is_tiff):
        return np.ascontiguousarray(chosen)
    if value_range is None:
        raise ImageError(
            f"{file}: {chosen.dtype} values have no defined brightness; say value_range in the data YAML, such as "
            f"[0, 10000]; this file has {chosen.min()}..{chosen.max()}"
        )
    if not np.isfinite(chosen).all():
        raise ImageError(f"{file}: pixels must be finite numbers, got NaN or infinity; replace them")
    return to_bytes(chosen, value_range)


def rgb_view(image: np.ndarray) -> np.ndarray:
    """Return an (H, W, 3) image to look at: the first three bands, or the first one in gray."""
    return image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)


def _tiff(file: Path) -> np.ndarray:
    """Return all bands of a TIFF file, (H, W, C) of any type."""
    try:
        import tifffile
    except ImportError:
        raise ImportError(
            "images with bands are read by tifffile, which is not installed; pip install 'segnext[bands]'"
        ) from None
    try:
        with tifffile.TiffFile(file) as content:
            if not content.series:
                raise ValueError("it holds no image")
            series = content.series[0]
            return _rows_columns_bands(series.asarray(), series.axes)
    except ImageError:
        raise
    except Exception as error:  # a damaged file can raise any error
        raise ImageError(f"{file}: cannot be decoded ({one_line(error)})") from None


def _rows_columns_bands(values: Any, axes: str) -> np.ndarray:
    """Return an array whose axes tifffile calls so as (H, W, C); all axes but rows and columns are bands."""
    array = np.asarray(values)
    rows, columns = axes.index(_ROWS), axes.index(_COLUMNS)
    others = [axis for axis in range(array.ndim) if axis not in (rows, columns)]
    ordered = array.transpose(rows, columns, *others)
    return ordered.reshape(*ordered.shape[:2], -1)
