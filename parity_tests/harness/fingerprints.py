"""Numbers of third-party implementations: the files, their inputs and weights, and how an array is compared with them.

The files are in ``fingerprints/<family>/<name>.json``; names are unique over all families.
"""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np

__all__ = ["FOLDER", "inputs_of", "load", "loss_inputs_of", "path_of"]

FOLDER = Path(__file__).parents[1] / "fingerprints"
NUMBER = r"(\d+(?:\.\d+)?)"

Arrays = dict[str, np.ndarray]


@cache
def path_of(name: str) -> Path:
    """The file of a fingerprint.

    Raises:
        FileNotFoundError: if there is none, or the name is there twice.
    """
    found = list(FOLDER.glob(f"*/{name}.json"))
    if len(found) != 1:
        raise FileNotFoundError(f"fingerprints/*/{name}.json: one file was expected, {len(found)} are there")
    return found[0]


def load(name: str) -> dict:
    """The content of a fingerprint's file."""
    return json.loads(path_of(name).read_text(encoding="utf-8"))


def _by_rule(values: np.ndarray, rule: str) -> np.ndarray:
    """What a rule does with the noise: "...; then 0.3 * it", "...; then 1500 * it + 128", "...; clamped to [-1,1]"."""
    if match := re.search(rf"then {NUMBER} \* it(?: \+ {NUMBER})?", rule):
        values = np.float32(match[1]) * values + np.float32(match[2] or 0)
    if match := re.search(r"clamped to \[(-?[\d.]+), ?(-?[\d.]+)\]", rule):
        values = values.clip(float(match[1]), float(match[2]))
    return values


def inputs_of(expected: Mapping) -> Arrays:
    """The inputs of a fingerprint: stored data, or normal noise from one generator in the order of the file."""
    rng = np.random.default_rng(0)
    inputs = {}
    for name, described in expected["inputs"].items():
        if "data" in described:
            values = np.asarray(described["data"], np.float64).reshape(described["shape"])
            inputs[name] = values.astype(np.int64) if (values == np.round(values)).all() else values
        else:
            noise = rng.standard_normal(described["shape"]).astype(np.float32)
            inputs[name] = _by_rule(noise, described["rule"]).astype(np.float64)
    return inputs


def loss_inputs_of(expected: Mapping) -> Arrays:
    """The inputs of a fingerprint's losses: those of its outputs, unless they have a separate rule."""
    rule = expected["loss"].get("input")
    if rule is None:
        return inputs_of(expected)
    shape = [int(n) for n in re.search(r"standard_normal\(\(([\d, ]+)\)", rule)[1].split(",")]
    noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return {next(iter(expected["inputs"])): _by_rule(noise, rule).astype(np.float64)}
