"""Weights from names alone, so that anybody can rebuild the same weights anywhere.

The rule is fixed, because the fingerprints of the reference implementations depend on it: one generator per tensor,
``numpy.random.default_rng(zlib.crc32(name.encode()))``, one draw in float64 and C order, then float32.
"""

import zlib
from collections.abc import Mapping

import numpy as np

__all__ = ["CONSTANT", "seeded", "seeded_image"]

# last parts of the names of tensors that keep their initial value
CONSTANT = (
    "project",
    "edges",
    "acc_sum",
    "final_logits_bias",
    "embed_positions.weight",  # sines and cosines
    "pos_emb.emb",
    "layer_pos_emb.emb",
    "inv_freq",
    "calls_since_last_redraw",
)


def _draw(name: str, shape: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> np.ndarray:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    prefix, _, leaf = name.rpartition(".")
    fan_in = int(np.prod(shape[1:]))
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if leaf == "running_var":
        return rng.uniform(0.5, 1.5, shape)
    if leaf == "running_mean":
        return 0.1 * rng.standard_normal(shape)
    if leaf in ("weight_gamma", "weight_beta"):
        sibling = f"{prefix}.weight" if prefix else "weight"
        if sibling not in shapes:
            raise ValueError(f"shapes: {name} needs the shape of {sibling}, which is missing")
        values = rng.uniform(0.8, 1.2, shape) if leaf == "weight_gamma" else 0.02 * rng.standard_normal(shape)
        return values / np.sqrt(int(np.prod(shapes[sibling][1:])))
    if leaf == "weight_diff":
        return 0.1 * rng.standard_normal(shape) / np.sqrt(fan_in)
    if leaf in ("scale", "gamma") or not shape:
        return rng.uniform(0.8, 1.2, shape)
    if leaf == "bases":
        return rng.standard_normal(shape) / np.sqrt(shape[-1])
    if len(shape) == 1:
        return rng.uniform(0.8, 1.2, shape) if leaf == "weight" else 0.05 * rng.standard_normal(shape)
    return rng.standard_normal(shape) / np.sqrt(fan_in)


def seeded(shapes: Mapping[str, tuple[int, ...]], aliases: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Fill every tensor from its name alone.

    Args:
        shapes: shape by name; ``weight_gamma`` and ``weight_beta`` need the sibling ``weight`` among them.
        aliases: name -> first name, for a tensor that is known under several names; it takes the value of the first.

    Returns:
        float32 arrays by name (int64 for ``num_batches_tracked``), in the order of ``shapes``; those that are
        ``CONSTANT`` are left out.

    Raises:
        ValueError: if the sibling ``weight`` is missing; it names both.
    """
    aliases = aliases or {}
    found = {}
    for name, shape in shapes.items():
        first = aliases.get(name, name)
        if f".{first}".endswith(tuple(f".{name}" for name in CONSTANT)):
            continue
        values = np.asarray(_draw(first, tuple(shape), shapes))
        found[name] = values.astype(np.float32) if values.dtype.kind == "f" else values
    return found


def seeded_image(n: int, h: int, w: int, channels: int = 3) -> np.ndarray:
    """The seeded image batch: normal noise, float32, NCHW, fed to a network without normalisation."""
    return np.random.default_rng(0).standard_normal((n, channels, h, w)).astype(np.float32)
