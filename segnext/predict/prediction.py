"""A segmented photograph: its mask as a file, its overlay, the share of every class."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segnext.atomic import replace_bytes
from segnext.drawing.encoding import encoded
from segnext.drawing.overlay import draw_legend, draw_overlay

LARGEST_JPEG = 65_500  # pixels of a side that libjpeg takes


@dataclass(frozen=True)
class Prediction:
    """A segmented photograph.

    Attributes:
        mask: (H, W) class ids, uint8 up to 256 classes, else int32.
        image: (H, W, 3) uint8 RGB, the photograph.
        classes: name of each class.
        palette: (K, 3) uint8 RGB, colour of each class.
        seconds: time from decoded pixels to the mask in the host's memory.
    """

    mask: np.ndarray
    image: np.ndarray
    classes: tuple[str, ...]
    palette: np.ndarray
    seconds: float

    def statistics(self) -> dict[str, float]:
        """Return the share of the pixels (0..1) of every class, also of absent ones, in the order of the ids."""
        shares: dict[str, float] = {}
        for name, count in zip(self.classes, self.counts().tolist(), strict=True):
            shares[name] = shares.get(name, 0.0) + count / self.mask.size  # some data sets repeat a name
        return shares

    def save_mask(self, path: str | os.PathLike[str]) -> None:
        """Write `mask_png`; the file is replaced whole or not at all, a link is replaced and not followed.

        Raises:
            OSError: it cannot be written; `filename` is `path`.
        """
        replace_bytes(path, self.mask_png())

    def mask_png(self) -> bytes:
        """Return the class ids as a PNG: 8-bit with the class colours as palette, 16-bit above 256 classes.

        The pixels *are* the ids: ``np.array(Image.open(io.BytesIO(png)))`` gives the mask back.
        """
        if self.mask.dtype == np.uint8:
            picture = Image.fromarray(self.mask)
            picture.putpalette(self.palette.tobytes())
        else:
            picture = Image.fromarray(self.mask.astype(np.uint16))
        return encoded(picture, format="PNG")

    def save_overlay(self, path: str | os.PathLike[str], alpha: float = 0.5) -> Path:
        """Write `overlay_file(alpha)`, a JPEG, or a PNG beside it if a side is longer than a JPEG's can be.

        Args:
            path: ``*.jpg``; it is replaced whole or not at all.
            alpha: see `overlay`.

        Returns:
            The file that was written.

        Raises:
            OSError: it cannot be written; `filename` is the file.
        """
        kind, content = self.overlay_file(alpha)
        file = Path(path) if kind == "JPEG" else Path(path).with_suffix(".png")
        replace_bytes(file, content)
        return file

    def overlay_file(self, alpha: float = 0.5, legend: bool = True) -> tuple[str, bytes]:
        """Return `overlay` as a file: "JPEG", or "PNG" if a side is longer than a JPEG's can be, and its bytes."""
        picture = self.overlay(alpha, legend)
        if max(picture.size) > LARGEST_JPEG:
            return "PNG", encoded(picture, format="PNG")
        return "JPEG", encoded(picture, format="JPEG", quality=92, subsampling=0)

    def overlay(self, alpha: float = 0.5, legend: bool = True) -> Image.Image:
        """Return the photograph tinted with the class colours.

        Args:
            alpha: 0 shows the photograph, 1 the colours.
            legend: add a panel below with colour, name and share of the classes present, the largest first.

        Returns:
            An RGB image; without the legend it is as large as the photograph.

        Raises:
            ValueError: alpha is out of range.
        """
        if not 0 <= alpha <= 1:
            raise ValueError(f"overlay: alpha must be within 0..1, got {alpha}")
        panel = self._legend() if legend else None
        return draw_overlay(self.image, self.mask, self.palette, alpha, panel)

    def _legend(self) -> Image.Image | None:
        counts = self.counts()
        height, width = self.mask.shape
        present = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
        colours: list[list[int]] = self.palette.tolist()
        entries = [
            (i, self.classes[i], (colours[i][0], colours[i][1], colours[i][2]), counts[i] / self.mask.size)
            for i in present
        ]
        return draw_legend((width, height), entries)

    def counts(self) -> np.ndarray:
        """Return the number of pixels of each class."""
        counts = np.zeros(len(self.classes), np.int64)
        for row in self.mask:  # at once, bincount would make 8 bytes of each id of a large mask
            counts += np.bincount(row, minlength=len(self.classes))
        return counts
