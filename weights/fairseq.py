"""Tensors of a fairseq translation model under the names of Marian, which the panels use."""

import re
from collections.abc import Mapping

import numpy as np

from weights import store

__all__ = ["marian_names"]

NORMS = {
    "encoder": ("self_attn_layer_norm", "final_layer_norm"),
    "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}
PATTERNS = [
    (r"^(?:encoder|decoder)\.version$", ""),
    (r"^.*\.embed_positions\._float_tensor$", ""),
    (r"^decoder\.(?:output_projection\.weight|embed_out)$", "lm_head.weight"),
    *(
        (rf"^({half}\.layers\.\d+)\.layer_norms\.{i}\.", rf"\1.{norm}.")
        for half, norms in NORMS.items()
        for i, norm in enumerate(norms)
    ),
    (r"^(?=(?:encoder|decoder)\.)", "model."),
]


def marian_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename a fairseq ``transformer`` state dict and split what very old files pack together.

    Old files pack the three projections of an attention into ``in_proj_weight`` and number the layer norms. Where the
    embeddings of both halves are equal they are the shared one; without its own matrix the output uses the decoder's
    embedding; the bias of the output, which fairseq does not have, is zero.

    Args:
        tensors: arrays by name.

    Raises:
        StoreError: if two tensors get the same name.
    """
    found = store.rename(tensors, PATTERNS)
    for name in [name for name in found if re.search(r"\.in_proj_(weight|bias)$", name)]:
        prefix, _, leaf = name.rpartition(".in_proj_")
        for letter, part in zip("qkv", np.split(found.pop(name), 3), strict=True):
            found[f"{prefix}.{letter}_proj.{leaf}"] = part
    source, target = (found.get(f"model.{half}.embed_tokens.weight") for half in ("encoder", "decoder"))
    if target is None:
        return found
    if source is not None and np.array_equal(source, target):
        found["model.shared.weight"] = target
    found.setdefault("lm_head.weight", target)
    found.setdefault("final_logits_bias", np.zeros((1, len(target)), target.dtype))
    return found
