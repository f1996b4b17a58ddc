"""Options that hold several numbers, or a size."""

from __future__ import annotations


def parse_numbers(option: str, text: str) -> tuple[float, ...]:
    """The numbers of ``"0.75,1,1.25"``.

    Raises:
        ValueError: anything else; the message names `option`.
    """
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise ValueError(
            f"{option} must be numbers separated by commas, got {text!r}; for example 0.75,1,1.25"
        ) from None


def parse_size(option: str, text: str) -> tuple[int, int]:
    """Height and width of ``"512"`` or ``"1024x2048"``.

    Raises:
        ValueError: anything else; the message names `option`.
    """
    words = text.lower().split("x")
    if len(words) > 2 or not all(word.strip().isdigit() for word in words):
        raise ValueError(
            f"{option} must be a side or HEIGHTxWIDTH in pixels, got {text!r}; for example 512x1024"
        )
    return int(words[0]), int(words[-1])
