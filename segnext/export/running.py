"""What the modules of the formats share: options of a run, what `load` returns, errors of one line."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from segnext.export.description import Description
from segnext.one_line import one_line

# Lines of OpenVINO's errors that say where in its code they came from.
_WITHOUT_REASON = ("Exception from", "Check '", "While validating")


class Loaded(NamedTuple):
    """An opened file.

    Attributes:
        run: contiguous images as the interface says to logits or a mask, on the CPU. Several threads may call it at
            once, and a call leaves the results of earlier ones as they are.
        description: what the file says.
        runtime: what runs it, with its version.
    """

    run: Callable[[Tensor], Tensor]
    description: Description
    runtime: str


@dataclass(frozen=True)
class RunOptions:
    """How an exported file is run.

    Attributes:
        dtype: of the arithmetic, where the runtime can choose it for a file.
    """

    dtype: torch.dtype = torch.float32

    def expect_float32(self, runtime: str, file: str) -> None:
        """Raise a ValueError for a runtime that computes as the file says."""
        if self.dtype != torch.float32:
            raise ValueError(
                f"{file}: dtype must be float32 for {runtime}, which computes as the file says, got "
                f"{str(self.dtype).removeprefix('torch.')}; leave it out"
            )


@contextmanager
def in_one_line(what: str) -> Iterator[None]:
    """Turn an error of another library, which may have pages, into a ValueError of one line."""
    try:
        yield
    except (MemoryError, ImportError, OSError):
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines()]
        said = [line for line in lines if line and not line.startswith(_WITHOUT_REASON)]
        reason = one_line(said[0] if said else type(error).__name__, 300)
        raise ValueError(f"{what} failed: {reason}") from error


def expect_zip(path: Path, name: str) -> None:
    """Raise a ValueError unless a file is a whole zip archive: readers of PyTorch's write pages about others."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{name}: file must be a whole archive, got a damaged or cut one; export it again")
