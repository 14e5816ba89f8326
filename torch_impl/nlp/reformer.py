"""Reformer: a Transformer for long texts, with attention by hashing and layers whose activations are not kept.

"Reformer: The Efficient Transformer", 2020, arXiv:2001.04451. Parameter names: lucidrains/reformer-pytorch
``reformer_pytorch.py`` (MIT), without its duplicate names under ``irrev_blocks``.

The rotations of the hash are an input. The backward pass hashes the recomputed vectors again.

Mirror notes:
- PyTorch has a list of parameters; in Keras it is a list of variables, ``weights_``, because layers reserve
  ``weights``.
"""

import torch
from torch import nn

from torch_impl.layers.attention import merge_heads, split_heads
from torch_impl.layers.lsh_attention import lsh_attention, shared_qk_attention
from torch_impl.layers.reversible import ReversibleSequence
from torch_impl.layers.window_attention import RotaryFrequencies
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess
from torch_impl.nlp.performer import AbsolutePositionalEmbedding, Chunk, FeedForward, PreLayerNorm

__all__ = ["ClassificationCriterion", "ClassificationPostProcess", "Reformer", "ReformerLM", "reformer_lm"]


class LSHSelfAttention(nn.Module):
    """Self-attention of several heads whose query is their key.

    Inputs: ``x`` (N, T, D); ``rotations`` (E, H, B / 2) of the hash, for all heads; ``waves`` (T, E) of rotary
        positions, or None; ``padding_mask`` (N, T) bool, True = padding, or None.
    Returns: (N, T, D).
    """

    def __init__(self, dim, heads, dim_head, bucket_size, causal, allow_duplicates, use_full_attn):
        super().__init__()
        self.heads, self.causal, self.use_full_attn = heads, causal, use_full_attn
        self.options = {"bucket_size": bucket_size, "allow_duplicates": allow_duplicates}
        self.toqk = nn.Linear(dim, dim_head * heads, bias=False)
        self.tov = nn.Linear(dim, dim_head * heads, bias=False)
        self.to_out = nn.Linear(dim_head * heads, dim)

    def forward(self, x, rotations, waves=None, padding_mask=None):
        qk, value = (split_heads(layer(x), self.heads).flatten(0, 1) for layer in (self.toqk, self.tov))
        padding = None if padding_mask is None else padding_mask.repeat_interleave(self.heads, 0)
        if self.use_full_attn:
            y = shared_qk_attention(qk, value, padding, self.causal)
        else:
            y = lsh_attention(qk, value, rotations, padding, causal=self.causal, waves=waves, **self.options)["output"]
        return self.to_out(merge_heads(y.unflatten(0, (-1, self.heads))))


class Reformer(nn.Module):
    """The layers of a Reformer: two streams, whose mean is the result.

    Args:
        dim, depth, heads, dim_head: width D, layers, heads of attention and their width E.
        bucket_size: positions of a bucket.
        causal: whether a position sees no later one.
        ff_mult, ff_glu, ff_chunks: inner width of feed-forward divided by D, whether it is gated, in how many parts it
            runs.
        allow_duplicates: of :func:`torch_impl.layers.lsh_attention.lsh_attention`.
        use_full_attn: attention among all positions; it does not use rotary positions, as in the reference.

    Inputs: ``x`` (N, T, D); ``rotations`` (depth, E, H, B / 2); ``waves``, ``padding_mask`` as
        :class:`LSHSelfAttention`.
    Returns: (N, T, D).
    """

    def __init__(
        self,
        dim: int = 1024,
        depth: int = 12,
        heads: int = 8,
        dim_head: int = 64,
        bucket_size: int = 64,
        causal: bool = False,
        ff_mult: int = 4,
        ff_glu: bool = False,
        ff_chunks: int = 1,
        allow_duplicates: bool = True,
        use_full_attn: bool = False,
    ):
        super().__init__()
        self.layers = ReversibleSequence(
            [
                (
                    PreLayerNorm(
                        dim,
                        LSHSelfAttention(dim, heads, dim_head, bucket_size, causal, allow_duplicates, use_full_attn),
                    ),
                    PreLayerNorm(dim, Chunk(ff_chunks, FeedForward(dim, ff_mult, 0.0, ff_glu))),
                )
                for _ in range(depth)
            ]
        )
        self.depth = depth

    def forward(self, x, rotations, waves=None, padding_mask=None):
        y1, y2 = self.layers(x, x, [(rotations[i], waves, padding_mask) for i in range(self.depth)])
        return (y1 + y2) / 2


class AxialPositionalEmbedding(nn.Module):
    """Axial positions: the sum of a vector per row and one per column: (T, D) (section 4)."""

    def __init__(self, dim: int, rows: int, columns: int):
        super().__init__()
        self.weights = nn.ParameterList(  # mirror: a list of parameters
            [nn.Parameter(torch.randn(1, rows, 1, dim)), nn.Parameter(torch.randn(1, 1, columns, dim))]
        )

    def forward(self, length):
        return (self.weights[0] + self.weights[1]).flatten(0, 2)[:length]


class ReformerLM(nn.Module):
    """A Reformer between an embedding of words and scores of words.

    Args:
        num_tokens: words V.
        max_seq_len: longest sequence.
        positions: "rotary" in attention, or added to the words: "fixed" waves, "absolute" learnt vectors, or "axial"
            ones for rows of ``bucket_size`` positions.
        options: of :class:`Reformer`.

    Inputs: ``input_ids`` (N, T) int, T a multiple of 2 ``bucket_size``; ``rotations`` (depth, E, H, B / 2) random
        numbers for H rounds of B = T / ``bucket_size`` buckets; ``attention_mask`` (N, T) int, 1 = word, 0 = padding.
    Returns: logits (N, T, V).
    Raises: ValueError if ``positions`` is unknown, or there are more words than ``max_seq_len``.
    """

    def __init__(
        self,
        num_tokens: int = 20000,
        max_seq_len: int = 8192,
        dim: int = 1024,
        dim_head: int = 64,
        bucket_size: int = 64,
        positions: str = "rotary",
        **options,
    ):
        super().__init__()
        self.max_seq_len = max_seq_len
        self.token_emb = nn.Embedding(num_tokens, dim)
        self.pos_emb = self.layer_pos_emb = None
        if positions == "rotary":
            self.layer_pos_emb = RotaryFrequencies(dim_head)
        elif positions == "fixed":
            self.pos_emb = RotaryFrequencies(dim)
        elif positions == "absolute":
            self.pos_emb = AbsolutePositionalEmbedding(dim, max_seq_len)
        elif positions == "axial":
            self.pos_emb = AxialPositionalEmbedding(dim, -(-max_seq_len // bucket_size), bucket_size)
        else:
            raise ValueError(f"positions={positions!r} must be one of rotary, fixed, absolute, axial")
        self.reformer = Reformer(dim, dim_head=dim_head, bucket_size=bucket_size, **options)
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Sequential(nn.Identity(), nn.Linear(dim, num_tokens))

    def forward(self, input_ids, rotations, attention_mask):
        length = input_ids.shape[1]
        if length > self.max_seq_len:
            raise ValueError(f"{length} words are more than max_seq_len={self.max_seq_len}")
        x = self.token_emb(input_ids)
        if self.pos_emb is not None:
            x = x + self.pos_emb(length=length)
        waves = None if self.layer_pos_emb is None else self.layer_pos_emb(length=length)
        return self.out(self.norm(self.reformer(x, rotations, waves, attention_mask == 0)))


def reformer_lm(**options):
    return ReformerLM(**{"dim": 1024, "depth": 12, "heads": 8, "dim_head": 64, "causal": True, **options})
