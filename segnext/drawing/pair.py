"""Draws the masks of two models beside the photograph, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segnext.drawing.fonts import font_for, legible
from segnext.drawing.overlay import INK, PAPER, above, draw_legend, draw_overlay

LARGEST_PANEL = 960  # pixels of the longer side: two of them fit on a screen
LEAST_WIDTH = 300  # of the room for a panel and its title
SURER = ((230, 97, 1), (44, 82, 190))  # orange and blue, which all eyes tell apart
_SAME = (222, 222, 222)
_TEXT, _LINE, _GAP = 18, 32, 8  # pixels of a title's letters, of its line, and between panels
_LEGEND = 735_000  # pixels of a picture whose legend has letters of 18 pixels
_PALE = 0.35  # how much of the photograph's contrast is left below the differences


def draw_pair(
    image: np.ndarray,
    masks: tuple[np.ndarray, np.ndarray],
    differences: np.ndarray,
    classes: Sequence[str],
    palette: np.ndarray,
    titles: tuple[str, str],
    tells_surer: bool,
) -> Image.Image:
    """Return four panels with legends: the photograph and the differences, above the masks of both models.

    Args:
        image: (H, W, 3) uint8 RGB.
        masks: (H, W) class ids of each model.
        differences: (H, W) uint8: 0 where the classes are the same, else 1 or 2.
        classes: name of each class.
        palette: (K, 3) uint8 RGB.
        titles: names of the models.
        tells_surer: differences are 1 where the first model is surer and 2 where the second one is; else 1 alone.
    """
    size = _reduced(image.shape[1], image.shape[0])
    panels = [
        ("photograph", Image.fromarray(image)),
        ("differences", draw_differences(image, differences)),
        *(
            (f"{letter}: {title}", draw_overlay(image, mask, palette))
            for letter, title, mask in zip("ab", titles, masks, strict=True)
        ),
    ]
    width, height = max(size[0], LEAST_WIDTH), size[1] + _LINE
    grid = Image.new("RGB", (2 * width + 3 * _GAP, 2 * height + 2 * _GAP), PAPER)
    for index, (title, picture) in enumerate(panels):
        left, top = _GAP + index % 2 * (width + _GAP), index // 2 * (height + _GAP)
        font = font_for(legible(title), _TEXT) or ImageFont.load_default(_TEXT)
        name = legible(title)
        ImageDraw.Draw(grid).text((left, top + _LINE // 2), name, font=font, fill=INK, anchor="lm")
        small = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        grid.paste(small, (left + (width - size[0]) // 2, top + _LINE))
    for entries in (_kinds(differences, tells_surer), _present(masks, classes, palette)):
        panel = draw_legend((grid.width, _LEGEND // grid.width), entries)
        if panel is not None:
            canvas = above(panel, grid.size)
            canvas.paste(grid, ((canvas.width - grid.width) // 2, 0))
            grid = canvas
    return grid


def _reduced(width: int, height: int) -> tuple[int, int]:
    scale = min(1.0, LARGEST_PANEL / max(width, height))
    return max(1, round(scale * width)), max(1, round(scale * height))


def draw_differences(image: np.ndarray, differences: np.ndarray) -> Image.Image:
    """Return the photograph in pale gray, with the pixels in colour whose classes differ."""
    gray = np.asarray(Image.fromarray(image).convert("L"))
    pale = (255 * (1 - _PALE) + _PALE * np.arange(256)).astype(np.uint8)[gray]
    picture = np.repeat(pale[..., None], 3, axis=2)
    for which, colour in enumerate(SURER, 1):
        picture[differences == which] = colour
    return Image.fromarray(picture)


def _kinds(
    differences: np.ndarray, tells_surer: bool
) -> list[tuple[int, str, tuple[int, int, int], float | str | None]]:
    """Return the legend of the differences."""
    shares = [float((differences == which).mean()) for which in range(3)]
    same = (0, "same class", _SAME, _percent(shares[0]))
    if not tells_surer:
        return [same, (1, "another class", SURER[0], _percent(shares[1]))]
    names = ("another class, a is surer", "another class, b is surer")
    return [same, *((i + 1, names[i], SURER[i], _percent(shares[i + 1])) for i in range(2))]


def _present(
    masks: tuple[np.ndarray, np.ndarray], classes: Sequence[str], palette: np.ndarray
) -> list[tuple[int, str, tuple[int, int, int], float | str | None]]:
    """Return the legend of the classes in any of the masks, the largest first, with their shares in both."""
    counts = np.zeros((2, len(classes)), np.int64)
    for count, mask in zip(counts, masks, strict=True):
        for row in mask:  # at once, bincount would make 8 bytes of each id of a large mask
            count += np.bincount(row, minlength=len(classes))
    shares = counts / masks[0].size
    order = [int(index) for index in np.argsort(-counts.sum(0), kind="stable") if counts[:, index].any()]
    colours: list[list[int]] = palette.tolist()
    return [
        (
            index,
            classes[index],
            (colours[index][0], colours[index][1], colours[index][2]),
            f"{100 * shares[0, index]:.1f} | {100 * shares[1, index]:.1f} %",
        )
        for index in order
    ]


def _percent(share: float) -> str:
    """Return a share that may be close to 0 or 1: those are told from 0 and 1."""
    text = f"{100 * share:.2f} %"
    if share > 0 and text == "0.00 %":
        return "< 0.01 %"
    return "> 99.99 %" if share < 1 and text == "100.00 %" else text
