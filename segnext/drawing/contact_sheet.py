"""Draws many small pictures with their names on one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from segnext.drawing.fonts import font_for, legible
from segnext.drawing.overlay import INK, PAPER

CELL = (320, 240)  # width and height of the room for a picture
COLUMNS = 6  # a sheet of 24 is as wide as a screen
TEXT, LINE, GAP = 14, 20, 8  # pixels of letters, of a line, and between cells
FAULT = (190, 40, 40)


@dataclass(frozen=True)
class Cell:
    """One picture of the sheet.

    Attributes:
        name: what stands below it.
        picture: RGB, at most as large as `CELL`; None: there is none, and the cell is a red field.
        reason: why there is none; it stands in the field.
    """

    name: str
    picture: Image.Image | None
    reason: str = ""


def draw_sheet(cells: Sequence[Cell]) -> Image.Image:
    """Return the cells row by row, as an RGB image."""
    columns = max(1, min(COLUMNS, len(cells)))
    rows = -(-len(cells) // columns)
    pitch, step = CELL[0] + GAP, CELL[1] + LINE + GAP
    sheet = Image.new("RGB", (columns * pitch + GAP, rows * step + GAP), PAPER)
    draw = ImageDraw.Draw(sheet)
    for index, cell in enumerate(cells):
        left, top = GAP + index % columns * pitch, GAP + index // columns * step
        picture = cell.picture or _fault(cell.reason)
        # A lower picture stands on the line of its neighbours, above its name.
        sheet.paste(picture, (left + (CELL[0] - picture.width) // 2, top + CELL[1] - picture.height))
        name = legible(cell.name)
        font = _font(name)
        while name and font.getlength(name) > CELL[0]:
            name = f"...{name[4:]}"  # the ends of files' names differ
        middle = (left + CELL[0] // 2, top + CELL[1] + LINE // 2)
        draw.text(middle, name, font=font, fill=INK, anchor="mm")
    return sheet


def _fault(reason: str) -> Image.Image:
    """Return a red field with a reason, in as many lines as fit."""
    field = Image.new("RGB", CELL, FAULT)
    draw, line = ImageDraw.Draw(field), ""
    font = _font(reason)
    lines = []
    for letter in " ".join(reason.split()):  # not by words, for a path has none
        if font.getlength(line + letter) > CELL[0] - 2 * GAP:
            lines.append(line)
            line = ""
        line += letter
    lines.append(line)
    for row, text in enumerate(lines[: (CELL[1] - 2 * GAP) // LINE]):
        draw.text((GAP, GAP + row * LINE), text.strip(), font=font, fill="white")
    return field


def _font(text: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return font_for(text, TEXT) or ImageFont.load_default(TEXT)
