"""Draws a segmentation: class colours over the photograph, and a legend of its classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segnext.drawing.fonts import font_for, legible

PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (110, 114, 120)


def draw_overlay(image: np.ndarray, mask: np.ndarray, palette: np.ndarray, alpha: float = 0.5) -> Image.Image:
    """Return the photograph tinted with class colours; borders between classes are drawn light.

    Args:
        image: (H, W, 3) uint8 RGB.
        mask: (H, W) class ids.
        palette: (K, 3) uint8 RGB; K is above every id.
        alpha: 0 shows the photograph, 1 the colours.

    Returns:
        An RGB image of W x H.
    """
    colours = palette[mask]
    tinted = np.array(Image.blend(Image.fromarray(image), Image.fromarray(colours), alpha))
    border = class_borders(mask)
    tinted[border] = tinted[border] // 3 + 170  # two thirds of the way to white
    return Image.fromarray(tinted)


def class_borders(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) bool: True where the right or lower neighbour has another class."""
    border = np.zeros(mask.shape, dtype=bool)
    border[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    border[:-1] |= mask[:-1] != mask[1:]
    return border


def add_legend(
    picture: Image.Image, entries: Sequence[tuple[int, str, tuple[int, int, int], float]]
) -> Image.Image:
    """Add a panel below the picture that lists colours, names and shares in columns.

    A name whose letters no font of the machine has is replaced by its class id.

    Args:
        picture: RGB.
        entries: (class id, name, colour, share of the pixels 0..1), in the order to be listed.

    Returns:
        A larger RGB image; the picture's pixels are unchanged.
    """
    width, height = picture.size
    text_size = max(13, round(0.021 * (width * height) ** 0.5))
    font = ImageFont.load_default(text_size)
    swatch, gap, margin, line = text_size, text_size // 2, text_size, round(1.7 * text_size)
    rows = [
        (*_label(class_id, name, text_size), colour, _percent(share))
        for class_id, name, colour, share in entries
    ]
    if not rows:
        return picture
    name_width = max(own.getlength(name) for name, own, _, _ in rows)
    share_width = max(font.getlength(share) for _, _, _, share in rows)
    column = int(swatch + gap + name_width + gap + share_width + 2 * gap + 0.999)

    total_width = max(width, column + 2 * margin)
    columns = max(1, min(len(rows), (total_width - 2 * margin + 2 * gap) // column))
    lines = -(-len(rows) // columns)
    pitch = (total_width - 2 * margin) / -(-len(rows) // lines)  # the columns in use, spread over the width
    canvas = Image.new("RGB", (total_width, height + lines * line + margin), PAPER)
    canvas.paste(picture, ((total_width - width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for index, (name, own, colour, share) in enumerate(rows):
        x = margin + int(index // lines * pitch)
        middle = height + margin // 2 + index % lines * line + line // 2
        top = middle - swatch // 2
        draw.rounded_rectangle(
            (x, top, x + swatch, top + swatch), radius=swatch // 5, fill=colour, outline=FAINT
        )
        draw.text((x + swatch + gap, middle), name, font=own, fill=INK, anchor="lm")
        end = x + swatch + gap + name_width + gap + share_width
        draw.text((end, middle), share, font=font, fill=FAINT, anchor="rm")
    return canvas


def _label(class_id: int, name: str, size: int) -> tuple[str, ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    """Return what stands beside a colour, and its font."""
    text = legible(name)
    font = font_for(text, size) if text else None
    return (text, font) if font is not None else (f"class {class_id}", ImageFont.load_default(size))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"
