"""Takes the place of the compiled library `_C`: a server (server.cpp) at the other end of a pipe runs the kernels.

The server may be another machine's program under an emulator. The memory that arguments point to is sent with a call,
whole storages at a time, and what the kernels leave in it comes back.
"""

from __future__ import annotations

import builtins
import ctypes
import struct
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import torch

LINE = 64  # the server's memory has the same alignment
REMEMBERED = 256  # addresses; a call has fewer, and those of the call before may be given again


class Library:
    """Looks like the module `_C`.

    Args:
        command: starts the server.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._memory: dict[int, torch.UntypedStorage] = {}
        self._remember_addresses()
        for _ in range(self._number()):
            name = self._text()
            setattr(self, name, self._value())
        for _ in range(self._number()):
            name = self._text()
            setattr(self, name, self._function(name))

    def _remember_addresses(self) -> None:
        """Note the storage of every address that is asked for: the library is given addresses alone."""
        ask = torch.Tensor.data_ptr

        def data_ptr(tensor: torch.Tensor) -> int:
            address = ask(tensor)
            if address:
                self._memory.pop(address, None)
                self._memory[address] = (
                    tensor.untyped_storage()
                )  # which lives on: the address means nothing else
            while len(self._memory) > REMEMBERED:
                del self._memory[next(iter(self._memory))]
            return address

        torch.Tensor.data_ptr = data_ptr  # type: ignore[method-assign]

    def _function(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            storages: dict[int, torch.UntypedStorage] = {}  # by their addresses, in the order of the message
            arguments = self._packed(args, storages)
            message = _packed_text(name) + _number(len(storages))
            for start, storage in storages.items():
                message += _number(storage.nbytes()) + _number(start % LINE)
                message += ctypes.string_at(start, storage.nbytes())
            assert self._server.stdin is not None
            self._server.stdin.write(message + arguments)
            self._server.stdin.flush()
            return self._answer(storages)

        return call

    def _packed(self, value: Any, storages: dict[int, torch.UntypedStorage]) -> bytes:
        if value is None:
            return _number(ord("n"))
        if isinstance(value, bool):
            return _number(ord("b")) + _number(value)
        if isinstance(value, tuple | list):
            items = [self._packed(item, storages) for item in value]
            return _number(ord("l")) + _number(len(items)) + b"".join(items)
        if isinstance(value, float):
            return _number(ord("f")) + struct.pack("<d", value)
        if value in self._memory:
            storage = self._memory[value]
            start = storage.data_ptr()
            storages[start] = storage
            index = list(storages).index(start)
            return _number(ord("a")) + _number(index) + _number(value - start)
        return _number(ord("i")) + _number(int(value))

    def _answer(self, storages: dict[int, torch.UntypedStorage]) -> Any:
        status, text = self._text(), self._text()
        result = self._value()
        for start, storage in storages.items():
            ctypes.memmove(start, self._read(storage.nbytes()), storage.nbytes())
        if status != "done":
            raise getattr(builtins, status)(text)
        return result

    def _value(self) -> Any:
        kind = chr(self._number())
        if kind == "t":
            return self._text()
        if kind == "n":
            return None
        return struct.unpack("<d", self._read(8))[0] if kind == "f" else self._number()

    def _read(self, size: int) -> bytes:
        assert self._server.stdout is not None
        content = self._server.stdout.read(size)
        if len(content) != size:
            raise RuntimeError(f"the server died with status {self._server.wait()}")
        return content

    def _number(self) -> int:
        return struct.unpack("<q", self._read(8))[0]

    def _text(self) -> str:
        return self._read(self._number()).decode()


def _number(value: int) -> bytes:
    return struct.pack("<q", value)


def _packed_text(text: str) -> bytes:
    return _number(len(text)) + text.encode()
