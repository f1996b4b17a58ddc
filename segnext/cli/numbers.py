"""Options that hold several numbers."""

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
