"""The catalogue: one table per model in ``<family>/<system>.toml``, checked when it is read.

A table's name is the model's name and, unless it says otherwise, the name of the builder in both panels.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path

__all__ = ["CatalogError", "Checkpoint", "Model", "Tensor", "UnknownModel", "families", "get", "load"]

FAMILIES = (
    "classification",
    "detection",
    "segmentation",
    "tracking",
    "gan",
    "face",
    "body",
    "reid",
    "metric",
    "contrastive",
    "retrieval",
    "nlp",
    "ocr",
    "layers",
)
NEEDS = ("targets",)
KINDS = ("model", "loss", "operator", "algorithm", "schedule")
DTYPES = ("float32", "int64", "int32", "bool", "uint8")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
CHANNELS = ("RGB", "BGR", "L")
# what names may look like: they become attributes, modules and files
IDENTIFIER = r"[A-Za-z_]\w*", "a name of letters, digits and underscores"
MODULE = r"[a-z]\w*(\.[a-z]\w*)+", "'family.system'"
FILE = r"(?![/.])(?!.*/\.)[\w./+-]+", "a path inside the package"
CLASSES = r"\w[\w.-]*", "the name of a file in weights/classes"
PACKAGE = r"[A-Za-z0-9][\w.-]*==[\w.!+-]+", "'name==version'"
URL = r"https?://[\w.:-]+/[!-~]+", "an address that begins with https:// or http://"


class CatalogError(ValueError):
    """A table of the catalogue is invalid; one line names file, table and key."""


class UnknownModel(KeyError):
    """There is no model of that name."""

    def __str__(self) -> str:
        return self.args[0]


@dataclass(frozen=True)
class Tensor:
    """An input, output or target: its shape (a letter is a dynamic axis), type, and layout if it has channels."""

    shape: tuple[int | str, ...]
    dtype: str = "float32"
    layout: str | None = None  # a letter per axis, "NCHW": the TensorFlow panel has it with C last
    low: int = 0  # smallest value of an integer input
    high: int | None = None  # exclusive upper bound of an integer input


@dataclass(frozen=True)
class Player:
    """One of several networks that are trained against each other: the loss it lowers, and its parameters."""

    loss: str  # key of the criterion's losses
    parameters: tuple[str, ...]  # prefixes of their names


@dataclass(frozen=True)
class Checkpoint:
    """Official weights: where they are, what they are, and how their input is prepared.

    ``package`` ("name==version") and ``file`` name a file of an installed package; ``url`` a download.
    """

    name: str
    licence: str
    package: str | None = None
    file: str | None = None
    url: str | None = None
    sha256: str | None = None
    sha256_prefix: str | None = None
    size: int | None = None
    preprocessing: Mapping = field(default_factory=dict)
    classes: str | None = None
    rename: tuple[tuple[str, str], ...] = ()
    options: Mapping = field(default_factory=dict)
    tokenizer: str | None = None


@dataclass(frozen=True)
class Model:
    """One entry of the catalogue."""

    name: str
    family: str
    system: str
    kind: str
    module: str
    title: str
    paper: str
    year: int
    reference: str
    builder: str
    parameters: int | None = None
    parameters_source: str | None = None
    maps: Mapping[str, int] = field(
        default_factory=dict
    )  # of a backbone: name -> channels; "c3" has stride 2^3, "s8" 8
    options: Mapping = field(default_factory=dict)
    criterion: str | None = None
    postprocess: str | None = None
    trainer: str | None = None
    call: str | None = None  # entry point: the method that is called instead of the model itself
    needs: tuple[str, ...] = ()  # "targets": the losses come from model(images, targets=targets)
    players: Mapping[str, Player] = field(default_factory=dict)
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    targets: Mapping[str, Tensor] = field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()

    @property
    def neutral(self) -> bool:
        """Whether it needs no framework: a function of the package ``weights``, written once."""
        return self.module.startswith("weights.")

    def checkpoint(self, name: str | None = None) -> Checkpoint:
        """The checkpoint with a given name, or the first one.

        Raises:
            CatalogError: if there is none.
        """
        for checkpoint in self.checkpoints:
            if name in (None, checkpoint.name):
                return checkpoint
        known = ", ".join(c.name for c in self.checkpoints) or "none"
        wanted = f"checkpoint {name!r}" if name else "checkpoint"
        raise CatalogError(f"{self.name} has no {wanted} in the catalogue; known: {known}")


# key -> (type, required)
MODEL_KEYS = {
    "system": (str, True),
    "kind": (str, True),
    "module": (str, True),
    "title": (str, True),
    "paper": (str, True),
    "year": (int, True),
    "reference": (str, True),
    "builder": (str, False),
    "parameters": (int, False),
    "parameters_source": (str, False),
    "maps": (dict, False),
    "options": (dict, False),
    "criterion": (str, False),
    "postprocess": (str, False),
    "trainer": (str, False),
    "call": (str, False),
    "needs": (list, False),
    "players": (dict, False),
    "inputs": (dict, False),
    "outputs": (dict, False),
    "targets": (dict, False),
    "checkpoints": (list, False),
    "like": (str, False),
}
TENSOR_KEYS = {
    "shape": (list, True),
    "dtype": (str, False),
    "layout": (str, False),
    "low": (int, False),
    "high": (int, False),
}
PLAYER_KEYS = {"loss": (str, True), "parameters": (list, True)}
CHECKPOINT_KEYS = {
    "name": (str, True),
    "licence": (str, True),
    "package": (str, False),
    "file": (str, False),
    "url": (str, False),
    "sha256": (str, False),
    "sha256_prefix": (str, False),
    "size": (int, False),
    "preprocessing": (dict, False),
    "classes": (str, False),
    "rename": (list, False),
    "options": (dict, False),
    "tokenizer": (str, False),
}
PREPROCESSING_KEYS = {
    "resize": (int, False),
    "crop": (int, False),
    "interpolation": (str, False),
    "scale": (float, False),
    "mean": (list, False),
    "std": (list, False),
    "channels": (str, False),
}


def _near(name: str, known, count: int = 1) -> list[str]:
    import difflib  # only in case of an error: the catalogue is read at every start

    return difflib.get_close_matches(name, known, count, 0.5)


KIND_NAMES = {str: "a string", int: "a whole number", float: "a number", list: "a list", dict: "a table"}


def _check(where: str, table, keys: Mapping) -> None:
    if not isinstance(table, dict):
        raise CatalogError(f"{where}: a table was expected, not {table!r}")
    for key, value in table.items():
        if key not in keys:
            near = _near(key, keys)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(keys)}"
            raise CatalogError(f"{where}: unknown key {key!r}{hint}")
        expected = keys[key][0]
        allowed = (int, float) if expected is float else expected
        if not isinstance(value, allowed) or (isinstance(value, bool) and expected is not bool):
            raise CatalogError(f"{where}: key {key!r} must be {KIND_NAMES[expected]}, not {value!r}")
    for key, (_, required) in keys.items():
        if required and key not in table:
            raise CatalogError(f"{where}: key {key!r} is missing")


def _choice(where: str, key: str, value: str | None, allowed) -> None:
    if value is not None and value not in allowed:
        raise CatalogError(f"{where}: key {key!r} is {value!r}; one of {', '.join(allowed)} was expected")


def _pattern(where: str, table: Mapping, key: str, pattern: tuple[str, str]) -> None:
    expression, expected = pattern
    if key in table and not re.fullmatch(expression, table[key], re.ASCII):
        raise CatalogError(f"{where}: key {key!r} is {table[key]!r}; {expected} was expected")


def _positive(where: str, table: Mapping, *keys: str) -> None:
    for key in keys:
        if key in table and table[key] < 1:
            raise CatalogError(f"{where}: key {key!r} is {table[key]}; a positive number was expected")


def _tensors(where: str, tables: Mapping) -> dict[str, Tensor]:
    found = {}
    for name, table in tables.items():
        here = f"{where}.{name}"
        _check(here, table, TENSOR_KEYS)
        shape = table["shape"]
        if not all(s.isidentifier() if isinstance(s, str) else type(s) is int and s > 0 for s in shape):
            expected = "positive numbers and names of dynamic axes"
            raise CatalogError(f"{here}: key 'shape' must hold {expected}, not {shape!r}")
        _choice(here, "dtype", table.get("dtype"), DTYPES)
        layout = table.get("layout")
        if layout is not None and not (len(layout) == len(shape) == len(set(layout)) and "C" in layout[:-1]):
            expected = "a letter for each axis of 'shape', C among them and not last ('NCHW')"
            raise CatalogError(f"{here}: key 'layout' is {layout!r}; {expected} was expected")
        if "high" in table and table["high"] <= table.get("low", 0):
            raise CatalogError(f"{here}: key 'high' is {table['high']}; more than 'low' was expected")
        found[name] = Tensor(**{**table, "shape": tuple(shape)})
    return found


def _preprocessing(where: str, table: Mapping) -> None:
    _check(where, table, PREPROCESSING_KEYS)
    _positive(where, table, "resize", "crop")
    _choice(where, "interpolation", table.get("interpolation"), INTERPOLATIONS)
    _choice(where, "channels", table.get("channels"), CHANNELS)
    length = 1 if table.get("channels") == "L" else 3
    for key in ("mean", "std"):
        values = table.get(key, [1.0] * length)
        if len(values) != length or not all(type(v) in (int, float) and abs(v) < float("inf") for v in values):
            raise CatalogError(f"{where}: key {key!r} is {values!r}; {length} numbers were expected, one per channel")
    if not all(table.get("std", [1.0])):
        raise CatalogError(f"{where}: key 'std' is {table['std']!r}; numbers other than 0 were expected")


def _checkpoint(where: str, table) -> Checkpoint:
    _check(where, table, CHECKPOINT_KEYS)
    if ("package" in table) == ("url" in table) or ("package" in table) != ("file" in table):
        raise CatalogError(f"{where}: either 'package' and 'file' or 'url' must be given")
    for key, pattern in (("name", IDENTIFIER), ("package", PACKAGE), ("file", FILE), ("url", URL)):
        _pattern(where, table, key, pattern)
    for key, pattern in (("classes", CLASSES), ("tokenizer", FILE)):
        _pattern(where, table, key, pattern)
    _positive(where, table, "size")
    if ("sha256" in table) == ("sha256_prefix" in table):
        raise CatalogError(f"{where}: either 'sha256' or the published 'sha256_prefix' must be given")
    for key, lengths in (("sha256", {64}), ("sha256_prefix", range(8, 64))):
        value = table.get(key)
        if value is not None and (len(value) not in lengths or set(value) - set("0123456789abcdef")):
            raise CatalogError(f"{where}: key {key!r} is {value!r}; lower-case hexadecimal digits were expected")
    if "preprocessing" in table:
        _preprocessing(f"{where}.preprocessing", table["preprocessing"])
    for pair in table.get("rename", []):
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise CatalogError(f"{where}: key 'rename' must hold [pattern, replacement] pairs, not {pair!r}")
        try:
            re.compile(pair[0])
        except re.error as error:
            raise CatalogError(f"{where}: key 'rename': {pair[0]!r} is no regular expression: {error}") from None
    return Checkpoint(**{**table, "rename": tuple(tuple(pair) for pair in table.get("rename", []))})


def _model(path: Path, name: str, table: Mapping) -> Model:
    where = f"{path.parent.name}/{path.name}: [{name}]"
    _check(where, table, MODEL_KEYS)
    if not re.fullmatch(IDENTIFIER[0], name, re.ASCII):
        raise CatalogError(f"{where}: the name of the table is {name!r}; {IDENTIFIER[1]} was expected")
    _choice(where, "kind", table["kind"], KINDS)
    _pattern(where, table, "module", MODULE)
    for key in ("builder", "criterion", "postprocess", "trainer", "call"):
        _pattern(where, table, key, IDENTIFIER)
    _positive(where, table, "parameters", "year")
    for key, channels in table.get("maps", {}).items():
        if not re.fullmatch(r"c\d|s\d+", key, re.ASCII) or type(channels) is not int or channels < 1:
            expected = "levels ('c3') or strides ('s8') with their channels"
            raise CatalogError(f"{where}: key 'maps' must hold {expected}, not {key!r} = {channels!r}")
    for need in table.get("needs", []):
        _choice(where, "needs", need, NEEDS)
    players = {}
    for player, described in table.get("players", {}).items():
        _check(f"{where}.players.{player}", described, PLAYER_KEYS)
        if not all(isinstance(beginning, str) for beginning in described["parameters"]):
            expected = "beginnings of names"
            raise CatalogError(f"{where}.players.{player}: key 'parameters' must hold {expected}")
        players[player] = Player(described["loss"], tuple(described["parameters"]))
    checkpoints = []
    for i, checkpoint in enumerate(table.get("checkpoints", [])):
        checkpoints.append(_checkpoint(f"{where}.checkpoints[{i}]", checkpoint))
        if checkpoints[-1].name in {other.name for other in checkpoints[:-1]}:
            raise CatalogError(f"{where}.checkpoints[{i}]: key 'name': {checkpoints[-1].name!r} is taken already")
    tensors = {key: _tensors(f"{where}.{key}", table.get(key, {})) for key in ("inputs", "outputs", "targets")}
    known = {field.name for field in fields(Model)}
    plain = {key: value for key, value in table.items() if key in known}
    own = {"name": name, "family": path.parent.name, "needs": tuple(table.get("needs", ())), "players": players}
    return Model(**{"builder": name, **plain, **own, **tensors, "checkpoints": tuple(checkpoints)})


def read(path: Path) -> dict[str, Model]:
    """The models of one file. A table with ``like = "other"`` starts from that table of the same file.

    Raises:
        CatalogError: names file, table and key of the first mistake.
    """
    file = f"{path.parent.name}/{path.name}"
    if path.parent.name not in FAMILIES:
        raise CatalogError(f"{file}: no family {path.parent.name!r}; known are {', '.join(FAMILIES)}")
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CatalogError(f"{file}: cannot be read ({error.strerror}); a file of tables was expected") from None
    except (ValueError, RecursionError) as error:
        raise CatalogError(f"{file}: not valid TOML: {str(error).splitlines()[0]}") from None
    models = {}
    for name, table in tables.items():
        if isinstance(table, dict) and "like" in table:
            base = tables.get(table["like"]) if isinstance(table["like"], str) else None
            if not isinstance(base, dict) or "like" in base:
                raise CatalogError(f"{file}: [{name}]: key 'like' must name a table that is complete itself")
            own = {"checkpoints": [], "options": {}}
            table = {**base, **own, **{key: value for key, value in table.items() if key != "like"}}
        models[name] = _model(path, name, table)
    return models


@cache
def load(folder: Path = Path(__file__).parent) -> dict[str, Model]:
    """All models by name, family by family.

    Raises:
        CatalogError: names file, table and key of the first mistake.
    """
    found: dict[str, Model] = {}
    place = {family: i for i, family in enumerate(FAMILIES)}
    for path in sorted(folder.glob("*/*.toml"), key=lambda path: (place.get(path.parent.name, -1), path)):
        for name, model in read(path).items():
            if name in found:
                raise CatalogError(f"{path.parent.name}/{path.name}: [{name}] is in {found[name].family} already")
            found[name] = model
    return found


def families() -> list[str]:
    """Families that have models, in the order of the catalogue."""
    return list(dict.fromkeys(model.family for model in load().values()))


def get(name: str) -> Model:
    """Look a model up by name.

    Raises:
        UnknownModel: with the nearest name.
    """
    models = load()
    if name not in models:
        near = _near(name, models, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else "; `diptych list` shows all names"
        raise UnknownModel(f"no model {name!r}{hint}")
    return models[name]
