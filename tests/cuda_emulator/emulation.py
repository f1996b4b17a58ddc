"""Lets a test use the emulator: schedules, the device's limits, counts of memory traffic."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

SCHEDULES = ("forward", "reverse", "random")


@functools.cache
def load_module(path: str) -> Any:
    """Load the library as a Python module."""
    spec = importlib.util.spec_from_file_location("_emulated", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Emulator:
    """Stands for the emulator in one test; it begins with the forward schedule and a device that has everything."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.schedule("forward")
        self.device()

    def schedule(self, name: str, seed: int = 0) -> None:
        """Set the order in which threads, warps and blocks run: "forward", "reverse" or "random"."""
        self.module.schedule(SCHEDULES.index(name), seed)

    def device(
        self, resident_blocks: int = 8, largest_cluster: int = 16, shared_limit: int = 227 * 1024
    ) -> None:
        """Set the device's limits: blocks at once in cooperative grids, blocks per cluster, shared bytes per block.

        A device before sm_90 has no clusters: 0 blocks.
        """
        self.module.device(resident_blocks, largest_cluster, shared_limit)

    def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function(*args)`` in every schedule; the results must agree to the last bit."""
        from tests.contract.cases import assert_bitwise

        results = []
        for seed, name in enumerate(SCHEDULES):
            self.schedule(name, seed)
            results.append(function(*args))
            assert_bitwise(results[-1], results[0], f"{name} against {SCHEDULES[0]}: result")
        self.schedule(SCHEDULES[0])
        return results[0]

    @contextlib.contextmanager
    def count(self) -> Iterator[dict[str, dict[str, int]]]:
        """Fill a dictionary at the end of the block: traffic of load_global, store_global, load_shared, store_shared.

        Each kind has ``requests``, those of warps; ``units``, the sectors of 32 bytes (global) or passes over the banks
        (shared) that they take; ``fewest``, the units that the same bytes would take in the best places; ``bytes`` that
        were asked for; and ``touched``, the distinct sectors (global).
        """
        result: dict[str, dict[str, int]] = {}
        self.module.start_counting()
        try:
            yield result
        finally:
            result.update(self.module.stop_counting())

    def library(self, compiled: Any) -> Any:
        """Return ``native._C`` with this module's functions in place of the CUDA ones."""
        return _Library(self.module, compiled)


class _Library:
    def __init__(self, *modules: Any) -> None:
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        for module in self._modules:
            if hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"the emulated library has no {name}")
