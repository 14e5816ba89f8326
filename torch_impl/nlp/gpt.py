"""GPT-1 and GPT-2: Transformer decoders that predict the next token.

GPT-1 normalises after each half of a layer, GPT-2 before it and once more at the end; the rest is the same.
"Improving Language Understanding by Generative Pre-Training", 2018; "Language Models are Unsupervised Multitask
Learners", 2019. Parameter names: Hugging Face transformers ``models/openai/modeling_openai.py`` and
``models/gpt2/modeling_gpt2.py`` (Apache-2.0). How tokens are chosen from the logits: ``gpt_decoding.py``.

Mirror notes:
- PyTorch ties the output layer by giving two modules one parameter; Keras layers share one variable.
- Keras builds lazily; a model is called on one token when it is made, so that a step and its cache find all variables.
- PyTorch checks the length of a text at run time; a traced TensorFlow function only knows it if it is static.
"""

import torch
from torch import nn

from torch_impl.layers.activation import gelu
from torch_impl.layers.attention import attend, mask_bias, merge_heads, split_heads
from torch_impl.layers.native import exporting
from torch_impl.losses.cross_entropy import ClassificationPostProcess, sparse_cross_entropy

__all__ = [
    "ChunkModel",
    "Conv1D",
    "DoubleHeadsModel",
    "GPT1Model",
    "GPT2Model",
    "GPTCriterion",
    "GPTDoubleHeadsCriterion",
    "GPTPostProcess",
    "LMHeadModel",
    "StepModel",
    "gpt1",
    "gpt2",
    "gpt2_large",
    "gpt2_medium",
    "gpt2_xl",
]

EPS = 1e-5  # of every layer normalisation
STD = 0.02  # of the initial matrices and embeddings


class Conv1D(nn.Module):
    """y = x W + b. W is (in, out), as in OpenAI's convolution of width 1, not transposed like a linear layer's.

    Args:
        in_features, out_features: widths.
        std: deviation of the initial matrix.

    Inputs: (..., in_features).  Returns: (..., out_features).
    """

    def __init__(self, in_features: int, out_features: int, std: float = STD):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        nn.init.normal_(self.weight, std=std)

    def forward(self, x):
        return x @ self.weight + self.bias


def table(rows: int, hidden: int, std: float = STD) -> nn.Embedding:
    """An embedding that starts normal with the given deviation."""
    embedding = nn.Embedding(rows, hidden)
    nn.init.normal_(embedding.weight, std=std)
    return embedding


def insert(buffer, new, start):
    """The buffer (N, heads, S, D / heads) with new (N, heads, T, D / heads) from position ``start`` (1,) on."""
    slot = torch.arange(buffer.shape[2], device=new.device) - start
    inside = (slot >= 0) & (slot < new.shape[2])
    return torch.where(inside[:, None], new[:, :, slot.clamp(0, new.shape[2] - 1)], buffer)


class Attention(nn.Module):
    """Scaled dot-product attention of several heads over this token and those before it.

    Inputs: x (N, T, D); bias (T, S), added to the scores; cache, if any: ``start`` (1,) int and the keys and values of
        S positions, (N, heads, S, D / heads), of which those before ``start`` are filled.
    Returns: (N, T, D), and keys and values (N, heads, S, D / heads); without a cache S = T.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, std: float):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden={hidden} must be a multiple of heads={heads}")
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.c_attn = Conv1D(hidden, 3 * hidden)
        self.c_proj = Conv1D(hidden, hidden, std)
        self.resid_dropout = nn.Dropout(dropout)

    def forward(self, x, bias, cache=None):
        q, k, v = (split_heads(part, self.heads) for part in self.c_attn(x).chunk(3, -1))
        if cache is not None:
            start, keys, values = cache
            k, v = insert(keys, k, start), insert(values, v, start)
        y = merge_heads(attend(q, k, v, bias, self.dropout))
        return self.resid_dropout(self.c_proj(y)), k, v


class MLP(nn.Module):
    """Two dense layers with GELU's tanh approximation between them.  (N, T, D) -> (N, T, D)."""

    def __init__(self, hidden: int, dropout: float, std: float):
        super().__init__()
        self.c_fc = Conv1D(hidden, 4 * hidden)
        self.c_proj = Conv1D(4 * hidden, hidden, std)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x):
        return self.dropout(self.c_proj(gelu(self.c_fc(x), "tanh")))


class GPT1Block(nn.Module):
    """Attention and feed-forward network, each with a residual and a normalisation after it.

    Inputs and returns: those of :class:`Attention`.
    """

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.attn = Attention(hidden, heads, dropout, STD)
        self.ln_1 = nn.LayerNorm(hidden, eps=EPS)
        self.mlp = MLP(hidden, dropout, STD)
        self.ln_2 = nn.LayerNorm(hidden, eps=EPS)

    def forward(self, x, bias, cache=None):
        y, keys, values = self.attn(x, bias, cache)
        x = self.ln_1(x + y)
        return self.ln_2(x + self.mlp(x)), keys, values


class GPT2Block(nn.Module):
    """Attention and feed-forward network, each with a normalisation before it and a residual around both.

    Args:
        std: deviation of the matrices that end in the residual sum.

    Inputs and returns: those of :class:`Attention`.
    """

    def __init__(self, hidden: int, heads: int, dropout: float, std: float):
        super().__init__()
        self.ln_1 = nn.LayerNorm(hidden, eps=EPS)
        self.attn = Attention(hidden, heads, dropout, std)
        self.ln_2 = nn.LayerNorm(hidden, eps=EPS)
        self.mlp = MLP(hidden, dropout, std)

    def forward(self, x, bias, cache=None):
        y, keys, values = self.attn(self.ln_1(x), bias, cache)
        x = x + y
        return x + self.mlp(self.ln_2(x)), keys, values


def embed(input_ids, words, places, cache):
    """Token and position embeddings added: (N, T) int -> (N, T, D); with a cache the positions continue after it.

    Raises: ValueError if there are more tokens than positions.
    """
    length = input_ids.shape[1]
    if not exporting() and length > places.num_embeddings:  # mirror: checks the length
        raise ValueError(f"input_ids: {length} tokens, and the model has {places.num_embeddings} positions; cut them")
    start = 0 if cache is None else cache[0]
    return words(input_ids) + places(start + torch.arange(length, device=input_ids.device))


def run(blocks, x, cache):
    """All layers, each token seeing itself and those before it: x, and the keys and values of each layer."""
    tokens = torch.arange(x.shape[1], device=x.device)
    if cache is None:
        parts, seen = [None] * len(blocks), tokens
    else:
        start, keys, values = cache
        parts = [(start, keys[:, i], values[:, i]) for i in range(len(blocks))]
        tokens, seen = start + tokens, torch.arange(keys.shape[3], device=x.device)
    bias = mask_bias(seen > tokens[:, None], x.dtype)  # (T, S)
    all_keys, all_values = [], []
    for block, part in zip(blocks, parts, strict=True):
        x, k, v = block(x, bias, part)
        all_keys.append(k)
        all_values.append(v)
    return x, all_keys, all_values


class GPT1Model(nn.Module):
    """The decoder of GPT-1.

    Args:
        vocab_size, hidden, layers, heads: sizes (V, D, number of layers and heads).
        positions: longest text.
        dropout: rate after embeddings, attention and dense layers.

    Inputs: ``input_ids`` (N, T) int; cache, if any: ``start`` (1,) int, the number of previous tokens, and their keys
        and values (N, layers, heads, S, D / heads) with room for S tokens.
    Returns: (N, T, D), and lists of each layer's keys and values (N, heads, S, D / heads).
    """

    def __init__(
        self,
        vocab_size: int = 40478,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        positions: int = 512,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.positions, self.rate = positions, dropout
        self.tokens_embed = table(vocab_size, hidden)
        self.positions_embed = table(positions, hidden)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(GPT1Block(hidden, heads, dropout) for _ in range(layers))

    @property
    def words(self):
        return self.tokens_embed

    def forward(self, input_ids, cache=None):
        x = self.drop(embed(input_ids, self.tokens_embed, self.positions_embed, cache))
        return run(self.h, x, cache)


class GPT2Model(nn.Module):
    """The decoder of GPT-2.

    Args:
        vocab_size, hidden, layers, heads: sizes (V, D, number of layers and heads).
        positions: longest text.
        dropout: rate after embeddings, attention and dense layers.

    Inputs and returns: those of :class:`GPT1Model`.
    """

    def __init__(
        self,
        vocab_size: int = 50257,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        positions: int = 1024,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.positions, self.rate = positions, dropout
        std = STD * (2 * layers) ** -0.5  # two matrices of every layer add to the residual sum
        self.wte = table(vocab_size, hidden)
        self.wpe = table(positions, hidden, 0.01)
        self.drop = nn.Dropout(dropout)
        self.h = nn.ModuleList(GPT2Block(hidden, heads, dropout, std) for _ in range(layers))
        self.ln_f = nn.LayerNorm(hidden, eps=EPS)

    @property
    def words(self):
        return self.wte

    def forward(self, input_ids, cache=None):
        x = self.drop(embed(input_ids, self.wte, self.wpe, cache))
        x, keys, values = run(self.h, x, cache)
        return self.ln_f(x), keys, values


class LMHeadModel(nn.Module):
    """A decoder whose word embedding is also its output layer.

    Args:
        transformer: a :class:`GPT1Model` or :class:`GPT2Model`.

    Inputs: ``input_ids`` (N, T) int.
    Returns: logits (N, T, V); those of a token score the next one.
    """

    def __init__(self, transformer):
        super().__init__()
        self.transformer = transformer  # mirror: builds lazily
        self.lm_head = nn.Linear(*reversed(transformer.words.weight.shape), bias=False)
        self.lm_head.weight = transformer.words.weight  # mirror: ties the output

    def forward(self, input_ids):
        return self.lm_head(self.transformer(input_ids)[0])


class StepModel(LMHeadModel):
    """The same with a cache of fixed size, for one token at a time: previous tokens are not computed again.

    Inputs: ``input_ids`` (N, T) int, the next T tokens; ``length`` (1,) int, how many came before; ``past_keys``
        and ``past_values`` (N, layers, heads, S, D / heads), theirs; what comes after ``length`` is ignored.
    Returns: dict: ``"logits"`` (N, V) after the last token; ``"keys"`` and ``"values"`` with the new tokens' added.
    """

    def forward(self, input_ids, length, past_keys, past_values):
        x, keys, values = self.transformer(input_ids, (length, past_keys, past_values))
        return {"logits": self.lm_head(x[:, -1]), "keys": torch.stack(keys, 1), "values": torch.stack(values, 1)}


class ChunkModel(StepModel):
    """The same with the logits after every token: to score a text, or a draft by another model.

    Inputs: those of :class:`StepModel`.
    Returns: dict: ``"logits"`` (N, T, V), ``"keys"``, ``"values"``.
    """

    def forward(self, input_ids, length, past_keys, past_values):
        x, keys, values = self.transformer(input_ids, (length, past_keys, past_values))
        return {"logits": self.lm_head(x), "keys": torch.stack(keys, 1), "values": torch.stack(values, 1)}


class ChoiceHead(nn.Module):
    """A score from one token of a text.  x: (N, T, D), token: (N,) int -> (N,)."""

    def __init__(self, in_features: int, dropout: float):
        super().__init__()
        self.summary = nn.Linear(in_features, 1)
        self.first_dropout = nn.Dropout(dropout)
        nn.init.normal_(self.summary.weight, std=STD)
        nn.init.zeros_(self.summary.bias)

    def forward(self, x, token):
        chosen = x.gather(1, token[:, None, None].expand(-1, 1, x.shape[2]))[:, 0]
        return self.summary(self.first_dropout(chosen))[:, 0]


class DoubleHeadsModel(LMHeadModel):
    """A decoder that scores several continuations of a text, besides predicting their tokens.

    Args:
        transformer: see :class:`LMHeadModel`; its dropout is also the one before the score.

    Inputs: ``input_ids`` (N, choices, T) int; ``mc_token_ids`` (N, choices) int, where the token ``_classify_`` is.
    Returns: dict: ``"logits"`` (N, choices, T, V), ``"mc_logits"`` (N, choices).
    """

    def __init__(self, transformer):
        super().__init__(transformer)
        self.multiple_choice_head = ChoiceHead(transformer.words.embedding_dim, transformer.rate)

    def forward(self, input_ids, mc_token_ids):
        choices = input_ids.shape[1]
        x = self.transformer(input_ids.flatten(0, 1))[0]
        scores = self.multiple_choice_head(x, mc_token_ids.flatten())
        return {
            "logits": self.lm_head(x).unflatten(0, (-1, choices)),
            "mc_logits": scores.unflatten(0, (-1, choices)),
        }


def next_token_loss(logits, labels):
    """Mean cross-entropy of every token except the first, predicted from those before it; -100 does not count."""
    return sparse_cross_entropy(logits[..., :-1, :], labels[..., 1:])


class GPTCriterion(nn.Module):
    """Cross-entropy of the next token.

    Inputs: ``outputs`` the logits (N, T, V); ``targets["labels"]`` (N, T) int, the tokens themselves; -100 does not
        count.
    Returns: dict of scalars: ``"lm"``, ``"total"``.
    """

    def forward(self, outputs, targets):
        loss = next_token_loss(outputs, targets["labels"])
        return {"lm": loss, "total": loss}


class GPTDoubleHeadsCriterion(nn.Module):
    """Cross-entropy of the right continuation, plus a share of that of the next token (GPT-1, equation 5).

    Args:
        lm_coef: the share.

    Inputs: ``outputs`` of :class:`DoubleHeadsModel`; ``targets``: ``"mc_labels"`` (N,) int, the right continuation;
        ``"labels"`` (N, choices, T) int, the tokens themselves; -100 does not count.
    Returns: dict of scalars: ``"mc"``, ``"lm"``, ``"total"``.
    """

    def __init__(self, lm_coef: float = 0.5):
        super().__init__()
        self.lm_coef = lm_coef

    def forward(self, outputs, targets):
        choice = sparse_cross_entropy(outputs["mc_logits"], targets["mc_labels"])
        lm = next_token_loss(outputs["logits"], targets["labels"])
        return {"mc": choice, "lm": lm, "total": choice + self.lm_coef * lm}


class GPTPostProcess(ClassificationPostProcess):
    """The most probable tokens after a text.

    Args:
        k: how many.

    Inputs: the logits (N, T, V).
    Returns: dict: ``"scores"`` (N, k) float in [0, 1], descending; ``"classes"`` (N, k) int64, the tokens.
    """

    def forward(self, outputs):
        return super().forward(outputs[:, -1])


HEADS = {"lm": LMHeadModel, "step": StepModel, "chunk": ChunkModel, "choice": DoubleHeadsModel}


def with_head(head: str, transformer):
    """Put a head on a decoder."""
    if head not in HEADS:
        raise ValueError(f"head={head!r} must be one of {sorted(HEADS)}")
    return HEADS[head](transformer)


def gpt1(head: str = "lm", **options):
    return with_head(head, GPT1Model(**{"hidden": 768, "layers": 12, "heads": 12, **options}))


def gpt2(head: str = "lm", **options):
    return with_head(head, GPT2Model(**{"hidden": 768, "layers": 12, "heads": 12, **options}))


def gpt2_medium(head: str = "lm", **options):
    return with_head(head, GPT2Model(**{"hidden": 1024, "layers": 24, "heads": 16, **options}))


def gpt2_large(head: str = "lm", **options):
    return with_head(head, GPT2Model(**{"hidden": 1280, "layers": 36, "heads": 20, **options}))


def gpt2_xl(head: str = "lm", **options):
    return with_head(head, GPT2Model(**{"hidden": 1600, "layers": 48, "heads": 25, **options}))
