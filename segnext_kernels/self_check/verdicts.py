"""Verdicts of self-checks, and the file that keeps them: one per device type, driver, build and software."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segnext_kernels import native, user_cache

PACKAGE = Path(__file__).resolve().parents[1]
DRIVER = Path("/sys/module/nvidia/version")


@dataclass(frozen=True)
class Subject:
    """One kernel in one dtype, the subject of a verdict."""

    op: str
    backend: str
    dtype: torch.dtype

    @property
    def is_backward(self) -> bool:
        return self.op.endswith("_backward")

    def __str__(self) -> str:
        return f"{self.op} {self.backend} {str(self.dtype).removeprefix('torch.')}"

    @classmethod
    def of(cls, text: str) -> Subject:
        """From its `str`."""
        op, backend, dtype = text.split()
        return cls(op, backend, getattr(torch, dtype))


@dataclass(frozen=True)
class Verdict:
    """Whether a kernel agreed with its definition, and the reason if it did not."""

    agrees: bool
    reason: str = ""


@functools.cache
def path_of(device: int) -> Path:
    """The file of this device's verdicts."""
    major, minor = torch.cuda.get_device_capability(device)
    words = (torch.cuda.get_device_name(device), f"sm_{major}{minor}", f"driver-{_driver()}", _build())
    return user_cache.folder("self_check") / user_cache.file_name(*words)


def _driver() -> str:
    try:
        return DRIVER.read_text().strip()
    except OSError:  # not Linux, or hidden by a container: use the version of its interface
        return str(torch._C._cuda_getDriverVersion())  # type: ignore[attr-defined]


@functools.cache
def _build() -> str:
    """A digest of all that determines the kernels: library, sources of this package, versions of torch and Triton."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.read_bytes())
    if native._C is not None:
        digest.update(Path(native._C.__file__).read_bytes())
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        digest.update(importlib.metadata.version("triton").encode())
    digest.update(torch.__version__.encode())
    return digest.hexdigest()


def read(path: Path) -> dict[Subject, Verdict]:
    """All verdicts of a file; none if it is missing or broken."""
    found = {}
    for text, verdict in user_cache.read(path).items():
        with contextlib.suppress(TypeError, ValueError, AttributeError):  # of another version, or damaged
            found[Subject.of(text)] = Verdict(**verdict)
    return found


def add(path: Path, subject: Subject, verdict: Verdict) -> None:
    """Add a verdict to the file."""
    content: dict[str, Any] = user_cache.read(path)
    content[str(subject)] = vars(verdict)
    user_cache.write(path, content)


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Let one process in at a time; without file locks, or without a place to write, processes do not wait."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(path.with_suffix(".lock").open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
