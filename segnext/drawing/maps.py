"""Draws a number per pixel as colours, with a bar that says which colour is which number; and captions."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segnext.drawing.overlay import FAINT, INK, PAPER, above
from segnext.drawing.ramp import ramp

TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LEAST = 13  # pixels of letters; they grow with the picture
_STRIP = 1 << 20  # pixels that are coloured at once


def draw_map(values: np.ndarray, title: str) -> Image.Image:
    """Return the values as colours (`segnext.drawing.ramp`), above a bar with numbers and the mean.

    Beside the result, only a strip of a few MB is in memory.

    Args:
        values: (H, W) float32 within 0..1; 0 is dark and 1 is light in every picture.
        title: what the values are; a part in brackets at its end is left out where there is no room.

    Returns:
        An RGB image; its upper part has a pixel per value. A narrow one stands in the middle of wider paper.
    """
    height, width = values.shape
    panel = _bar((width, height), title, f"mean {values.mean(dtype=np.float64):.3f}")
    canvas = above(panel, (width, height))
    left, step = (canvas.width - width) // 2, max(1, _STRIP // width)
    for top in range(0, height, step):
        canvas.paste(Image.fromarray(coloured(values[top : top + step])), (left, top))
    return canvas


def draw_caption(picture: Image.Image, text: str) -> Image.Image:
    """Return a picture with a line of text below it, in the letters of `draw_map`.

    Args:
        picture: RGB.
        text: a part in brackets at its end is left out where there is no room.
    """
    font = _font(picture.size)
    text = _fitting(text, font, picture.width - 2 * _size(font))
    width = max(picture.width, int(font.getlength(text)) + 2 * _size(font))
    panel = Image.new("RGB", (width, round(2.2 * _size(font))), PAPER)
    ImageDraw.Draw(panel).text((_size(font), panel.height // 2), text, font=font, fill=INK, anchor="lm")
    canvas = above(panel, picture.size)
    canvas.paste(picture, ((canvas.width - picture.width) // 2, 0))
    return canvas


def coloured(values: np.ndarray) -> np.ndarray:
    """Return the colours (..., 3) uint8 of values within 0..1."""
    colours: np.ndarray = ramp()[(255 * values + 0.5).astype(np.uint8)]
    return colours


def _bar(size: tuple[int, int], title: str, mean: str) -> Image.Image:
    """Draw the panel: title and mean, the bar, its ticks with numbers."""
    font = _font(size)
    letters = _size(font)
    width = max(size[0], 20 * letters)
    title = _fitting(title, font, width - 3 * letters - font.getlength(mean))
    panel = Image.new("RGB", (width, 5 * letters), PAPER)
    draw = ImageDraw.Draw(panel)
    left, right, top, bottom = 2 * letters, width - 2 * letters, 2 * letters, 3 * letters
    draw.text((left, letters), title, font=font, fill=INK, anchor="lm")
    draw.text((right, letters), mean, font=font, fill=FAINT, anchor="rm")
    strip = np.broadcast_to(coloured(np.linspace(0, 1, right - left)), (bottom - top, right - left, 3))
    panel.paste(Image.fromarray(np.ascontiguousarray(strip)), (left, top))
    draw.rectangle((left, top, right - 1, bottom - 1), outline=FAINT)
    for tick in TICKS:
        x = round(left + tick * (right - 1 - left))
        draw.line((x, bottom, x, bottom + letters // 3), fill=FAINT, width=max(1, letters // 12))
        draw.text((x, bottom + letters // 2), f"{tick:g}", font=font, fill=INK, anchor="mt")
    return panel


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> str:
    return text if font.getlength(text) <= room else text.split(" (")[0]


def _font(size: tuple[int, int]) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(_LEAST, round(0.021 * (size[0] * size[1]) ** 0.5)))


def _size(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return int(getattr(font, "size", _LEAST))
