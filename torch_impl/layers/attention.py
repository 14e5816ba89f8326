"""Attention: a query's weighted mean of values, by additive, multiplicative, local and multi-head scores.

"Neural Machine Translation by Jointly Learning to Align and Translate", 2014, arXiv:1409.0473 (additive).
"Effective Approaches to Attention-based Neural Machine Translation", 2015, arXiv:1508.04025 (dot product, general,
concatenation, local).
"Attention Is All You Need", 2017, arXiv:1706.03762 (scaled dot product, several heads). Parameter names of the last:
``torch.nn.MultiheadAttention`` (BSD).

A mask is True where a key must not be seen, as in ``torch.nn.MultiheadAttention``; Keras and
``scaled_dot_product_attention`` do the opposite. A query that sees no key gets 0, where PyTorch gives NaN.

Mirror notes:
- PyTorch has fused attention; TensorFlow writes softmax(q k^T) v out.
- PyTorch packs three matrices (3 D, D) into one parameter; TensorFlow keeps this layout.
"""

import torch
import torch.nn.functional as F
from torch import nn

__all__ = [
    "AdditiveAttention",
    "ConcatAttention",
    "DotAttention",
    "GeneralAttention",
    "LocalAttention",
    "MultiheadAttention",
    "ScaledDotAttention",
    "attend",
    "causal_mask",
    "mask_bias",
    "masked_score",
    "masked_softmax",
    "merge_heads",
    "split_heads",
]


def split_heads(x, heads: int):
    """(N, T, D) -> (N, heads, T, D / heads); each head is a run of channels."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x):
    """(N, heads, T, E) -> (N, T, heads E)."""
    return x.transpose(1, 2).flatten(2)


def masked_score(dtype) -> float:
    """Score of a key that must not be seen; finite, so that a row without any key stays finite."""
    return -6e4 if dtype == torch.float16 else -1e9


def mask_bias(masked, dtype):
    """What is added to the scores: 0 where ``masked`` is False, a large negative number where it is True."""
    return masked.to(dtype) * masked_score(dtype)


def causal_mask(query, key):
    """True where a key comes after its query; the last two are at one place.  (..., T, E), (..., S, E) -> (T, S)."""
    queries, keys = query.shape[-2], key.shape[-2]
    place = torch.arange(queries, device=query.device)[:, None] + (keys - queries)
    return torch.arange(keys, device=query.device) > place


def masked_softmax(scores, masked=None):
    """Softmax over the last axis of the scores that are not masked: the others get 0, and so does a row without any.

    Args:
        scores: (..., S) float.
        masked: bool, broadcast to the scores; True = must not be seen.
    """
    if masked is None:
        return scores.softmax(-1)
    return (scores + mask_bias(masked, scores.dtype)).softmax(-1) * (~masked).to(scores.dtype)


def attend(query, key, value, bias=None, dropout: nn.Dropout | None = None):
    """softmax(q k^T / sqrt(E) + bias) v.

    Args:
        query, key, value: (N, heads, T, E), (N, heads, S, E), (N, heads, S, F).
        bias: added to the scores, broadcast to (N, heads, T, S); see :func:`mask_bias`.
        dropout: layer for the weights.

    Returns: (N, heads, T, F).
    """
    # the fused kernel
    rate = dropout.p if dropout is not None and dropout.training else 0.0
    return F.scaled_dot_product_attention(query, key, value, bias, rate)  # mirror: fused attention


class DotAttention(nn.Module):
    """Attention of one head whose score is q . k (arXiv:1508.04025, equation 8).

    Inputs: ``query`` (N, T, Q), ``key`` (N, S, K), ``value`` (N, S, V), ``key_padding_mask`` (N, S) bool, True =
        padding, or None. Here Q = K.
    Returns: dict: ``"output"`` (N, T, V), ``"weights"`` (N, T, S), which are 0 at padding.
    """

    def scores(self, query, key):
        """(N, T, Q), (N, S, K) -> (N, T, S)."""
        return query @ key.transpose(1, 2)

    def forward(self, query, key, value, key_padding_mask=None):
        masked = None if key_padding_mask is None else key_padding_mask[:, None]
        weights = masked_softmax(self.scores(query, key), masked)
        return {"output": weights @ value, "weights": weights}


class ScaledDotAttention(DotAttention):
    """The score q . k / sqrt(K) (arXiv:1706.03762, equation 1).  Inputs and returns: :class:`DotAttention`."""

    def scores(self, query, key):
        return super().scores(query * key.shape[-1] ** -0.5, key)


class GeneralAttention(DotAttention):
    """The score q^T W k (arXiv:1508.04025, equation 8).  Inputs and returns: :class:`DotAttention`.

    Args:
        query_dim, key_dim: widths Q and K.
    """

    def __init__(self, query_dim: int, key_dim: int):
        super().__init__()
        self.key_proj = nn.Linear(key_dim, query_dim, bias=False)

    def scores(self, query, key):
        return super().scores(query, self.key_proj(key))


class AdditiveAttention(DotAttention):
    """The score v^T tanh(W_q q + W_k k + b) (arXiv:1409.0473, appendix A.1.2).  Otherwise: :class:`DotAttention`.

    Args:
        query_dim, key_dim: widths Q and K.
        attention_dim: width A that both are projected to.
        bias: whether b is added.
    """

    def __init__(self, query_dim: int, key_dim: int, attention_dim: int, bias: bool = False):
        super().__init__()
        self.query_proj = nn.Linear(query_dim, attention_dim, bias=bias)
        self.key_proj = nn.Linear(key_dim, attention_dim, bias=False)
        self.score_proj = nn.Linear(attention_dim, 1, bias=False)

    def scores(self, query, key):
        pairs = self.query_proj(query)[:, :, None] + self.key_proj(key)[:, None]  # (N, T, S, A)
        return self.score_proj(torch.tanh(pairs))[..., 0]


class ConcatAttention(DotAttention):
    """The score v^T tanh(W [q; k]) (arXiv:1508.04025, equation 8).  Inputs and returns: :class:`DotAttention`.

    Args:
        query_dim, key_dim: widths Q and K.
        attention_dim: height A of W.
    """

    def __init__(self, query_dim: int, key_dim: int, attention_dim: int):
        super().__init__()
        self.query_dim = query_dim
        self.pair_proj = nn.Linear(query_dim + key_dim, attention_dim, bias=False)
        self.score_proj = nn.Linear(attention_dim, 1, bias=False)

    def scores(self, query, key):
        # W [q; k] is the sum of two products: no pair is ever put together
        weight = self.pair_proj.weight
        of_query, of_key = query @ weight[:, : self.query_dim].T, key @ weight[:, self.query_dim :].T
        return self.score_proj(torch.tanh(of_query[:, :, None] + of_key[:, None]))[..., 0]


class LocalAttention(GeneralAttention):
    """Attention to a window of keys around a position p of each query (arXiv:1508.04025, section 3.2).

    Monotonic (local-m): query t looks at p = t. Predictive (local-p): p = S sigmoid(v^T tanh(W q)), with S the number
    of keys that are not padding, and the weights are multiplied by exp(-(s - p)^2 / (2 sigma^2)), sigma = window / 2.

    Args:
        query_dim, key_dim: widths Q and K.
        window: only keys at most this far from p are seen (the paper's D).
        predictive: local-p; otherwise local-m.

    Inputs and returns: :class:`DotAttention`; the weights of local-p do not add up to 1.
    """

    def __init__(self, query_dim: int, key_dim: int, window: int = 10, predictive: bool = True):
        super().__init__(query_dim, key_dim)
        self.window, self.predictive = window, predictive
        if predictive:
            self.position_proj = nn.Linear(query_dim, query_dim, bias=False)
            self.position_score = nn.Linear(query_dim, 1, bias=False)

    def centres(self, query, key, key_padding_mask):
        """Position p of every query: (N, T, 1) or (T, 1)."""
        if not self.predictive:
            return torch.arange(query.shape[1], device=query.device)[:, None].to(query.dtype)
        found = torch.sigmoid(self.position_score(torch.tanh(self.position_proj(query))))
        if key_padding_mask is None:
            return found * key.shape[1]
        return found * (~key_padding_mask).sum(1)[:, None, None].to(query.dtype)

    def forward(self, query, key, value, key_padding_mask=None):
        places = torch.arange(key.shape[1], device=key.device).to(query.dtype)
        distance = places - self.centres(query, key, key_padding_mask)  # (N, T, S) or (T, S)
        masked = distance.abs() > self.window
        if key_padding_mask is not None:
            masked = masked | key_padding_mask[:, None]
        weights = masked_softmax(self.scores(query, key), masked)
        if self.predictive:
            weights = weights * torch.exp(-distance.square() / (2 * (self.window / 2) ** 2))
        return {"output": weights @ value, "weights": weights}


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention of several heads with projections (arXiv:1706.03762, section 3.2.2).

    Args:
        embed_dim: width D of the query and of the output.
        num_heads: heads M, each of D / M channels.
        dropout: rate of the weights.
        bias: whether the projections have biases.
        kdim, vdim: widths of key and value; D if None. If either differs from D, the three matrices are separate
            parameters.
        need_weights: whether the weights of every head are returned, too.

    Inputs: ``query`` (N, T, D), ``key`` (N, S, kdim), ``value`` (N, S, vdim); ``key_padding_mask`` (N, S) bool and
        ``attn_mask`` (T, S) bool, or None; True = must not be seen.
    Returns: (N, T, D); with weights a dict: ``"output"`` (N, T, D), ``"weights"`` (N, M, T, S).
    Raises: ValueError if ``embed_dim`` is not a multiple of ``num_heads``.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        need_weights: bool = False,
    ):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"embed_dim={embed_dim} must be a multiple of num_heads={num_heads}")
        self.embed_dim, self.num_heads, self.need_weights = embed_dim, num_heads, need_weights
        self.dropout = nn.Dropout(dropout)
        kdim, vdim = kdim or embed_dim, vdim or embed_dim
        self.packed = kdim == vdim == embed_dim
        if self.packed:
            self.in_proj_weight = self.matrix(3 * embed_dim, embed_dim)  # mirror: packs three
        else:
            self.q_proj_weight = self.matrix(embed_dim, embed_dim)
            self.k_proj_weight = self.matrix(embed_dim, kdim)
            self.v_proj_weight = self.matrix(embed_dim, vdim)
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim)) if bias else None
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        if bias:
            nn.init.zeros_(self.out_proj.bias)

    def matrix(self, rows: int, columns: int):
        return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, columns)))

    def project(self, inputs):
        """Query, key and value, split into heads."""
        weights = (
            self.in_proj_weight.chunk(3)
            if self.packed
            else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        )
        biases = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return [split_heads(F.linear(*both), self.num_heads) for both in zip(inputs, weights, biases)]

    def forward(self, query, key, value, key_padding_mask=None, attn_mask=None):
        masked = attn_mask
        if key_padding_mask is not None:
            padding = key_padding_mask[:, None, None]
            masked = padding if masked is None else padding | masked  # (N, 1, T or 1, S)
        q, k, v = self.project((query, key, value))
        if self.need_weights:
            scores = (q * (self.embed_dim // self.num_heads) ** -0.5) @ k.transpose(2, 3)
            weights = masked_softmax(scores, masked)
            return {"output": self.out_proj(merge_heads(self.dropout(weights) @ v)), "weights": weights}
        if masked is None:
            return self.out_proj(merge_heads(attend(q, k, v, dropout=self.dropout)))
        y = attend(q, k, v, mask_bias(masked, q.dtype), self.dropout)
        # a query without any key
        return self.out_proj(merge_heads(y * (~masked).any(-1, keepdim=True).to(y.dtype)))
