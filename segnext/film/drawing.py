"""Draws the frames of an overlay film: quickly, and with a legend that stays where it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from segnext.drawing.overlay import class_borders, draw_legend

_MOST_IN_LEGEND = 30  # classes; a legend of more would be larger than the picture


class FrameDrawing:
    """Draws frames of one size, so that an encoder takes them all.

    Args:
        size: (height, width) of the first frame; frames of another size are resized to it.
        classes: their names.
        palette: (K, 3) uint8 RGB.
        alpha: strength of the colours, 0 to 1.

    Attributes:
        size: (height, width) of what is drawn: with the legend, and even, as video encoders want it.
    """

    def __init__(
        self, size: tuple[int, int], classes: Sequence[str], palette: np.ndarray, alpha: float
    ) -> None:
        self._frame = size
        self._palette, self._alpha = palette, alpha
        panel = self._panel(classes)
        height = size[0] + (0 if panel is None else panel.height)
        width = max(size[1], 0 if panel is None else panel.width)
        self.size = (height + height % 2, width + width % 2)
        self._canvas = np.full((*self.size, 3), 255, np.uint8)
        if panel is not None:
            self._canvas[size[0] : height, : panel.width] = np.asarray(panel)
        self._left = (width - size[1]) // 2

    def _panel(self, classes: Sequence[str]) -> Image.Image | None:
        if len(classes) > _MOST_IN_LEGEND:
            return None
        colours: list[list[int]] = self._palette.tolist()
        entries = [
            (i, name, (c[0], c[1], c[2])) for i, (name, c) in enumerate(zip(classes, colours, strict=True))
        ]
        return draw_legend((self._frame[1], self._frame[0]), [(*entry, None) for entry in entries])

    def draw(self, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the tinted frame above the legend.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            mask: (H, W) class ids.

        Returns:
            (height, width, 3) uint8 RGB of `size`; it is valid until the next call.
        """
        colours = np.take(self._palette, mask, axis=0)  # in a fourth of the time of palette[mask]
        tinted = Image.blend(Image.fromarray(pixels), Image.fromarray(colours), self._alpha)
        picture = np.array(tinted)
        border = class_borders(mask)
        picture[border] = picture[border] // 3 + 170  # as `draw_overlay`
        height, width = self._frame
        if picture.shape[:2] != self._frame:
            picture = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
        self._canvas[:height, self._left : self._left + width] = picture
        return self._canvas
