"""What torch pickles of tensors, read without unpickling.

Python's pickle runs code. torch's restricted reader runs none, but a few hundred bytes can make it fill the memory
(`_codecs.encode` to hex, again and again) or never end (hashing tuples of tuples). This machine imports nothing, calls
nothing and hashes scalars only; what it builds is not larger than some multiple of the pickle.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from modelwright.architectures import is_list, is_table

#: A state dict of a hundred thousand tensors takes about 25 MB and five million steps.
MAX_PICKLE = 1 << 26
_MOST_STEPS = 10_000_000
_MOST_AXES = 64

#: torch's storage classes: format of the elements, bytes of each.
_STORAGES = {
    "Double": ("float64", 8), "Float": ("float32", 4), "Half": ("float16", 2), "BFloat16": ("bfloat16", 2),
    "Long": ("int64", 8), "Int": ("int32", 4), "Short": ("int16", 2), "Char": ("int8", 1), "Byte": ("uint8", 1),
    "Bool": ("bool", 1), "ComplexFloat": ("complex64", 8), "ComplexDouble": ("complex128", 16), "QInt8": ("qint8", 1),
    "QUInt8": ("quint8", 1), "QInt32": ("qint32", 4), "QUInt4x2": ("quint4x2", 1), "QUInt2x4": ("quint2x4", 1),
}  # fmt: skip
_STORAGE = re.compile(r"torch\.(?:cuda\.)?(\w+)Storage")
_UNTYPED = ("torch.storage.UntypedStorage", "torch.storage._UntypedStorage", "torch.UntypedStorage")
_CONSTANT = re.compile(r"torch\.(?:(?:b?float|u?int|qu?int|complex|bits)\d\w*|bool|per_(?:tensor|channel)_\w+)")
_PLAIN_TYPES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_WRAPPED = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
#: How tensors without plain values are pickled, and what to say of them.
_ODD = {
    "torch._utils._rebuild_sparse_tensor": "is sparse or nested",
    "torch._utils._rebuild_nested_tensor": "is sparse or nested",
    "torch._utils._rebuild_meta_tensor_no_storage": "is on the meta device and has no values",
    "torch._utils._rebuild_device_tensor_from_numpy": "was saved from a device in another form",
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": "was saved from a device in another form",
    "torch._utils._rebuild_wrapper_subclass": "is of a class of its own",
}
#: What else training scripts leave beside the weights; it is passed over.
_OTHER = (
    "torch.Size", "torch.device", "torch.serialization._get_layout", "collections.Counter", "_codecs.encode",
    "builtins.set", "__builtin__.set", "builtins.bytearray", "__builtin__.bytearray", "builtins.complex",
    "__builtin__.complex",
)  # fmt: skip


class PickleError(ValueError):
    """The pickle is damaged, or holds what no state dict does."""


class CodeError(ValueError):
    """The pickle would import something; the text is its name."""


@dataclass(frozen=True)
class Storage:
    """A reference to elements that lie elsewhere in the file.

    Attributes:
        key: Its name there.
        dtype: Format of the elements; empty where each tensor says its own.
        itemsize: Bytes of an element.
        count: Number of elements.
    """

    key: str
    dtype: str
    itemsize: int
    count: int


@dataclass(frozen=True)
class Stored:
    """A tensor: a view of a storage.

    Attributes:
        storage: Where its elements lie.
        dtype: Format of its elements, as torch calls it.
        offset: First element.
        shape: Its shape.
        strides: Elements from one index to the next, for each axis.
        conjugated: Whether its values are the conjugates of those stored.
        negated: Whether they are the negatives.
    """

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False


@dataclass(frozen=True)
class Odd:
    """A tensor without plain values; `what` says why."""

    what: str


@dataclass(frozen=True, eq=False)
class Other:
    """Something that is no tensor and is not looked at."""

    name: str


@dataclass(frozen=True)
class Unpickled:
    """What a pickle holds.

    Attributes:
        value: Python's scalars, lists, tuples and dicts of such; `Stored`, `Odd` and `Other` for everything else.
        end: Where the pickle ends.
        storages: Every storage that it refers to, by key.
    """

    value: Any
    end: int
    storages: Mapping[str, Storage]


@dataclass(frozen=True)
class _Global:
    name: str


def read_pickle(raw: bytes, at: int = 0) -> Unpickled:
    """The pickle that starts at a byte.

    Raises:
        PickleError: It is damaged, too long, or not a state dict.
        CodeError: It refers to anything but tensors.
    """
    machine = _Machine(raw, at)
    for _ in range(_MOST_STEPS):
        code = machine.take(1)
        if code == b".":
            return Unpickled(machine.pop(), machine.at, machine.storages)
        step = _STEPS.get(code)
        if step is None:
            raise PickleError(f"unknown operation {code[0]} at byte {machine.at - 1} of the pickle")
        step(machine)
    raise PickleError(f"its pickle takes more than {_MOST_STEPS:,} steps")


class _Machine:
    """The stack machine that pickles are programs for, as far as state dicts need it."""

    def __init__(self, raw: bytes, at: int):
        self.raw, self.at = raw, at
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def take(self, count: int) -> bytes:
        if not 0 <= count <= len(self.raw) - self.at:
            raise PickleError("its pickle is cut short")
        self.at += count
        return self.raw[self.at - count : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        stop = self.raw.find(b"\n", self.at, self.at + 1000)
        return _text(self.take(stop - self.at + 1)[:-1])

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            raise PickleError("its pickle takes from an empty stack")
        return self.stack.pop()

    def pop_marked(self) -> list[Any]:
        if not self.marked:
            raise PickleError("its pickle has an end without a start")
        items, self.stack = self.stack, self.marked.pop()
        return items

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def top(self) -> Any:
        value = self.pop()
        self.push(value)
        return value

    def put(self, index: int) -> None:
        self.memo[index] = self.top()

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"its pickle looks up {index}, which it has not stored")
        self.push(self.memo[index])

    def tuple_of(self, count: int) -> None:
        self.push(tuple(self.pop() for _ in range(count))[::-1])

    def append(self, items: list[Any]) -> None:
        target = self.top()
        if not is_list(target):
            raise PickleError("its pickle appends to what is no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if not is_table(target) or len(items) % 2:
            raise PickleError("its pickle sets entries of what is no dict")
        target.update(zip(map(_key, items[::2]), items[1::2], strict=True))

    def import_(self) -> None:
        name = f"{self.line()}.{self.line()}"
        storage = _STORAGE.fullmatch(name)
        if not (name in _KNOWN or (storage and storage[1] in _STORAGES) or _CONSTANT.fullmatch(name)):
            raise CodeError(name)
        self.push(_Global(name))

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, _Global) or not _short_tuple(arguments):
            raise PickleError("its pickle calls what is no function")
        self.push(_called(function.name, arguments))

    def refer(self) -> None:
        reference = self.pop()
        storage = _storage(reference if _short_tuple(reference) else ())
        self.push(self.storages.setdefault(storage.key, storage))


def _short_tuple(value: Any) -> TypeGuard[tuple[Any, ...]]:
    """Whether it is one that can be unpacked; a long one, again and again, would take for ever."""
    return _is_tuple(value) and len(value) <= 16


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise PickleError("its pickle holds a text that is not UTF-8") from None


def _key(value: Any) -> Any:
    """A key whose hash and text take no time."""
    return value if value is None or isinstance(value, str | bytes | int | float) else Other(type(value).__name__)


def _storage(value: Any) -> Storage:
    match value:
        case ("storage", _Global(name), str(key), str(), int(count), *views) if count >= 0:
            if any(view is not None for view in views):
                raise PickleError("it holds views of storages, as torch wrote them before 0.4")
            if name in _UNTYPED:
                return Storage(key, "", 1, count)
            if storage := _STORAGE.fullmatch(name):
                return Storage(key, *_STORAGES[storage[1]], count)
        case _:
            pass
    raise PickleError("its pickle refers to what is no storage")


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    if rebuild := _REBUILDS.get(name):
        return rebuild(*arguments)
    if name in _WRAPPED and arguments:
        return arguments[0]
    if name in _ODD:
        return Odd(_ODD[name])
    if name in _OTHER:
        return Other(name)
    raise PickleError(f"its pickle calls {name}, which is no function")


def _ordered_dict(*arguments: Any) -> dict[Any, Any]:
    if not arguments:
        return {}
    pairs: Any = arguments[0]
    if not is_list(pairs) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):  # type: ignore[reportUnknownArgumentType]
        raise PickleError("its pickle fills a dict with what are no pairs")
    result = {_key(key): value for key, value in pairs}
    pairs.clear()  # torch has a list of pairs once; a pickle that makes dicts of it for ever would fill the memory
    return result


def _tensor(*arguments: Any, typed: bool = False) -> Stored:
    """`_rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks, metadata)`; v3 has a dtype there too."""
    match arguments:
        case (Storage() as storage, int(offset), size, stride, *rest) if offset >= 0 and _fits(size, stride):
            dtype = f"torch.{storage.dtype}"
            if typed:
                match rest:
                    case [_, _, _Global(dtype), *rest]:
                        pass
                    case _:
                        raise PickleError("its pickle builds a tensor from what is none")
            nothing: dict[str, Any] = {}
            bits = next((entry for entry in rest if is_table(entry) and entry), nothing)
            return Stored(storage, dtype, offset, size, stride, bool(bits.get("conj")), bool(bits.get("neg")))
        case _:
            raise PickleError("its pickle builds a tensor from what is none")


def _tensor_v3(*arguments: Any) -> Stored:
    return _tensor(*arguments, typed=True)


def _fits(size: Any, stride: Any) -> TypeGuard[tuple[int, ...]]:
    return _axes(size) and _axes(stride) and len(size) == len(stride)


def _axes(value: Any) -> TypeGuard[tuple[int, ...]]:
    return _is_tuple(value) and len(value) <= _MOST_AXES and all(type(n) is int and n >= 0 for n in value)


def _is_tuple(value: Any) -> TypeGuard[tuple[Any, ...]]:
    return isinstance(value, tuple)


def _quantised(*arguments: Any) -> Odd:
    match arguments:
        case (Storage(dtype=dtype), *_):
            return Odd(f"is quantised or packed (torch.{dtype})")
        case _:
            raise PickleError("its pickle builds a tensor from what is none")


def _of_type(*arguments: Any) -> Any:
    """`_rebuild_from_type_v2(function, type, arguments, state)`: a parameter with attributes, say."""
    match arguments:
        case (_Global(name), _Global(kind), inner, *_) if (
            kind in _PLAIN_TYPES and name != _TYPED and _short_tuple(inner)
        ):
            return _called(name, inner)
        case _:
            raise PickleError("its pickle builds a tensor from what is none")


_TYPED = "torch._tensor._rebuild_from_type_v2"
_REBUILDS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_qtensor": _quantised,
    _TYPED: _of_type,
}
_KNOWN = frozenset((*_UNTYPED, *_PLAIN_TYPES, *_WRAPPED, *_ODD, *_OTHER, *_REBUILDS))

_Step = Callable[[_Machine], object]
_STEPS: dict[bytes, _Step] = {
    b"\x80": lambda m: m.take(1),  # the protocol
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"]": lambda m: m.push([]),
    b"}": lambda m: m.push({}),
    b")": lambda m: m.push(()),
    b"K": lambda m: m.push(m.number("B")),
    b"M": lambda m: m.push(m.number("<H")),
    b"J": lambda m: m.push(m.number("<i")),
    b"G": lambda m: m.push(m.number(">d")),
    b"\x8a": lambda m: m.push(int.from_bytes(m.take(m.number("B")), "little", signed=True)),
    b"X": lambda m: m.push(_text(m.take(m.number("<I")))),
    b"T": lambda m: m.push(_text(m.take(m.number("<i")))),
    b"U": lambda m: m.push(_text(m.take(m.number("B")))),
    b"B": lambda m: m.push(m.take(m.number("<I"))),
    b"C": lambda m: m.push(m.take(m.number("B"))),
    b"q": lambda m: m.put(m.number("B")),
    b"r": lambda m: m.put(m.number("<I")),
    b"h": lambda m: m.get(m.number("B")),
    b"j": lambda m: m.get(m.number("<I")),
    b"t": lambda m: m.push(tuple(m.pop_marked())),
    b"\x85": lambda m: m.tuple_of(1),
    b"\x86": lambda m: m.tuple_of(2),
    b"\x87": lambda m: m.tuple_of(3),
    b"a": lambda m: m.append([m.pop()]),
    b"e": lambda m: m.append(m.pop_marked()),
    b"s": lambda m: m.set_items([m.pop(), m.pop()][::-1]),
    b"u": lambda m: m.set_items(m.pop_marked()),
    b"c": _Machine.import_,
    b"R": _Machine.call,
    b"\x81": _Machine.call,
    b"b": _Machine.pop,  # the state of what was built; of an OrderedDict its attributes
    b"Q": _Machine.refer,
}
