from collections.abc import Callable
from typing import Any


def workloads(timings: Any) -> list[tuple[str, Callable[[float], Any]]]:
    return []
