"""Attention among positions with similar hashes: the cost is that of neighbours alone.

"Reformer: The Efficient Transformer", 2020, arXiv:2001.04451. The numbers are those of lucidrains/reformer-pytorch
(MIT). Query and key are one vector; the key is that vector scaled to length 1, and a position hardly attends to itself.
"""

import math

import torch

from .attention import masked_score
from .positions import rotate
from .rows import take_rows
from .top_k import argmax

__all__ = ["hash_buckets", "lsh_attention", "shared_qk_attention"]

SELF = -5e4  # score of a position with itself: it only counts where there is no other


def unit(x):
    """Vectors scaled to length 1; those shorter than 1e-12 are divided by 1e-12."""
    return x / x.square().sum(-1, keepdim=True).clamp(min=1e-24).sqrt()


def shared_scores(query, key):
    """Scores of queries and keys that are the same vectors.  (..., T, E), (..., S, E) -> (..., T, S)."""
    return query @ unit(key).transpose(-1, -2) * query.shape[-1] ** -0.5


def hash_buckets(qk, rotations):
    """The bucket of every position in every round: the nearest of the rotated axes and their opposites.

    Args:
        qk: (N, T, E).
        rotations: (E, H, B / 2) random numbers for H rounds of B buckets.

    Returns: (N, H T) int64, round by round; those of round h are from h B to (h + 1) B - 1.
    """
    _, rounds, half = rotations.shape
    rotated = (qk @ rotations.flatten(1)).unflatten(-1, (rounds, half)).transpose(1, 2)  # (N, H, T, B / 2)
    found = argmax(torch.cat([rotated, -rotated], -1))
    return (found + torch.arange(rounds, device=qk.device)[:, None] * 2 * half).flatten(1)


def with_chunk_before(x):
    """Each chunk after the one before it; the last precedes the first.  (N, C, L, ...) -> (N, C, 2 L, ...)."""
    return torch.cat([torch.cat([x[:, -1:], x[:, :-1]], 1), x], 2)


def lsh_attention(
    qk,
    value,
    rotations,
    padding_mask=None,
    bucket_size: int = 64,
    causal: bool = False,
    allow_duplicates: bool = True,
    waves=None,
):
    """Attention within sorted buckets, over several rounds.

    In each round the positions are sorted by bucket and cut into chunks; a chunk attends to itself and the one before.
    The rounds are averaged by the total weight of their keys.

    Args:
        qk, value: (N, T, E) and (N, T, F); T is a multiple of 2 ``bucket_size``.
        rotations: (E, H, B / 2) random numbers, with B = T / ``bucket_size``.
        padding_mask: (N, T) bool, True = padding, or None.
        bucket_size: positions L of a chunk.
        causal: whether a position sees no later one.
        allow_duplicates: whether a pair that meets in several rounds counts each time.
        waves: (T, E) rotary positions, which rotate the vectors after hashing; or None.

    Returns: dict: ``"output"`` (N, T, F), ``"buckets"`` (N, H T) int64, see :func:`hash_buckets`.
    Raises: ValueError if length, rotations and bucket size do not fit.
    """
    length, (_, rounds, half) = qk.shape[1], rotations.shape
    if length % (2 * bucket_size) or 2 * half * bucket_size != length:
        raise ValueError(
            f"length {length} must be a multiple of 2 bucket_size={2 * bucket_size}, and rotations must have "
            f"length / bucket_size / 2 columns, not {half}"
        )
    chunks = rounds * 2 * half
    buckets = hash_buckets(qk, rotations)
    qk = qk if waves is None else rotate(qk, waves)
    places = torch.arange(rounds * length, device=qk.device) % length
    order = torch.argsort(buckets * length + places)  # no two are equal
    restore = torch.argsort(order)
    place = order % length  # (N, H T), sorted

    def chunked(x):
        return x.unflatten(1, (chunks, bucket_size))

    of_query = chunked(place)
    of_key = with_chunk_before(of_query)
    vectors = chunked(take_rows(qk, place))
    scores = shared_scores(vectors, with_chunk_before(vectors))  # (N, C, L, 2 L)
    masked = masked_score(scores.dtype)
    if padding_mask is not None:
        padding = chunked(take_rows(padding_mask, place))
        scores = torch.where(
            padding[..., None] | with_chunk_before(padding)[:, :, None], masked_score(scores.dtype), scores
        )
    if causal:
        scores = torch.where(of_query[..., None] < of_key[:, :, None], masked, scores)
    scores = torch.where(of_query[..., None] == of_key[:, :, None], SELF, scores)
    if not allow_duplicates:
        chunk = (restore // bucket_size).unflatten(1, (rounds, length)).transpose(1, 2)  # (N, T, H)
        of_query = chunked(take_rows(chunk, place))[:, :, :, None]
        of_key = with_chunk_before(chunked(take_rows(chunk, place)))[:, :, None]
        met = (of_query == of_key) | (of_query == (of_key + 1) % chunks)  # (N, C, L, 2 L, H)
        times = met.to(scores.dtype).sum(-1)
        # a pair across the border of two rounds meets in neither; 1e-9 as in the reference, which adds it
        scores = scores - torch.where(times > 0, times.clamp(min=1).log(), math.log(1e-9))
    # sums over the keys, relative to the largest score, so that the rounds can be added without a logarithm of -5e4
    largest = scores.amax(-1, keepdim=True).detach()
    value = torch.cat([value, torch.ones_like(value[..., :1])], -1)
    y = torch.exp(scores - largest) @ with_chunk_before(chunked(take_rows(value, place)))

    def by_round(x):
        return take_rows(x.flatten(1, 2), restore).unflatten(1, (rounds, length))

    largest = by_round(largest)
    y = (by_round(y) * torch.exp(largest - largest.amax(1, keepdim=True))).sum(1)
    return {"output": y[..., :-1] / y[..., -1:], "buckets": buckets}


def shared_qk_attention(qk, value, padding_mask=None, causal: bool = False):
    """The same attention among all positions, without hashing.  Arguments: :func:`lsh_attention`.

    Returns: (N, T, F).
    """
    scores = shared_scores(qk, qk)
    masked = masked_score(scores.dtype)
    place = torch.arange(qk.shape[1], device=qk.device)
    scores = torch.where(place[:, None] == place, SELF, scores)
    if padding_mask is not None:
        scores = torch.where(padding_mask[:, :, None] | padding_mask[:, None], masked, scores)
    if causal:
        scores = torch.where(place[:, None] < place, masked, scores)
    return scores.softmax(-1) @ value
