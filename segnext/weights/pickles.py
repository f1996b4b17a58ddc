"""Runs pickles without executing what they name, and with bounded memory and time.

A pickle is a program for a stack machine. Python's machine calls whatever the program names and takes whatever memory
it asks for: ``bytearray(20_000_000_000)`` is six bytes of a file. This machine builds numbers, text and containers
itself, and gives every call to a table of functions; a call of anything else becomes an inert :class:`Foreign`. The
standard library's ``pickletools`` decodes the instructions, which have no effect of their own.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# The largest checkpoint of SegNeXt, with optimiser and averages, takes 200,000 instructions; one of an instruction
# makes at most 216 bytes (an empty set), so this many make 0.3 GB in two seconds.
MOST_INSTRUCTIONS = 1_500_000
# The sum of what calls make, and of what a compressed file holds, is at most this many times the file ...
LARGEST_RATIO = 4
# ... plus this many bytes: a small file of zeros compresses well.
FREE_BYTES = 64 * 2**20
# The hash of a larger number is that of a small one: a dictionary with many such keys takes hours.
LARGEST_KEY = 2**61 - 2
LONGEST_TUPLE_KEY = 16

Calls = Mapping[str, Callable[..., Any]]


class Budget:
    """Counts what one file makes us take and do, and refuses more bytes than a few times its own size.

    Attributes:
        instructions: that its pickles have taken.
        foreign: names of everything in them that no table of functions knows.
    """

    def __init__(self, file_bytes: int) -> None:
        self.instructions = 0
        self.foreign: set[str] = set()
        self._file_bytes = file_bytes
        self._left = LARGEST_RATIO * file_bytes + FREE_BYTES

    def take(self, count: int, what: str) -> None:
        """Take `count` bytes for `what`.

        Raises:
            pickle.UnpicklingError: the file's share is used up.
        """
        self._left -= count
        if self._left < 0:
            raise pickle.UnpicklingError(
                f"{what} takes {count:,} bytes, too many for a file of {self._file_bytes:,}"
            )


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names.

    Attributes:
        name: module and name, with a dot between them.
    """

    name: str


@dataclass(eq=False)
class Foreign:
    """Stands for an object of an unknown class; it holds what the pickle gives the object, and does nothing.

    Attributes:
        name: the class or function that would have made it.
        arguments: what it would have been called with.
        members: what would have been appended.
        entries: what would have been set under keys.
        state: what its ``__setstate__`` or its attributes would have been; None without any.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    members: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)
    state: Any = None

    def build(self, state: Any) -> None:
        """Keep the state."""
        self.state = state


def expect_key(key: Any) -> Any:
    """Return a key of a dictionary or a member of a set, if its hash takes no time.

    Raises:
        pickle.UnpicklingError: it is not a number, text, or a flat tuple of them: a tuple that holds itself twice, 36
            levels deep, takes hours.
    """
    parts = key if isinstance(key, tuple) and len(key) <= LONGEST_TUPLE_KEY else (key,)
    for part in parts:
        if isinstance(part, int) and abs(part) > LARGEST_KEY:
            raise pickle.UnpicklingError("a key that is a huge number")
        if part is not None and not isinstance(part, str | int | float | bytes | complex | Global | Foreign):
            raise pickle.UnpicklingError(f"a key that is a {type(part).__name__}")
    return key


class Machine:
    """Runs one pickle after the other from a file in memory."""

    def __init__(
        self,
        file: io.BytesIO,
        calls: Calls,
        budget: Budget,
        load_storage: Callable[[Any], Any] | None = None,
    ) -> None:
        self._file, self._calls, self._budget, self._load_storage = file, calls, budget, load_storage
        self._clear()

    def run(self) -> Any:
        """Return the object of the next pickle.

        Raises:
            pickle.UnpicklingError: the pickle does, or asks for, something that no checkpoint needs.
            Exception: of any kind, if it is damaged.
        """
        self._clear()
        for opcode, argument, _ in pickletools.genops(self._file):
            self._budget.instructions += 1
            if self._budget.instructions > MOST_INSTRUCTIONS:
                raise pickle.UnpicklingError(f"more than {MOST_INSTRUCTIONS:,} instructions")
            name = opcode.name
            if name in _PUSHED:
                self._stack.append(argument)
            elif name in _HANDLERS:
                _HANDLERS[name](self, argument)
            else:
                raise pickle.UnpicklingError(f"the instruction {name}")
        return self._stack.pop()

    def call(self, function: Any, arguments: Any) -> Any:
        """Return what a known function makes of the arguments, and a `Foreign` for any other function."""
        if not isinstance(arguments, tuple):
            raise pickle.UnpicklingError(f"a call with a {type(arguments).__name__}")
        if isinstance(function, Global) and function.name in self._calls:
            return self._calls[function.name](*arguments)
        if isinstance(function, Global | Foreign):
            return Foreign(function.name, arguments)
        raise pickle.UnpicklingError(f"a call of a {type(function).__name__}")

    def _clear(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # stacks below each mark
        self._memo: dict[int, Any] = {}

    def _to_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._below.pop()
        return items

    def _mark(self, _: None) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _pop(self, _: None) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._to_mark()

    def _pop_mark(self, _: None) -> None:
        self._to_mark()

    def _tuple_of(self, count: int) -> None:
        items = tuple(self._stack.pop() for _ in range(count))
        self._stack.append(items[::-1])

    def _append(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, list | Foreign):
            raise pickle.UnpicklingError(f"an item for a {type(target).__name__}")
        (target.members if isinstance(target, Foreign) else target).extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict | Foreign):
            raise pickle.UnpicklingError(f"an entry for a {type(target).__name__}")
        _fill(target.entries if isinstance(target, Foreign) else target, items)

    def _add(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, set | Foreign):
            raise pickle.UnpicklingError(f"a member for a {type(target).__name__}")
        if isinstance(target, Foreign):
            target.members.extend(items)
        else:
            target.update(map(expect_key, items))

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise pickle.UnpicklingError("a name that is no text")
        full = f"{module}.{name}"
        if full not in self._calls:
            self._budget.foreign.add(full)
        self._stack.append(Global(full))

    def _call_top(self, count: int) -> None:
        function, arguments, *named = [self._stack.pop() for _ in range(count)][::-1]
        if named and named[0] and isinstance(function, Global) and function.name in self._calls:
            raise pickle.UnpicklingError(f"named arguments for {function.name}")
        self._stack.append(self.call(function, arguments))

    def _object(self, items: list[Any]) -> None:
        self._stack.append(self.call(items[0], tuple(items[1:])))

    def _instance(self, names: str) -> None:
        arguments = self._to_mark()
        self._name(*names.split(" ", 1))
        self._stack.append(self.call(self._stack.pop(), tuple(arguments)))

    def _build(self, _: None) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if hasattr(target, "build"):  # attributes of anything else are of no use to us
            target.build(state)

    def _persistent(self, pid: Any) -> None:
        if self._load_storage is None:
            raise pickle.UnpicklingError("a reference to data outside the pickle")
        self._stack.append(self._load_storage(pid))


def _fill(target: dict[Any, Any], items: list[Any]) -> None:
    if len(items) % 2:
        raise pickle.UnpicklingError("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        target[expect_key(key)] = value


def _dictionary(items: list[Any]) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    _fill(made, items)
    return made


def _push(machine: Machine, value: Any) -> None:
    machine._stack.append(value)


def _pop_two(machine: Machine) -> list[Any]:
    return [machine._stack.pop(-2), machine._stack.pop()]


def _memoize(machine: Machine, index: int) -> None:
    machine._memo[index] = machine._stack[-1]


# Instructions whose decoded argument is the value itself.
_PUSHED = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"),
    *("BINBYTES", "BINBYTES8", "SHORT_BINBYTES", "BYTEARRAY8"),
}
_HANDLERS: dict[str, Callable[[Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    "NONE": lambda machine, _: _push(machine, None),
    "NEWTRUE": lambda machine, _: _push(machine, True),
    "NEWFALSE": lambda machine, _: _push(machine, False),
    "EMPTY_LIST": lambda machine, _: _push(machine, []),
    "EMPTY_TUPLE": lambda machine, _: _push(machine, ()),
    "EMPTY_DICT": lambda machine, _: _push(machine, {}),
    "EMPTY_SET": lambda machine, _: _push(machine, set()),
    "MARK": Machine._mark,
    "POP": Machine._pop,
    "POP_MARK": Machine._pop_mark,
    "DUP": lambda machine, _: _push(machine, machine._stack[-1]),
    "LIST": lambda machine, _: _push(machine, machine._to_mark()),
    "TUPLE": lambda machine, _: _push(machine, tuple(machine._to_mark())),
    "TUPLE1": lambda machine, _: machine._tuple_of(1),
    "TUPLE2": lambda machine, _: machine._tuple_of(2),
    "TUPLE3": lambda machine, _: machine._tuple_of(3),
    "DICT": lambda machine, _: _push(machine, _dictionary(machine._to_mark())),
    "FROZENSET": lambda machine, _: _push(machine, frozenset(map(expect_key, machine._to_mark()))),
    "APPEND": lambda machine, _: machine._append([machine._stack.pop()]),
    "APPENDS": lambda machine, _: machine._append(machine._to_mark()),
    "SETITEM": lambda machine, _: machine._set_items(_pop_two(machine)),
    "SETITEMS": lambda machine, _: machine._set_items(machine._to_mark()),
    "ADDITEMS": lambda machine, _: machine._add(machine._to_mark()),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _memoize),
    "MEMOIZE": lambda machine, _: _memoize(machine, len(machine._memo)),
    **dict.fromkeys(
        ("GET", "BINGET", "LONG_BINGET"), lambda machine, index: _push(machine, machine._memo[index])
    ),
    "GLOBAL": lambda machine, names: machine._name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine._name(*_pop_two(machine)),
    "REDUCE": lambda machine, _: machine._call_top(2),
    "NEWOBJ": lambda machine, _: machine._call_top(2),
    "NEWOBJ_EX": lambda machine, _: machine._call_top(3),
    "OBJ": lambda machine, _: machine._object(machine._to_mark()),
    "INST": Machine._instance,
    "BUILD": Machine._build,
    "PERSID": Machine._persistent,
    "BINPERSID": lambda machine, _: machine._persistent(machine._stack.pop()),
}
