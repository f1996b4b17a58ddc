"""The processes of one run: which of them this one is, and what they tell each other.

`torchrun` starts them and says in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR) who is who. Tensors of a
GPU go through NCCL; tensors of the CPU and short messages go through gloo.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

# A process that ends closes its connections, so that the others notice it at once. This limit is for one that hangs,
# and it must be longer than the first process needs to check a large data set, for which the others wait.
TIMEOUT = timedelta(hours=2)

Value = TypeVar("Value")


class RankFailed(RuntimeError):
    """Another process of this run has failed, and its own message says why."""


class Ranks:
    """This process among those of its run; the one process of an ordinary run is the first of one.

    Args:
        rank: number of this process, from 0.
        count: number of processes.
        messages: the gloo group of all processes; None for one process.
        command: what they do; it stands in front of errors.

    Attributes:
        is_first: whether this process writes the files and prints.
    """

    def __init__(self, rank: int = 0, count: int = 1, messages: Any = None, command: str = "") -> None:
        self.rank, self.count = rank, count
        self._messages, self._command = messages, command

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sums(self, *values: float) -> list[float]:
        """Return each number's sum over all processes, in float64."""
        return self.summed(torch.tensor(values, dtype=torch.float64, device="cpu")).tolist()

    def summed(self, tensor: Tensor) -> Tensor:
        """Return `tensor`, which becomes its sum over all processes in place."""
        if self.count > 1:
            with self._together():
                dist.all_reduce(tensor, group=None if tensor.is_cuda else self._messages)
        return tensor

    def largest(self, value: int) -> int:
        """Return the largest of all processes' numbers."""
        if self.count == 1:
            return value
        found = torch.tensor(value, device="cpu")
        with self._together():
            dist.all_reduce(found, dist.ReduceOp.MAX, group=self._messages)
        return int(found)

    def gathered(self, value: Value) -> list[Value]:
        """Return the values of all processes, which must be picklable, in the order of their numbers."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        with self._together():
            dist.all_gather_object(found, value, group=self._messages)
        return found

    def of_first(self, make: Callable[[], Value]) -> Value:
        """Return what `make` returns in the first process, where alone it is called.

        Raises:
            RankFailed: in the others, if it raises there.
        """
        if self.count == 1:
            return make()
        sent: list[Any] = [False, None]
        try:
            if self.is_first:
                sent = [True, make()]
        finally:  # the others must not wait for a process that fails
            with self._together():
                dist.broadcast_object_list(sent, src=0, group=self._messages)
        if not sent[0]:
            raise RankFailed(
                f"{self._command}: the first process must begin the run, got its failure; its message says why"
            )
        value: Value = sent[1]
        return value

    def take_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` by those of the first process; one message per device and dtype."""
        if self.count == 1:
            return
        alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
        for tensor in tensors:
            alike.setdefault((tensor.device, tensor.dtype), []).append(tensor)
        for (device, _), group in alike.items():
            joined = flat(group)
            with self._together():
                dist.broadcast(joined, src=0, group=None if device.type == "cuda" else self._messages)
            unflatten(joined, group)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say in one line that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            first_line = str(error).strip().partition("\n")[0]
            raise RankFailed(
                f"{self._command}: all {self.count} processes must be at work, got none or a late answer in process "
                f"{self.rank}; the one that failed says why ({first_line[:200]})"
            ) from error


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """Return the values of tensors of one dtype one after another, in a tensor of its own memory."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


def unflatten(joined: Tensor, tensors: Sequence[Tensor]) -> None:
    """Copy what `flat` made back into tensors of the same shapes."""
    pieces = joined.split([tensor.numel() for tensor in tensors])
    with torch.no_grad():
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))


@contextmanager
def joined_ranks(command: str, device: torch.device) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started, until the block ends.

    Without torchrun there is one process. Processes that were joined before (`init_process_group`) stay so.

    Args:
        command: what the processes do; it stands in front of errors.
        device: where this process is to compute; a GPU without a number becomes that of LOCAL_RANK.

    Yields:
        The processes and this one's device.
    """
    count = dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Ranks(), device
        return
    if device.type == "cuda":
        if device.index is None:
            device = torch.device("cuda", _local_rank(command))
        torch.cuda.set_device(device)
    is_ours = not dist.is_initialized()
    if is_ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        messages = dist.new_group(backend="gloo", timeout=TIMEOUT)
        yield Ranks(dist.get_rank(), count, messages, command), device
    finally:
        if is_ours:
            dist.destroy_process_group()


def _local_rank(command: str) -> int:
    rank, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= devices:
        raise ValueError(
            f"{command}: processes per machine must be at most its {devices} GPUs, got number {rank} counted from 0; "
            "start fewer with --nproc-per-node"
        )
    return rank
