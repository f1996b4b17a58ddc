"""Shows text from outside in messages, which have one line."""

from __future__ import annotations

import unicodedata

LIMIT = 120
"""Characters of a text that a message shows by default."""
LONGEST_NAME = 200
"""Characters of a class's name."""
SHORT = 8
"""Most items of a list that are shown."""
_PLAIN = (str, int, float, type(None))
JOINERS = "\u200c\u200d"
"""Controls that belong to letters of some languages, and to pictures."""


def one_line(value: object, limit: int = LIMIT) -> str:
    r"""Return a text on one line: what cannot be printed becomes \n, \x00 and the like; the middle of a long one goes.

    Args:
        value: a name, a path, a message; anything but a string is converted with `str`.
        limit: most characters of the result, at least 20.
    """
    text = str(value)
    if len(text) > 2 * limit:  # escape the ends only: a name may have millions of characters
        text = f"{text[:limit]}{text[-limit:]}"
        shortened = True
    else:
        shortened = False
    escaped = "".join(letter if is_one_line(letter) else _escape(letter) for letter in text)
    if not shortened and len(escaped) <= limit:
        return escaped
    head = (limit - 3) * 2 // 3
    return f"{escaped[:head]}...{escaped[head + 3 - limit :]}"


def shown(value: object, limit: int = 60) -> str:
    """Show a value that may be deep, long, or hold itself many times over: such a container by its size only."""
    if isinstance(value, list | tuple | dict | set | frozenset):
        flat = isinstance(value, list | tuple) and all(isinstance(item, _PLAIN) for item in value[:SHORT])
        return (
            one_line(value, limit)
            if flat and len(value) <= SHORT
            else f"{len(value):,} in a {type(value).__name__}"
        )
    return one_line(value, limit) if isinstance(value, _PLAIN) else f"a {type(value).__name__}"


def is_one_line(text: str) -> bool:
    """Say whether a text has neither line breaks nor other controls; letters and spaces of all languages are fine."""
    return text.isprintable() or not any(
        unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") and letter not in JOINERS
        for letter in text
    )


def is_class_name(name: object) -> bool:
    """Say whether weights can keep a name of a class, and a legend can draw it: one line, not too long."""
    return isinstance(name, str) and len(name) <= LONGEST_NAME and is_one_line(name)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
