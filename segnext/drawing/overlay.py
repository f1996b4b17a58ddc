"""Draws a segmentation: class colours over the photograph, and a legend of its classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segnext.drawing.fonts import font_for, legible

PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (110, 114, 120)
# Pixels that are tinted at once: a large photograph is in memory twice, as an array and as the result.
_STRIP = 1 << 20


def draw_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    palette: np.ndarray,
    alpha: float = 0.5,
    legend: Image.Image | None = None,
) -> Image.Image:
    """Return the photograph tinted with class colours; borders between classes are drawn light.

    Beside the result, only a strip of a few MB is in memory.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) class ids.
        palette: (K, 3) uint8 RGB; K is above every id.
        alpha: 0 shows the photograph, 1 the colours.
        legend: what `draw_legend` gives; it stands below.

    Returns:
        An RGB image of W x H, or as wide and as much higher as the legend is.
    """
    height, width = mask.shape
    canvas = above(legend, (width, height))
    left, step = (canvas.width - width) // 2, max(1, _STRIP // width)
    for top in range(0, height, step):
        bottom = min(top + step, height)
        colours = Image.fromarray(palette[mask[top:bottom]])
        tinted = np.array(Image.blend(Image.fromarray(image[top:bottom]), colours, alpha))
        border = class_borders(mask[top : bottom + 1])[: bottom - top]
        tinted[border] = tinted[border] // 3 + 170  # two thirds of the way to white
        canvas.paste(Image.fromarray(tinted), (left, top))
    return canvas


def class_borders(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: True where the right or lower neighbour has another class."""
    border = np.zeros(mask.shape, dtype=bool)
    border[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    border[:-1] |= mask[:-1] != mask[1:]
    return border


def add_legend(
    picture: Image.Image, entries: Sequence[tuple[int, str, tuple[int, int, int], float]]
) -> Image.Image:
    """Add a panel below the picture, see `draw_legend`.

    Args:
        picture: RGB.
        entries: as in `draw_legend`; without any, the result is the picture.

    Returns:
        A larger RGB image; the picture's pixels are unchanged.
    """
    legend = draw_legend(picture.size, entries)
    if legend is None:
        return picture
    canvas = above(legend, picture.size)
    canvas.paste(picture, ((canvas.width - picture.width) // 2, 0))
    return canvas


def draw_legend(
    size: tuple[int, int], entries: Sequence[tuple[int, str, tuple[int, int, int], float | str | None]]
) -> Image.Image | None:
    """Draw the panel that lists colours, names and shares in columns.

    A name whose letters no font of the machine has is replaced by its class id.

    Args:
        size: width and height of the picture above the panel; letters grow with it.
        entries: (class id, name, colour, share of the pixels 0..1, or a text in its place), in the order to be listed;
            None: no share is shown.

    Returns:
        RGB, at least as wide as the picture; None without entries.
    """
    width, height = size
    text_size = max(13, round(0.021 * (width * height) ** 0.5))
    font = ImageFont.load_default(text_size)
    swatch, gap, margin, line = text_size, text_size // 2, text_size, round(1.7 * text_size)
    rows = [
        (*_label(class_id, name, text_size), colour, share if isinstance(share, str) else _percent(share))
        for class_id, name, colour, share in entries
    ]
    if not rows:
        return None
    name_width = max(own.getlength(name) for name, own, _, _ in rows)
    share_width = max(font.getlength(share) for _, _, _, share in rows)
    column = int(swatch + gap + name_width + gap + share_width + 2 * gap + 0.999)

    total_width = max(width, column + 2 * margin)
    columns = max(1, min(len(rows), (total_width - 2 * margin + 2 * gap) // column))
    lines = -(-len(rows) // columns)
    pitch = (total_width - 2 * margin) / -(-len(rows) // lines)  # the columns in use, spread over the width
    panel = Image.new("RGB", (total_width, lines * line + margin), PAPER)
    draw = ImageDraw.Draw(panel)
    for index, (name, own, colour, share) in enumerate(rows):
        x = margin + int(index // lines * pitch)
        middle = margin // 2 + index % lines * line + line // 2
        top = middle - swatch // 2
        draw.rounded_rectangle(
            (x, top, x + swatch, top + swatch), radius=swatch // 5, fill=colour, outline=FAINT
        )
        draw.text((x + swatch + gap, middle), name, font=own, fill=INK, anchor="lm")
        end = x + swatch + gap + name_width + gap + share_width
        draw.text((end, middle), share, font=font, fill=FAINT, anchor="rm")
    return panel


def above(legend: Image.Image | None, size: tuple[int, int]) -> Image.Image:
    """Return paper for a picture of `size`, in the middle of what is above the legend, which is drawn already."""
    if legend is None:
        return Image.new("RGB", size, PAPER)
    canvas = Image.new("RGB", (legend.width, size[1] + legend.height), PAPER)
    canvas.paste(legend, (0, size[1]))
    return canvas


def _label(class_id: int, name: str, size: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Return what stands beside a colour, and its font."""
    text = legible(name)
    font = font_for(text, size) if text else None
    return (text, font) if font is not None else (f"class {class_id}", ImageFont.load_default(size))


def _percent(share: float | None) -> str:
    if share is None:
        return ""
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
