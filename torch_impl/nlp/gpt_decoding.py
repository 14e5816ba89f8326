"""Choosing a language model's next token, and continuing texts with a cache of keys and values.

Every draw uses a number in [0, 1) that is passed in, so both panels draw the same tokens.
The repetition penalty is that of CTRL, arXiv:1909.05858; top-k: arXiv:1805.04833; top-p: arXiv:1904.09751.

Mirror notes:
- TensorFlow scatters with the row's number in every index, PyTorch along an axis.
"""

import torch

from torch_impl.layers.top_k import argmax
from torch_impl.layers.top_k import top_k as largest

__all__ = ["distribution", "draw", "empty_cache", "generate"]

REMOVED = -1e9  # logit of a token that may not be drawn


def distribution(
    logits, previous=None, penalty: float = 1.0, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
):
    """Probabilities of the next token, 0 for those that may not be drawn.

    Args:
        logits: (N, V) float; V is static.
        previous: (N, T) int, the tokens so far; needed for the penalty.
        penalty: of a token among them: a positive logit is divided by it, a negative one multiplied.
        temperature: divides the logits after that; above 0.
        top_k: how many of the most probable tokens are kept; 0 keeps all. Ties go to the lower token.
        top_p: of those, the most probable are kept until their probabilities add up to more than this.

    Returns:
        (N, V) float, in [0, 1].

    Raises:
        ValueError: if an option is out of its range, or the penalty lacks the tokens so far.
    """
    size = logits.shape[-1]
    if temperature <= 0 or penalty <= 0:
        raise ValueError(f"temperature={temperature} and penalty={penalty} must be more than 0")
    if not 0 <= top_k <= size or not 0 <= top_p <= 1:
        raise ValueError(f"top_k={top_k} must be 0 to {size}, and top_p={top_p} 0 to 1")
    if penalty != 1:
        if previous is None:
            raise ValueError(f"penalty={penalty} needs previous, the tokens so far")
        seen = torch.zeros_like(logits).scatter(1, previous, 1.0) > 0  # mirror: scatters
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    logits = logits / temperature
    if top_k in (0, size) and top_p == 1:
        return torch.softmax(logits, -1)
    values, indices = largest(logits, size)
    rank = torch.arange(size, device=logits.device)
    kept = rank < (top_k or size)
    if top_p < 1:
        p = torch.softmax(torch.where(kept, values, REMOVED), -1)
        kept = kept & ((p.cumsum(-1) - p <= top_p) | (rank == 0))
    else:
        kept = kept.expand_as(indices)
    kept = kept.gather(1, indices.argsort(-1))
    return torch.softmax(torch.where(kept, logits, REMOVED), -1)


def draw(p, uniform=None):
    """Draw one token per row.

    Args:
        p: (N, V) float, the probabilities; V is static.
        uniform: (N,) float in [0, 1), where in the distribution the draw falls, the most probable token first; None
            takes the most probable token. Ties go to the lower token.

    Returns:
        (N,) int64.
    """
    if uniform is None:
        return argmax(p)
    p, indices = largest(p, p.shape[-1])
    passed = (p.cumsum(-1) <= uniform[:, None]).sum(-1)
    last = (p > 0).sum(-1) - 1  # if rounding leaves the sum below the number
    return indices.gather(1, torch.minimum(passed, last)[:, None])[:, 0]


def empty_cache(model, batch: int):
    """An empty cache of keys and values, with room for all positions of a :class:`gpt.StepModel`."""
    blocks, words = model.transformer.h, model.transformer.words.weight
    heads = blocks[0].attn.heads
    shape = batch, len(blocks), heads, model.transformer.positions, words.shape[1] // heads
    return words.new_zeros(shape), words.new_zeros(shape)


def generate(model, input_ids, steps: int, uniform=None, **options):
    """Continue texts, computing each token once.

    Args:
        model: a :class:`gpt.StepModel`.
        input_ids: (N, T) int, the texts, all of the same length.
        steps: how many tokens are added.
        uniform: (N, steps) float in [0, 1), see :func:`draw`; None takes the most probable tokens.
        options: of :func:`distribution`, such as ``temperature``, ``top_k``, ``top_p``, ``penalty``.

    Returns:
        (N, T + steps) int64.

    Raises:
        ValueError: if there is no token to start from, or the text would be longer than the model's positions.
    """
    length, positions = input_ids.shape[1], model.transformer.positions
    if length < 1:
        raise ValueError("input_ids is empty; a token to start from is needed, such as the end of a text")
    if length + steps > positions + 1:  # the last token is not read
        raise ValueError(f"{length} tokens and {steps} new ones exceed the model's {positions} positions; cut the text")
    tokens, new, start = input_ids, input_ids, torch.zeros(1, dtype=torch.int64, device=input_ids.device)
    keys, values = empty_cache(model, input_ids.shape[0])
    with torch.no_grad():
        for step in range(steps):
            outputs = model(new, start, keys, values)
            start, keys, values = start + new.shape[1], outputs["keys"], outputs["values"]
            p = distribution(outputs["logits"], tokens, **options)
            new = draw(p, None if uniform is None else uniform[:, step])[:, None]
            tokens = torch.cat([tokens, new], 1)
    return tokens
