"""The saved proof: what was measured of every case, in one file per system, ``proof/<family>/<system>.json``."""

import json
from pathlib import Path

from weights import catalog

__all__ = ["FOLDER", "DamagedProof", "confirmed", "figure", "fits", "path_of", "read"]

FOLDER = Path(__file__).parent / "proof"
NONE = type(None)


def figure(value) -> bool:
    """Whether it is a difference: a finite number that is not negative."""
    return fits(value, float) and value >= 0


CASE = {  # what a measurement writes of a case
    "model": str,
    "parameters?": int,  # of the level "interface"
    "digest": str,
    "harness": str,
    "versions": {str: str},
    "levels": {str: {"figure": (figure, NONE), "name": str, "bound": figure, "holds": bool, "reason": str}},
    "onnx": {str: {panel: {"nodes": int, "bytes": int, "transposes": int} for panel in ("tf_impl", "torch_impl")}},
}


class DamagedProof(ValueError):
    """A file is not what a measurement writes."""


def path_of(model: str, folder: Path = FOLDER) -> Path:
    """The file that holds the cases of a model."""
    entry = catalog.get(model)
    return folder / entry.family / f"{entry.module.rpartition('.')[2]}.json"


def confirmed(claimed: dict, figure: float, bound: float) -> bool:
    """Whether a measured figure confirms the saved row of its level; another processor may round differently."""
    return claimed.get("figure") is None or figure <= max(30 * claimed["figure"], bound / 10)


def fits(value, shape) -> bool:
    """Whether what was read from JSON has a shape; its numbers are finite.

    Args:
        value: of JSON.
        shape: a type; a text that it must be; a function that says so; a tuple of shapes, of which one fits; a list
            with the shape of all items, or with that of each; a dictionary with the shapes of keys that must be there
            (that may be, before a question mark), or with ``str`` and the shape of all values.
    """
    if isinstance(shape, str):
        return value == shape
    if isinstance(shape, tuple):
        return any(fits(value, one) for one in shape)
    if isinstance(shape, list):
        if not isinstance(value, list) or len(shape) not in (1, len(value)):
            return False
        return all(fits(item, shape[i % len(shape)]) for i, item in enumerate(value))
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(fits(item, shape[str]) for item in value.values())
        there = {key.removesuffix("?"): one for key, one in shape.items() if key[-1] != "?" or key[:-1] in value}
        return all(key in value and fits(value[key], one) for key, one in there.items())
    if not isinstance(shape, type):
        return shape(value)
    if shape is float:
        return type(value) in (int, float) and abs(value) < 1e300
    return type(value) is shape and (shape is not int or abs(value) < 2**63)


def read(path: Path) -> dict[str, dict]:
    """The cases of a file, or of all files of a folder, by name; none if it is not there.

    Raises:
        DamagedProof: names the file.
    """
    if path.is_dir():
        return {name: case for file in sorted(path.glob("*/*.json")) for name, case in read(file).items()}
    if not path.exists():
        return {}
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["cases"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        cases = None
    if not fits(cases, {str: CASE}):
        raise DamagedProof(f"{path}: damaged, measured cases were expected")
    return cases
