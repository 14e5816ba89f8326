"""The parts of the Transformer: positions, attention with separate keys and values, the layers of both halves, a stack.

"Attention Is All You Need", 2017, arXiv:1706.03762; see ``transformer.py``.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.attention import attend, merge_heads, split_heads
from torch_impl.layers.native import exporting
from torch_impl.layers.positions import STYLES, sinusoids

__all__ = [
    "PAD",
    "DecoderLayer",
    "EncoderLayer",
    "SinusoidalPositions",
    "TransformerBody",
    "TransformerStack",
    "embedding",
]

EPS = 1e-5  # of every layer normalisation
PAD = 1  # the padding word, as in fairseq


def dense(in_features: int, out_features: int, gain: float = 1.0) -> nn.Linear:
    """A linear layer with a Xavier uniform matrix and zero bias initially."""
    layer = nn.Linear(in_features, out_features)
    nn.init.xavier_uniform_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def embedding(vocab_size: int, dim: int) -> nn.Embedding:
    """Rows that start normal with deviation 1 / sqrt(D), except the padding's, which is zero."""
    layer = nn.Embedding(vocab_size, dim)
    nn.init.normal_(layer.weight, std=dim**-0.5)
    nn.init.zeros_(layer.weight[PAD])
    return layer


class SinusoidalPositions(nn.Module):
    """Position embedding without learnt parameters.

    "fairseq" counts the words that are not padding from 2 and gives padding zeros; the others count all from 0.
    "marian" stores its table as a frozen parameter, so it is in the checkpoint; the others compute theirs.

    Args:
        dim: width D.
        style: see :func:`torch_impl.layers.positions.sinusoids`.
        positions: rows of the table.

    Inputs: ``ids`` (N, T) int; ``like``, a tensor of the desired precision; ``start`` (N,) int, position of the
        first word, or None for 0.
    Returns: (T, D); in the style of fairseq and with a start (N, T, D).
    Raises: ValueError if there are more words than rows.
    """

    def __init__(self, dim: int, style: str, positions: int):
        super().__init__()
        if style not in STYLES:
            raise ValueError(f"pos={style!r} must be one of {', '.join(STYLES)}")
        self.dim, self.style, self.rows = dim, style, positions if style == "marian" else None
        if style == "marian":
            table = sinusoids(torch.arange(positions, dtype=torch.float64), dim, style)
            self.weight = nn.Parameter(table.float(), requires_grad=False)

    def forward(self, ids, like, start=None):
        if self.rows is not None and not exporting() and ids.shape[1] > self.rows:
            raise ValueError(f"{ids.shape[1]} words are more than positions={self.rows}, the rows of the table")
        places = torch.arange(ids.shape[1], device=ids.device)
        if start is not None:
            places = start[:, None] + places
        if self.style == "marian":
            return self.weight[places]
        if self.style != "fairseq":
            return sinusoids(places.to(like.dtype), self.dim, self.style)
        words = (ids != PAD).to(like.dtype)
        counted = words.cumsum(1) - 1 if start is None else places.to(like.dtype)
        return sinusoids(counted + PAD + 1, self.dim, self.style) * words[..., None]


class TransformerAttention(nn.Module):
    """Attention of several heads.  query: (N, T, D), keys and values: (N, heads, S, E) -> (N, T, D)."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.k_proj = dense(dim, dim, 2**-0.5)
        self.v_proj = dense(dim, dim, 2**-0.5)
        self.q_proj = dense(dim, dim, 2**-0.5)
        self.out_proj = dense(dim, dim)
        self.dropout = nn.Dropout(dropout)

    def keys_values(self, x):
        """(N, S, D) -> keys and values, (N, heads, S, E) each."""
        return split_heads(self.k_proj(x), self.heads), split_heads(self.v_proj(x), self.heads)

    def forward(self, query, keys, values, bias):
        q = split_heads(self.q_proj(query), self.heads)
        return self.out_proj(merge_heads(attend(q, keys, values, bias, self.dropout)))


class TransformerLayer(nn.Module):
    """Base of both kinds of layers: the feed-forward half, and the residual with a norm after or before it."""

    def __init__(self, normalize_before: bool, dropout: float, activation_dropout: float):
        super().__init__()
        self.normalize_before = normalize_before
        self.dropout, self.activation_dropout = nn.Dropout(dropout), nn.Dropout(activation_dropout)

    def before(self, norm, x):
        return norm(x) if self.normalize_before else x

    def after(self, norm, x, y):
        x = x + self.dropout(y)
        return x if self.normalize_before else norm(x)

    def feed_forward(self, x):
        y = F.relu(self.fc1(self.before(self.final_layer_norm, x)))
        return self.after(self.final_layer_norm, x, self.fc2(self.activation_dropout(y)))


class EncoderLayer(TransformerLayer):
    """Self-attention and feed-forward network.  x: (N, S, D), bias: (N, 1, 1, S) -> (N, S, D)."""

    def __init__(self, dim, heads, ffn, normalize_before, dropout, attention_dropout, activation_dropout):
        super().__init__(normalize_before, dropout, activation_dropout)
        self.self_attn = TransformerAttention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim, eps=EPS)
        self.fc1 = dense(dim, ffn)
        self.fc2 = dense(ffn, dim)
        self.final_layer_norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x, bias):
        y = self.before(self.self_attn_layer_norm, x)
        x = self.after(self.self_attn_layer_norm, x, self.self_attn(y, *self.self_attn.keys_values(y), bias))
        return self.feed_forward(x)


class DecoderLayer(TransformerLayer):
    """Self-attention, attention to the encoder, feed-forward network.

    Inputs: ``x`` (N, T, D); ``memory``, the encoder's keys and values (N, heads, S, E); ``self_bias`` and
        ``memory_bias`` of the scores; with a cache ``past``, keys and values (N, heads, M, E), and ``here``
        (N, 1, M, 1) bool, True where those of x (T = 1) are written.
    Returns: (N, T, D), and the keys and values of self-attention.
    """

    def __init__(self, dim, heads, ffn, normalize_before, dropout, attention_dropout, activation_dropout):
        super().__init__(normalize_before, dropout, activation_dropout)
        self.self_attn = TransformerAttention(dim, heads, attention_dropout)
        self.self_attn_layer_norm = nn.LayerNorm(dim, eps=EPS)
        self.encoder_attn = TransformerAttention(dim, heads, attention_dropout)
        self.encoder_attn_layer_norm = nn.LayerNorm(dim, eps=EPS)
        self.fc1 = dense(dim, ffn)
        self.fc2 = dense(ffn, dim)
        self.final_layer_norm = nn.LayerNorm(dim, eps=EPS)

    def forward(self, x, memory, self_bias, memory_bias, past=None, here=None):
        y = self.before(self.self_attn_layer_norm, x)
        present = self.self_attn.keys_values(y)
        if past is not None:
            present = tuple(torch.where(here, new, old) for new, old in zip(present, past))
        x = self.after(self.self_attn_layer_norm, x, self.self_attn(y, *present, self_bias))
        y = self.before(self.encoder_attn_layer_norm, x)
        x = self.after(self.encoder_attn_layer_norm, x, self.encoder_attn(y, *memory, memory_bias))
        return self.feed_forward(x), present


class TransformerStack(nn.Module):
    """Word and position embeddings, and the layers of one half; a norm before each part means one more at the end."""

    def __init__(self, embed_tokens, layers, dim, pos, positions, normalize_before, dropout):
        super().__init__()
        self.scale = dim**0.5
        self.embed_tokens = embed_tokens
        self.embed_positions = SinusoidalPositions(dim, pos, positions)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(layers)
        self.layer_norm = nn.LayerNorm(dim, eps=EPS) if normalize_before else None

    def embed(self, ids, start=None):
        x = self.embed_tokens(ids) * self.scale
        return self.dropout(x + self.embed_positions(ids, x, start))

    def normalized(self, x):
        return x if self.layer_norm is None else self.layer_norm(x)


class TransformerBody(nn.Module):
    """Encoder and decoder, and the embedding if they share it."""

    def __init__(self, shared, encoder, decoder):
        super().__init__()
        if shared is not None:
            self.shared = shared
        self.encoder = encoder
        self.decoder = decoder
