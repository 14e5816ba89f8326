"""Tensors in safetensors files under PyTorch's names and layouts.

A file is only read if all of it is valid, and written completely or not at all.
"""

import hashlib
import json
import os
import re
import secrets
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

__all__ = ["StoreError", "check", "digest", "fitting", "load", "refuse_non_finite", "rename", "save"]

MAX_HEADER = 100_000_000  # bytes; the limit of the format
MAX_RANK = 32
DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
BFLOAT16 = "BF16"  # numpy has none: read as float32, which holds every value
COUNTER = "num_batches_tracked"  # of batch normalisation; PyTorch accepts a file without, and so does everything here
AGAIN = "the file is damaged, fetch or write it again"


class StoreError(ValueError):
    """A file or a set of tensors is invalid; one line names it and says what to do."""


def save(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors to a safetensors file, through a temporary file next to it.

    On any failure, Ctrl-C included, ``path`` is unchanged and the temporary file is removed.

    Args:
        path: the file; its folder must exist.
        tensors: arrays by name.
        metadata: strings for the header.

    Returns:
        The path.

    Raises:
        StoreError: if a value is NaN or infinite, or a name or dtype has no place in the format (it names the
            tensors), or if the file cannot be written, such as on a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save as serialize

    path = Path(path)
    arrays = {name: np.asarray(array, order="C") for name, array in tensors.items()}  # keeps 0 dimensions
    _refuse_unfit(path, arrays)
    refuse_non_finite(path, arrays)
    try:
        # None: with no tensors and an empty table of metadata, safetensors 0.8 writes a header that is not JSON
        content = serialize(arrays, dict(metadata) if metadata else None)
    except (SafetensorError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: cannot be written as safetensors: {_line(error)}") from None
    try:
        _replace(Path(os.path.realpath(path)), content)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or _line(error)}), nothing was changed; "
            "make room or choose another place"
        ) from None
    return path


def _refuse_unfit(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    kinds = {np.dtype(dtype) for dtype in DTYPES.values()}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == "__metadata__" or not _encodable(name):
            raise StoreError(f"{path}: {name!r} cannot be the name of a tensor; rename it")
        if array.dtype.newbyteorder("=") not in kinds:
            raise StoreError(f"{path}: tensor {name!r} has dtype {array.dtype}; {', '.join(DTYPES)} can be written")


def _replace(path: Path, content: bytes) -> None:
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    handle = None
    try:
        # unlike tempfile's, a file opened this way has the permissions that the user's umask grants
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        left = memoryview(content)
        while left:
            left = left[os.write(handle, left) :]
        os.fsync(handle)
        os.close(handle)
        handle = None
        os.replace(temporary, path)
    except BaseException:
        if handle is not None:
            os.close(handle)
        temporary.unlink(missing_ok=True)
        raise


def load(path: str | Path) -> dict[str, np.ndarray]:
    """Read every tensor of a safetensors file.

    Returns:
        Arrays by name, in the order of the header, owned by the caller.

    Raises:
        StoreError: if the file is missing, unreadable, truncated, damaged, ambiguous, of another format, or holds NaN
            or infinity; it names the file and, where there is one, the tensor.
    """
    path = Path(path)
    try:
        if not path.exists():
            raise StoreError(f"{path}: there is no such file; check the path")
        if not path.is_file():
            raise StoreError(f"{path}: not a file; a safetensors file was expected")
        with path.open("rb") as file:
            tensors = _read(path, file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read ({error.strerror or _line(error)}); check the path") from None
    except MemoryError:
        raise StoreError(f"{path}: does not fit into memory; free some of it") from None
    refuse_non_finite(path, tensors)
    return tensors


def _read(path: Path, file, size: int) -> dict[str, np.ndarray]:
    header, start = _header(path, file, size)
    places = []
    for name, described in header.items():
        if name != "__metadata__":
            places.append((name, *_described(path, name, described)))
    # nothing is allocated before all of the header is known to fit the file
    end = 0
    for name, _, _, first, last in sorted(places, key=lambda place: place[3:]):
        if first != end:
            raise StoreError(f"{path}: tensor {name!r} overlaps another or leaves a gap; {AGAIN}")
        end = last
    if end != size - start:
        raise StoreError(f"{path}: {size - start} bytes of data, {end} expected; {AGAIN}")
    tensors = {}
    for name, dtype, shape, first, last in places:
        try:
            values = np.empty(shape, dtype)
        except ValueError:  # such as (0, 2**40, 2**40): no bytes, and yet too large
            raise StoreError(f"{path}: tensor {name!r} has the impossible shape {shape}; {AGAIN}") from None
        file.seek(start + first)
        if file.readinto(values.reshape(-1).view(np.uint8)) != last - first:
            raise StoreError(f"{path}: ends inside tensor {name!r}; {AGAIN}")
        if header[name]["dtype"] == BFLOAT16:
            values = (values.astype(np.uint32) << 16).view(np.float32)
        if dtype is np.bool_ and values.view(np.uint8).max(initial=0) > 1:
            raise StoreError(f"{path}: tensor {name!r} is boolean but holds other values; {AGAIN}")
        tensors[name] = values
    return tensors


def _header(path: Path, file, size: int) -> tuple[dict, int]:
    if size < 8:
        raise StoreError(f"{path}: {size} bytes are too short for a safetensors file; {AGAIN}")
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(MAX_HEADER, size - 8):
        raise StoreError(f"{path}: not a safetensors file, or truncated: its header would have {length} bytes; {AGAIN}")

    def unique(pairs):
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise StoreError(f"{path}: the header names {twice!r} twice; the file is not to be trusted, fetch it again")
        return dict(pairs)

    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=unique)
    except StoreError:
        raise
    except (ValueError, RecursionError):  # not UTF-8, not JSON, numbers of thousands of digits, endless nesting
        raise StoreError(
            f"{path}: not a safetensors file, or damaged: the header is not JSON; fetch it again"
        ) from None
    if not isinstance(header, dict):
        raise StoreError(f"{path}: not a safetensors file: the header is no table of tensors; fetch it again")
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise StoreError(f"{path}: the metadata must be strings by name; {AGAIN}")
    return header, 8 + length


def _described(path: Path, name: str, described) -> tuple[type, tuple[int, ...], int, int]:
    """Type, shape, first byte and the byte after the last one, of one entry of the header."""

    def integers(values):
        return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**63 for v in values)

    if not _encodable(name):
        raise StoreError(f"{path}: {name!r} cannot be the name of a tensor; {AGAIN}")
    if not isinstance(described, dict) or set(described) != {"dtype", "shape", "data_offsets"}:
        raise StoreError(f"{path}: tensor {name!r} must be described by dtype, shape and data_offsets; {AGAIN}")
    dtype, shape, offsets = described["dtype"], described["shape"], described["data_offsets"]
    kinds = DTYPES | {BFLOAT16: np.uint16}
    if not isinstance(dtype, str) or dtype not in kinds:
        raise StoreError(f"{path}: tensor {name!r} has dtype {str(dtype)[:40]!r}; {', '.join(kinds)} can be read")
    if not integers(shape) or len(shape) > MAX_RANK or not integers(offsets) or len(offsets) != 2:
        raise StoreError(f"{path}: tensor {name!r} has no valid shape and place; {AGAIN}")
    size = np.dtype(kinds[dtype]).itemsize
    for length in shape:  # Python's integers do not overflow
        size *= length
    if offsets[1] - offsets[0] != size:
        raise StoreError(f"{path}: tensor {name!r} does not fit its place in the file; {AGAIN}")
    return kinds[dtype], tuple(shape), *offsets


def _encodable(name: str) -> bool:
    return not any("\ud800" <= letter <= "\udfff" for letter in name)  # half of a surrogate pair


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _show(name: str) -> str:
    """A name unchanged, unless it would break the line or the terminal."""
    return name if name.isprintable() else repr(name)


def refuse_non_finite(path: str | Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Raise a StoreError that names the tensors with NaN or infinity, and their file."""
    bad = [name for name, array in tensors.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        raise StoreError(f"{path}: NaN or infinity in {_listed(bad)}; such weights are refused")


def _listed(names: list[str], most: int = 20) -> str:
    return ", ".join(map(_show, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def check(expected: Mapping[str, tuple], found: Mapping[str, np.ndarray], strict: bool = True) -> None:
    """Compare the tensors of a model with those that are to be loaded.

    Args:
        expected: shape by name.
        found: arrays by name.
        strict: whether names on one side only are an error; batch counters may be missing anyway.

    Raises:
        StoreError: lists every missing, unexpected and misshapen entry, or those that hold NaN or infinity.
    """
    problems = {"missing": [], "unexpected": [], "misshapen": []}
    if strict:
        problems["missing"] = [_show(name) for name in expected if name not in found and not name.endswith(COUNTER)]
        problems["unexpected"] = [_show(name) for name in found if name not in expected]
    for name, shape in expected.items():
        if name in found and tuple(np.shape(found[name])) != tuple(shape):
            problems["misshapen"].append(f"{_show(name)} {tuple(np.shape(found[name]))} instead of {tuple(shape)}")
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {kind}: {', '.join(names)}" for kind, names in problems.items() if names)
        raise StoreError(f"the tensors do not fit the model: {text}")
    refuse_non_finite("the weights", {name: np.asarray(found[name]) for name in expected if name in found})


def fitting(
    expected: Iterable[str],
    aliases: Mapping[str, str],
    found: Iterable[str],
    layouts: Mapping[str, Iterable[tuple[str, str]]],
) -> tuple[str, list[tuple[str, str]]]:
    """How to rename the tensors of a file so that they fit: by removing a common prefix, or by a known layout.

    Args:
        expected: names of the model's tensors.
        aliases: second names of tensors of the model; one of the two may be missing.
        found: names in the file.
        layouts: patterns of :func:`rename` by a user's name for them.

    Returns:
        What is done, in words ("" for nothing), and the patterns: none if nothing makes the names fit.
    """
    expected, found = set(expected), list(found)
    needed = {name for name in expected if name not in aliases and not name.endswith(COUNTER)}

    def fits(patterns) -> bool:
        try:
            names = set(rename(dict.fromkeys(found, np.empty(0)), patterns))
        except StoreError:
            return False
        return names <= expected and needed <= names | {aliases[name] for name in names if name in aliases}

    prefix = ""
    stripped = found
    while True:
        off = [(f"^{re.escape(prefix)}", "")] if prefix else []
        for words, layout in [("", []), *layouts.items()]:
            patterns = off + list(layout)
            if fits(patterns):
                said = [f"the prefix {prefix!r} is taken off all names"] if prefix else []
                return " and ".join([*said, *([f"names are changed as for {words}"] if words else [])]), patterns
        first = {name.partition(".")[0] + "." for name in stripped if "." in name}
        if len(first) != 1 or not all("." in name for name in stripped):
            return "", []
        prefix += first.pop()
        stripped = [name.partition(".")[2] for name in stripped]


def digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values, whatever their order in the mapping or in memory."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        array = np.asarray(tensors[name])
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        found.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def rename(tensors: Mapping[str, np.ndarray], patterns: Iterable[tuple[str, str]]) -> dict[str, np.ndarray]:
    """Apply regular expressions to all names, one after the other; an empty name drops the tensor.

    Args:
        tensors: arrays by name.
        patterns: pairs of a pattern and its replacement, as of ``re.sub``.

    Raises:
        StoreError: if two tensors get the same name, or a pattern is no regular expression.
    """
    renamed, origin = {}, {}
    patterns = list(patterns)
    for name, array in tensors.items():
        new = name
        for pattern, replacement in patterns:
            try:
                new = re.sub(pattern, replacement, new)
            except (re.error, IndexError) as error:
                raise StoreError(f"the rename pattern [{pattern!r}, {replacement!r}] is not valid: {error}") from None
        if new in origin:
            raise StoreError(f"after renaming, {origin[new]!r} and {name!r} are both called {new!r}; mend the patterns")
        if new:
            renamed[new], origin[new] = array, name
    return renamed
