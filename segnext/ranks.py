"""The processes of one run: which of them this one is, and what they tell each other.

`torchrun` starts them and says in the environment (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR) who is who. Tensors of a
GPU go through NCCL; tensors of the CPU and short messages go through gloo.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from segnext.heartbeat import Heartbeat
from segnext.signals import StoppedAtOnce

# A process that ends closes its connections, so that the others notice it at once; `Heartbeat` notices one that hangs.
# This limit must be longer than the first process needs to check a large data set, for which the others wait.
TIMEOUT = timedelta(hours=2)
POLL = 0.1  # seconds between two looks at what others have done

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
        self._counters: Any = _Counters()
        self._heartbeat: Heartbeat | None = None
        self._works = 0

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

    def gathered_by_first(self, value: Value) -> list[Value]:
        """Return in the first process what `gathered` returns, and nothing in the others."""
        if self.count == 1:
            return [value]
        found: list[Any] | None = [None] * self.count if self.is_first else None
        with self._together():
            dist.gather_object(value, found, dst=0, group=self._messages)
        return found or []

    def added(self, counter: str, number: int) -> int:
        """Add to a counter that all processes share, without waiting for them; return its sum so far."""
        with self._together():
            if self._heartbeat is not None and self._heartbeat.lost is not None:
                raise RuntimeError
            return int(self._counters.add(counter, number))

    @contextmanager
    def shared_work(self, stop: threading.Event) -> Iterator[SharedWork]:
        """Begin work of which each process does a share, in the same order in all; an error here ends it in all.

        Args:
            stop: set when a signal has reached this process.
        """
        self._works += 1
        work = SharedWork(self, f"work {self._works}", stop)
        try:
            yield work
        except BaseException:
            with suppress(RankFailed):
                work.end()
            raise

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
                f"{self._command}: the first process must do its part, got its failure; its message says why"
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
    def in_touch(self, remedy: str) -> Iterator[None]:
        """Share counters and watch the other processes until the block ends, which all leave together.

        Args:
            remedy: what to do after a failure; it ends the message about a process that hangs.
        """
        self._counters = self._store()
        # The watch has a connection of its own: messages on one wait for each other.
        store = self._counters if self.is_first else self._connected(self._counters.port)
        self._heartbeat = Heartbeat(self._command, remedy, store, self.rank, self.count)
        is_in_order = False
        try:
            yield
            self.largest(0)  # the first process keeps the store until all are here
            is_in_order = True
        except KeyboardInterrupt as error:
            is_in_order = not isinstance(error, StoppedAtOnce)  # the others know nothing of a second signal
            raise
        finally:
            self._heartbeat.end(in_order=is_in_order)

    def _store(self) -> Any:
        """Return this process's connection to a store that lives in the first one.

        It is not the store of torchrun: that one's process can be stopped (Ctrl-Z) while those of the run go on.
        """
        kept: Any = None

        def keep() -> int:
            nonlocal kept
            kept = dist.TCPStore(_address(), 0, is_master=True, wait_for_workers=False)
            return int(kept.port)

        port = self.of_first(keep)
        return kept if self.is_first else self._connected(port)

    def _connected(self, port: int) -> Any:
        with self._together():
            return dist.TCPStore(_address(), port, is_master=False, wait_for_workers=False)

    @contextmanager
    def _together(self) -> Iterator[None]:
        """Say in one line that another process is gone."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            lost = None
            if self._heartbeat is not None:
                self._heartbeat.stop_watching()
                lost = self._heartbeat.lost
            first_line = str(error).strip().partition("\n")[0]
            raise RankFailed(
                lost
                or f"{self._command}: all {self.count} processes must be at work, got none or a late answer in process "
                f"{self.rank}; the one that failed says why ({first_line[:200]})"
            ) from error


class SharedWork:
    """Work of which each process does a share at its own speed; if it is over in one of them, it is over in all.

    Args:
        ranks: the processes.
        name: no other work has it.
        stop: set when a signal has reached this process.
    """

    def __init__(self, ranks: Ranks, name: str, stop: threading.Event) -> None:
        self._ranks, self._name, self._stop = ranks, name, stop

    def done(self, pieces: int = 1) -> int:
        """Count pieces that this process has done; return how many all have done."""
        return self._ranks.added(f"{self._name}: done", pieces)

    def end(self) -> None:
        """Let no process begin another piece."""
        self._ranks.added(f"{self._name}: over", 1)

    def is_over(self) -> bool:
        """Say whether no piece is to be begun: a signal has reached a process, or one has called `end`."""
        return self._ranks.added(f"{self._name}: over", int(self._stop.is_set())) > 0

    def wait(self, look: Callable[[int], None] = lambda done: None) -> None:
        """Wait until all processes have come here, or the work is over.

        Unlike in a message, a signal is heard here at once.

        Args:
            look: called now and then, and at the end, with the number of pieces that all have done.
        """
        arrived = f"{self._name}: arrived"
        self._ranks.added(arrived, 1)
        while self._ranks.added(arrived, 0) < self._ranks.count and not self.is_over():
            look(self.done(0))
            time.sleep(POLL)
        look(self.done(0))


class _Counters:
    """The counters of a process that is alone."""

    def __init__(self) -> None:
        self._values: dict[str, int] = {}

    def add(self, name: str, number: int) -> int:
        self._values[name] = self._values.get(name, 0) + number
        return self._values[name]


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
def joined_ranks(command: str, device: torch.device, remedy: str) -> Iterator[tuple[Ranks, torch.device]]:
    """Join the processes that torchrun started, until the block ends.

    Without torchrun there is one process. Processes that were joined before (`init_process_group`) stay so.

    Args:
        command: what the processes do; it stands in front of errors.
        device: where this process is to compute; a GPU without a number becomes that of LOCAL_RANK.
        remedy: what to do when a process hangs; it ends the message.

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
        ranks = Ranks(dist.get_rank(), count, messages, command)
        with ranks.in_touch(remedy):
            yield ranks, device
    finally:
        if is_ours:
            dist.destroy_process_group()


def _address() -> str:
    """Return where the first process is, as torchrun says it."""
    return os.environ.get("MASTER_ADDR", "localhost")


def _local_rank(command: str) -> int:
    rank, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if rank >= devices:
        raise ValueError(
            f"{command}: processes per machine must be at most its {devices} GPUs, got number {rank} counted from 0; "
            "start fewer with --nproc-per-node"
        )
    return rank
