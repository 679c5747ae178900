"""Files of named arrays that others write, read without running or making anything they ask for.

A safetensors file is the length of a header (8 bytes), the header (JSON: dtype, shape and range of
bytes of each array) and the bytes. A file of ``torch.save`` is a zip archive of a pickle and of the
bytes of its arrays; the few operations of which a dictionary of arrays consists are followed here
on a stack of our own, and any other is refused by its name.
"""

from __future__ import annotations

import json
import math
import os
import pickletools
import re
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from sparsecode_jax.io._atomic import replacing

__all__ = ["read_json", "read_safetensors", "read_torch", "write_safetensors"]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_DTYPES = {
    "BF16": _BFLOAT16,
    "BOOL": np.dtype(bool),
    **{f"F{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)},
    **{f"I{8 * size}": np.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": np.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_STORAGES = {
    "BFloat16Storage": "BF16",
    "BoolStorage": "BOOL",
    "ByteStorage": "U8",
    "CharStorage": "I8",
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "IntStorage": "I32",
    "LongStorage": "I64",
    "ShortStorage": "I16",
}
_LONGEST = 10**8  # bytes of a header, a configuration or a pickle: what safetensors allows


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of JSON pairs, of which no two have the same name."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in one object of its JSON")
    return found


def _object(name: str, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data.decode("utf-8"), object_pairs_hook=_unlike)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{name} is no JSON ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{name} is a {type(found).__name__}, where an object of JSON is expected")
    return found


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """Read an object of JSON, of which no name stands twice."""
    size, name = os.path.getsize(path), os.path.basename(path)
    if size > _LONGEST:
        raise ValueError(f"{name} has {size:,} bytes; at most {_LONGEST:,} are expected")
    with open(path, "rb") as file:
        return _object(name, file.read())


def _lengths(name: str, found: Any, what: str) -> tuple[int, ...]:
    if not isinstance(found, (list, tuple)) or not all(
        type(n) is int and 0 <= n < 2**63 for n in found
    ):
        raise ValueError(f"{name}: its {what} is no list of whole numbers of at least 0")
    return tuple(found)


def read_safetensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read every array of a safetensors file.

    Raises:
      ValueError: the file is shorter than it says, or its arrays do not lie side by side in it,
        each with the size of its shape.
    """
    arrays = {}
    with open(path, "rb") as file:
        size, start = os.fstat(file.fileno()).st_size, file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(_LONGEST, size - 8):
            raise ValueError(
                f"{os.path.basename(path)} has {size:,} bytes and a header of {length:,}; it is "
                "truncated, or no safetensors file"
            )
        header = _object("its header", file.read(length))
        header.pop("__metadata__", None)
        entries = {}
        for name, entry in header.items():
            if not isinstance(entry, dict) or not entry.keys() >= {
                "dtype",
                "shape",
                "data_offsets",
            }:
                raise ValueError(f"{name} has no dtype, shape and data_offsets in the header")
            kind = entry["dtype"]
            if kind not in _DTYPES if isinstance(kind, str) else True:
                raise ValueError(f"{name} is of dtype {str(kind)[:20]}, which is not known here")
            shape = _lengths(name, entry["shape"], "shape")
            offsets = _lengths(name, entry["data_offsets"], "range of bytes")
            entries[name] = (offsets, shape, _DTYPES[kind])
        last = 0
        for name, (offsets, shape, dtype) in sorted(entries.items(), key=lambda item: item[1][0]):
            expected = math.prod(shape) * dtype.itemsize
            if len(offsets) != 2 or offsets[0] != last or offsets[1] - last != expected:
                raise ValueError(
                    f"{name} of shape {shape} lies in the bytes {offsets}; "
                    f"{(last, last + expected)} are expected"
                )
            last = offsets[1]
        if last != size - 8 - length:
            raise ValueError(
                f"{os.path.basename(path)} holds {size - 8 - length:,} bytes of arrays where its "
                f"header says {last:,}"
            )
        for name, (offsets, shape, dtype) in entries.items():
            file.seek(8 + length + offsets[0])
            arrays[name] = np.fromfile(file, dtype, math.prod(shape)).reshape(shape)
    return arrays


def write_safetensors(
    path: str | os.PathLike, arrays: Mapping[str, Any], before: Callable[[], None] | None = None
) -> None:
    """Write arrays in one stroke, as :func:`read_safetensors` reads them.

    Args:
      path: of the file.
      arrays: by name.
      before: is called when all is written, just before the file takes its place.
    """
    header: dict[str, Any] = {}
    last = 0
    host = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    for name, array in host.items():
        header[name] = {
            "dtype": _NAMES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [last, last + array.nbytes],
        }
        last += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in host.values():
            file.write(array.tobytes())
        if before is not None:
            before()


class _Name(NamedTuple):
    """What a pickle refers to by module and name: a text here, never the thing itself."""

    path: str


class _Storage(NamedTuple):
    """The numbers of an archive that arrays are views of."""

    numbers: np.ndarray


def read_torch(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read what ``torch.save`` made of a dictionary of arrays, such as a state_dict.

    Raises:
      ValueError: no such file, or its pickle holds or calls anything else.
    """
    name = os.path.basename(path)
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile:
        raise ValueError(
            f"{name} is truncated, or of a torch before 1.6; an archive of torch.save is expected: "
            "save it again with a newer torch"
        ) from None
    with archive:
        entries = {info.filename: info for info in archive.infolist()}
        folders = [key[:-8] for key in entries if re.fullmatch(r"[^/]+/data\.pkl", key)]
        if len(folders) != 1:
            raise ValueError(f"{name} has no data.pkl; a file that torch.save wrote is expected")
        (folder,) = folders
        left = os.path.getsize(path)

        def content(key: str) -> bytes:
            nonlocal left
            info = entries.get(folder + key)
            if info is None:
                raise ValueError(f"{name} has no {key}")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
                raise ValueError(f"{name}: {key} is compressed, which torch.save never does")
            left -= info.file_size
            if left < 0:
                raise ValueError(f"{name}: its entries are larger than the file")
            return archive.read(info)

        if folder + "byteorder" in entries and content("byteorder") != b"little":
            raise ValueError(f"{name} was written on a big-endian machine")
        kept: dict[tuple[str, str], _Storage] = {}

        def storage(found: Any) -> _Storage:
            if not (isinstance(found, tuple) and len(found) == 5 and found[0] == "storage"):
                raise ValueError(f"{name} refers to something that is no array")
            _, kind, key, _, count = found
            kind = _text(kind, _Name).path.removeprefix("torch.")
            if kind not in _STORAGES or not re.fullmatch(r"\d+", _text(key)):
                raise ValueError(
                    f"{name} holds a {kind[:60]} in {key[:60]}, which is not known here"
                )
            if (key, kind) not in kept:
                dtype, data = _DTYPES[_STORAGES[kind]], content(f"data/{key}")
                if type(count) is not int or count * dtype.itemsize != len(data):
                    raise ValueError(
                        f"{name}: data/{key} has {len(data):,} bytes where the pickle says "
                        f"{count} numbers of {dtype.itemsize}"
                    )
                kept[key, kind] = _Storage(np.frombuffer(data, dtype))
            return kept[key, kind]

        data = content("data.pkl")
        if len(data) > _LONGEST:
            raise ValueError(f"{name}: data.pkl has {len(data):,} bytes")
        try:
            found = _followed(name, data, storage)
        except (AttributeError, IndexError, KeyError, TypeError) as error:
            raise ValueError(f"{name}: its data.pkl is damaged ({error!r})") from None
    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, np.ndarray) for key, value in found.items()
    ):
        raise ValueError(f"{name} holds something besides named arrays; a state_dict is expected")
    return found


def _text(found: Any, kind: type = str) -> Any:
    """Return a text, and nothing else: tuples in tuples are as long as 2^depth to print or hash."""
    if not isinstance(found, kind):
        raise TypeError(f"a {type(found).__name__} where a name is expected")
    return found


_MARK = object()
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def _followed(name: str, data: bytes, storage: Any) -> Any:
    """Return what a pickle of named arrays stands for."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def above() -> list[Any]:
        """Take what is above the last mark, and the mark."""
        place = len(stack) - 1
        while stack[place] is not _MARK:
            place -= 1
        taken = stack[place + 1 :]
        del stack[place:]
        return taken

    operation: tuple[pickletools.OpcodeInfo, Any, int | None]
    for operation in pickletools.genops(data):
        kind, argument = operation[0].name, operation[1]
        if kind in ("PROTO", "FRAME"):
            continue
        if kind == "STOP":
            return stack.pop()
        if kind in _LITERALS:
            stack.append(argument)
        elif kind in _CONSTANTS:
            stack.append(_CONSTANTS[kind])
        elif kind in ("EMPTY_DICT", "EMPTY_LIST"):
            stack.append({} if kind == "EMPTY_DICT" else [])
        elif kind == "MARK":
            stack.append(_MARK)
        elif kind in ("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(kind[5:] or 0)
            if count:
                taken = stack[-count:]
                del stack[-count:]
            stack.append(tuple(taken if count else above()))
        elif kind in ("BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if argument is None else argument] = stack[-1]
        elif kind in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif kind == "GLOBAL":
            stack.append(_Name(argument.replace(" ", ".")))
        elif kind == "STACK_GLOBAL":
            last = _text(stack.pop())
            stack.append(_Name(f"{_text(stack.pop())}.{last}"))
        elif kind in ("SETITEM", "SETITEMS"):
            pairs = above() if kind == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            if not isinstance(stack[-1], dict) or len(pairs) % 2:
                raise TypeError("items of no dictionary")
            stack[-1].update(zip(map(_text, pairs[::2]), pairs[1::2], strict=True))
        elif kind in ("APPEND", "APPENDS"):
            taken = above() if kind == "APPENDS" else [stack.pop()]
            if not isinstance(stack[-1], list):
                raise TypeError("elements of no list")
            stack[-1].extend(taken)
        elif kind == "BINPERSID":
            stack.append(storage(stack.pop()))
        elif kind == "REDUCE":
            arguments = stack.pop()
            stack.append(_built(name, stack.pop(), arguments))
        elif kind == "BUILD":  # attributes of a state_dict, such as its versions: not needed
            stack.pop()
            if not isinstance(stack[-1], dict):
                raise TypeError("a state of no dictionary")
        else:
            raise ValueError(
                f"{name} has the pickle operation {kind}, of which no dictionary of arrays "
                "consists; nothing was executed"
            )
    raise ValueError(f"{name}: its data.pkl is truncated")


def _built(name: str, function: Any, arguments: Any) -> Any:
    called = _text(function, _Name).path
    if called == "collections.OrderedDict" and arguments == ():
        return {}
    if called == "torch._utils._rebuild_parameter":
        return arguments[0]
    if called != "torch._utils._rebuild_tensor_v2":
        raise ValueError(
            f"{name} calls {called[:80]}, which is no array; nothing was executed. Save the "
            "state_dict alone: torch.save(model.state_dict(), path)"
        )
    kept, offset, shape, strides = arguments[:4]
    (offset,) = _lengths(name, [offset], "offset")
    shape, strides = _lengths(name, shape, "shape"), _lengths(name, strides, "strides")
    count = math.prod(shape)
    reach = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)) + 1
    if count and (reach > kept.numbers.size or count > kept.numbers.size):
        raise ValueError(
            f"{name} has an array of shape {shape} in {kept.numbers.size:,} numbers; it does not "
            "fit"
        )
    if not count:
        return np.zeros(shape, kept.numbers.dtype)
    size = kept.numbers.dtype.itemsize
    view = np.lib.stride_tricks.as_strided(
        kept.numbers[offset:], shape, [size * stride for stride in strides], writeable=False
    )
    return np.ascontiguousarray(view).reshape(shape)
