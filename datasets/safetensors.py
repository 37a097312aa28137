"""Checks that a safetensors file is whole, by its header (github.com/huggingface/safetensors, README "Format").

Eight bytes give the length of the header, which is JSON: the type, shape and place of each tensor. Their data fills the
rest of the file without a gap.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from datasets.contents import Broken

LONGEST_HEADER: Final = 10_000_000
"""Bytes. The library itself reads ten times as much, but a LoRA has some 500 tensors, of 150 bytes each."""

_MOST_DIMENSIONS: Final = 16

_BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits of a value by its type, as in `Dtype` of the library (tensor.rs)."""

_METADATA: Final = "__metadata__"


def check_tensors(read: Callable[[int], bytes], size: int) -> int:
    """The number of tensors of a file of `size` bytes. Only its header is read. Raises Broken if the file is not whole,
    or has no tensors."""
    prefix = read(8)
    if len(prefix) < 8:
        raise Broken("is too short for a safetensors file")
    length = int.from_bytes(prefix, "little")
    if length > size - 8:
        raise Broken("is cut short, or not a safetensors file: its header is longer than it")
    if length > LONGEST_HEADER:
        raise Broken(f"has a header of more than {LONGEST_HEADER:,} bytes")
    tensors = _tensors(read(length))
    if not tensors:
        raise Broken("has no tensors")
    end = 0
    for begin, stop, name in sorted(_place(name, tensor) for name, tensor in tensors.items()):
        if begin != end:
            raise Broken(f"has a gap or an overlap before the tensor {name[:100]!r}")
        end = stop
    if end != size - 8 - length:
        raise Broken(f"has {size - 8 - length} bytes of data, but its header describes {end}")
    return len(tensors)


def _tensors(header: bytes) -> dict[str, Any]:
    try:
        found = json.loads(header.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not header.startswith(b"{"):
        raise Broken("has a header that is not a JSON object")
    metadata = found.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise Broken("has metadata that are not texts")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice")
    return found


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _place(name: str, tensor: Any) -> tuple[int, int, str]:
    """Where the data of a tensor begins and ends, in bytes from the end of the header."""
    match tensor:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end], **rest}:
            counts = (*shape, begin, end)
            if rest or dtype not in _BITS or len(shape) > _MOST_DIMENSIONS or not all(map(_is_count, counts)):
                raise Broken(f"has a tensor of an unknown type or shape: {name[:100]!r}")
        case _:
            raise Broken(f"has a tensor without type, shape or place: {name[:100]!r}")
    bits = _BITS[dtype]
    for count in shape:
        bits *= count
    if bits != 8 * (end - begin):
        raise Broken(f"has a tensor whose data has another size than its shape: {name[:100]!r}")
    return begin, end, name


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63
