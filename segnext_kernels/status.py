"""What of this library is here: which parts are built and importable, and how they were built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segnext_kernels import native
from segnext_kernels.triton import launch


@dataclass(frozen=True)
class Status:
    """The parts of the library on this machine.

    Attributes:
        missing: for "cpu", "cuda" and "triton" why the part is not here, with the remedy; None where it is.
        instruction_set: of the CPU kernels in use; None without them.
        without_tiles: why AMX does not multiply bfloat16 for the CPU kernels; None where it does.
        build: the record of the build: compilers, flags, instruction sets, architectures, what was left out and why.
    """

    missing: Mapping[str, str | None]
    instruction_set: str | None
    without_tiles: str | None
    build: Mapping[str, Any]


def status() -> Status:
    """What is here, and what is missing and why. Imports Triton where it is installed."""
    missing = {"cpu": native.missing("cpu"), "cuda": native.missing("cuda"), "triton": launch.missing()}
    name = None if missing["cpu"] else native.INSTRUCTION_SETS[native.instruction_set()]
    without_tiles = missing["cpu"] or native.reason_against_tiles()
    return Status(missing, name, without_tiles, native.build_record())
