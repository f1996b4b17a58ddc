"""A forked child computes with one thread.

Only the forking thread lives on in a child. The OpenMP runtime, which PyTorch and our kernels share, still counts on
the threads of the parent, and the child's first parallel region waits for them forever. With one thread there is no
such region. A spawned child has all threads; so has a child of a parent that computed nothing, if it sets them.
"""

from __future__ import annotations

import os

import torch


def compute_with_one_thread_in_children() -> None:
    """Register it for every later fork of this process."""
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))
