"""Chooses a font that has the letters of a text: Pillow's own, or one that the machine has."""

from __future__ import annotations

import functools
import unicodedata

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow finds these by name in the system's folders of fonts. They are common, and each of them has more letters than
# Pillow's own, which is Latin without accents.
CANDIDATES = (
    *("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf", "arial.ttf"),
    *("Arial Unicode.ttf", "NotoSansCJK-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc", "uming.ttc"),
    *("DroidSansFallbackFull.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc"),
    *("msyh.ttc", "YuGothM.ttc", "meiryo.ttc", "malgun.ttf", "simsun.ttc", "unifont.ttf"),
)
LONGEST = 60  # characters of a name: a longer one would make the legend wider than any photograph

_MISSING = "\U0010ffff"  # never a letter, so that a font draws its sign for missing ones


def legible(text: str) -> str:
    """Return a text on one line, without what cannot be drawn, and cut to 60 characters."""
    line = " ".join(text.split())
    line = "".join(letter for letter in line if unicodedata.category(letter) not in ("Cc", "Cf", "Cs"))
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def font_for(text: str, size: int) -> Font | None:
    """Return the first font with every letter of a text; None if the machine has none."""
    for name in (None, *CANDIDATES):
        font = _font(name, size)
        if font is not None and all(_has(font, letter) for letter in set(text)):
            return font
    return None


@functools.lru_cache(maxsize=64)
def _font(name: str | None, size: int) -> Font | None:
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


def _has(font: Font, letter: str) -> bool:
    """Return whether a font draws a letter as such, and not as nothing or as its sign for missing letters."""
    drawn, missing = font.getmask(letter), font.getmask(_MISSING)
    if letter.isspace() or unicodedata.combining(letter):
        return True
    return drawn.getbbox() is not None and (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))
