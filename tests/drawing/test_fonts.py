"""A font is taken only if it has every letter; Pillow's own is Latin without accents."""

import pytest
from PIL import ImageFont

from segnext.drawing.fonts import font_for, legible


def has(font_name: str) -> bool:
    try:
        ImageFont.truetype(font_name, 13)
    except OSError:
        return False
    return True


def test_pillows_own_font_for_plain_names():
    assert font_for("traffic light (2)", 20).getname()[0] == "Aileron"


@pytest.mark.parametrize("text", ["\U000f1234", "road \U0010fffd"])
def test_no_font_has_private_letters(text):
    assert font_for(text, 20) is None


@pytest.mark.skipif(not has("DejaVuSans.ttf"), reason="DejaVu Sans is not installed")
@pytest.mark.parametrize("text", ["Straße", "Дорога", "Ωé €"])
def test_another_font_of_the_machine(text):
    assert font_for(text, 20).getname()[0] == "DejaVu Sans"


@pytest.mark.parametrize(
    ("text", "line"),
    [("road", "road"), (" a\n b\t", "a b"), ("\0a\u202eb", "ab"), ("x" * 61, "x" * 57 + "..."), ("\n", "")],
)
def test_a_line(text, line):
    assert legible(text) == line
