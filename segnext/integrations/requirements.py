"""Says in one line which optional package is missing or too old, and which extra brings it."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version


def expect_package(package: str, least: str, extra: str) -> None:
    """Raise an ImportError in one line unless a package is installed, in a version that is new enough.

    Args:
        package: the name of the distribution.
        least: the lowest version, for example ``"1.0.9"``.
        extra: of segnext, which brings the package.
    """
    try:
        installed = version(package)
    except PackageNotFoundError:
        installed = None
    if installed is None or _numbers(installed) < _numbers(least):
        raise ImportError(
            f"segnext.integrations.{extra}: {package} must be installed in version {least} or newer, got "
            f"{installed or 'none'}; pip install 'segnext[{extra}]'"
        )


def _numbers(text: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version: (1, 0, 9) of "1.0.9.dev0+cpu"."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(map(int, found[0].split("."))) if found else ()
