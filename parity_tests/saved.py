"""The saved proof: what was measured of every case, in one file per system, ``proof/<family>/<system>.json``."""

import json
from pathlib import Path

from weights import catalog

__all__ = ["FOLDER", "DamagedProof", "confirmed", "path_of", "read"]

FOLDER = Path(__file__).parent / "proof"


class DamagedProof(ValueError):
    """A file is not what a measurement writes."""


def path_of(model: str, folder: Path = FOLDER) -> Path:
    """The file that holds the cases of a model."""
    entry = catalog.get(model)
    return folder / entry.family / f"{entry.module.rpartition('.')[2]}.json"


def confirmed(claimed: dict, figure: float, bound: float) -> bool:
    """Whether a measured figure confirms the saved row of its level; another processor may round differently."""
    return claimed.get("figure") is None or figure <= max(30 * claimed["figure"], bound / 10)


def _level(level: dict) -> bool:
    figure = level["figure"]
    number = figure is None or (isinstance(figure, int | float) and 0 <= figure < float("inf"))
    return number and all(isinstance(level[key], str) for key in ("name", "reason")) and level["holds"] in (True, False)


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
        for case in cases.values():
            if not (isinstance(case["model"], str) and isinstance(case["onnx"], dict)):
                raise TypeError
            if not all(_level(level) and isinstance(level["bound"], int | float) for level in case["levels"].values()):
                raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DamagedProof(f"{path}: damaged, measured cases were expected") from None
    return cases
