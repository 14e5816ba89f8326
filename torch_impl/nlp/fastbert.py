"""FastBERT: a BERT with a classifier after every layer; an easy text exits at the first one that is certain.

"FastBERT: a Self-distilling BERT with Adaptive Inference Time", 2020, arXiv:2004.02178. Parameter names:
autoliuweijie/FastBERT ``run_fastbert.py`` and its UER layers. First the backbone and the last classifier are trained
on labels; then the other classifiers learn its answers, without labels.

Mirror notes:
- PyTorch freezes what a phase does not train; TensorFlow's tape watches what it trains.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.activation import gelu
from torch_impl.layers.attention import attend, merge_heads, split_heads
from torch_impl.layers.native import exporting
from torch_impl.layers.normalization import StdLayerNorm
from torch_impl.layers.top_k import argmax
from torch_impl.losses.cross_entropy import cross_entropy
from torch_impl.nlp.bert_adam import BertAdam

__all__ = [
    "FastBert",
    "FastBertCriterion",
    "FastBertPostProcess",
    "FastBertTrainer",
    "adaptive",
    "fastbert_base",
    "uncertainty",
]

MASKED = -10000.0  # score of a key that must not be seen, as in the reference
SEGMENTS = 3  # padding, first and second text
UNCLIPPED = 1e9  # a gradient norm that is never reached
POOLINGS = ("first", "mean", "max", "last")


class MultiHeadedAttention(nn.Module):
    """Scaled dot-product attention of several heads.  x: (N, T, D), bias: (N, 1, 1, T) -> (N, T, D)."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden={hidden} must be a multiple of heads={heads}")
        self.heads = heads
        self.linear_layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(3))  # query, key, value
        self.dropout = nn.Dropout(dropout)
        self.final_linear = nn.Linear(hidden, hidden)

    def forward(self, x, bias):
        q, k, v = (split_heads(layer(x), self.heads) for layer in self.linear_layers)
        return self.final_linear(merge_heads(attend(q, k, v, bias, self.dropout)))


class FeedForward(nn.Module):
    """Two dense layers with GELU between them.  (N, T, D) -> (N, T, D)."""

    def __init__(self, hidden: int, intermediate: int):
        super().__init__()
        self.linear_1 = nn.Linear(hidden, intermediate)
        self.linear_2 = nn.Linear(intermediate, hidden)

    def forward(self, x):
        return self.linear_2(gelu(self.linear_1(x)))


class TransformerLayer(nn.Module):
    """Attention and feed-forward network, each with a residual and a normalisation after it."""

    def __init__(self, hidden: int, heads: int, intermediate: int, dropout: float):
        super().__init__()
        self.self_attn = MultiHeadedAttention(hidden, heads, dropout)
        self.dropout_1 = nn.Dropout(dropout)
        self.layer_norm_1 = StdLayerNorm(hidden)
        self.feed_forward = FeedForward(hidden, intermediate)
        self.dropout_2 = nn.Dropout(dropout)
        self.layer_norm_2 = StdLayerNorm(hidden)

    def forward(self, x, bias):
        x = self.layer_norm_1(self.dropout_1(self.self_attn(x, bias)) + x)
        return self.layer_norm_2(self.dropout_2(self.feed_forward(x)) + x)


class Embedding(nn.Module):
    """Sum of word, position and segment embeddings, normalised.  (N, T) int -> (N, T, D).

    Raises: ValueError if there are more tokens than positions.
    """

    def __init__(self, vocab_size: int, hidden: int, positions: int, dropout: float):
        super().__init__()
        self.word_embedding = nn.Embedding(vocab_size, hidden)
        self.position_embedding = nn.Embedding(positions, hidden)
        self.segment_embedding = nn.Embedding(SEGMENTS, hidden)
        self.layer_norm = StdLayerNorm(hidden)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids, segment_ids):
        length, positions = input_ids.shape[1], self.position_embedding.num_embeddings
        if not exporting() and length > positions:  # during export the length is a symbol
            raise ValueError(f"input_ids: {length} tokens, and the model has {positions} positions; cut them")
        x = self.word_embedding(input_ids) + self.segment_embedding(segment_ids)
        return self.dropout(self.layer_norm(x + self.position_embedding.weight[:length]))


class Encoder(nn.Module):
    """Holds the layers; the model runs them one after the other."""

    def __init__(self, layers: int, hidden: int, heads: int, intermediate: int, dropout: float):
        super().__init__()
        self.transformer = nn.ModuleList(TransformerLayer(hidden, heads, intermediate, dropout) for _ in range(layers))


class Classifier(nn.Module):
    """Narrow self-attention, one vector of all tokens, two dense layers.  (N, T, D) -> logits (N, K).

    Args:
        pooling: "first" and "last" take that token, "mean" and "max" all of them, the padding included.
    """

    def __init__(self, hidden: int, width: int, heads: int, num_classes: int, pooling: str, dropout: float):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling={pooling!r} must be one of {POOLINGS}")
        self.pooling = pooling
        self.output_layer_0 = nn.Linear(hidden, width)
        self.self_atten = MultiHeadedAttention(width, heads, dropout)
        self.output_layer_1 = nn.Linear(width, width)
        self.output_layer_2 = nn.Linear(width, num_classes)

    def pool(self, x):
        if self.pooling == "mean":
            return x.mean(1)  # the reference's runs over the features, which does not fit the next layer
        if self.pooling == "max":
            return x.amax(1)
        return x[:, -1 if self.pooling == "last" else 0]

    def forward(self, x, bias):
        x = self.self_atten(torch.tanh(self.output_layer_0(x)), bias)
        return self.output_layer_2(torch.tanh(self.output_layer_1(self.pool(x))))


class FastBert(nn.Module):
    """Embeddings, layers, and a classifier after each.

    The classifiers before the last see the backbone as a constant: their losses do not train it.

    Args:
        vocab_size, hidden, layers, heads, intermediate: sizes (V, D, number of layers L and heads, F).
        positions: longest sequence.
        classifier_hidden, classifier_heads: width and heads of the classifiers.
        num_classes: classes K.
        pooling: "first", "mean", "max" or "last", see :class:`Classifier`.
        dropout: rate after embeddings, attention and dense layers.

    Inputs: ``input_ids`` (N, T) int; ``segment_ids`` (N, T) int, 0 = padding, 1 = first text, 2 = second text.
    Returns: logits (N, L, K) of all classifiers.
    """

    def __init__(
        self,
        vocab_size: int = 21128,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        intermediate: int = 3072,
        positions: int = 512,
        classifier_hidden: int = 128,
        classifier_heads: int = 2,
        num_classes: int = 2,
        pooling: str = "first",
        dropout: float = 0.1,
    ):
        super().__init__()
        self.embedding = Embedding(vocab_size, hidden, positions, dropout)
        self.encoder = Encoder(layers, hidden, heads, intermediate, dropout)
        self.classifiers = nn.ModuleList(
            Classifier(hidden, classifier_hidden, classifier_heads, num_classes, pooling, dropout)
            for _ in range(layers)
        )
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def start(self, input_ids, segment_ids):
        """The embeddings, and the bias of the keys' scores."""
        x = self.embedding(input_ids, segment_ids)
        return x, (segment_ids[:, None, None] == 0).to(x.dtype) * MASKED

    def forward(self, input_ids, segment_ids):
        x, bias = self.start(input_ids, segment_ids)
        logits = []
        for layer, classifier in zip(self.encoder.transformer, self.classifiers, strict=True):
            x = layer(x, bias)
            last = classifier is self.classifiers[-1]
            logits.append(classifier(x if last else x.detach(), bias))
        return torch.stack(logits, 1)


class FastBertCriterion(nn.Module):
    """The losses of both phases; they share no parameter.

    Inputs: ``outputs`` of :class:`FastBert`; ``targets["labels"]`` (N,) int, -100 where there is no label.
    Returns: dict of scalars: ``"finetune"``, the cross-entropy of the last classifier (section 3.2.2); ``"distill"``,
        the divergence of every other classifier's answer from the last one's, which is a constant (equations 6
        and 7); their sum ``"total"``.
    """

    def forward(self, outputs, targets):
        finetune = cross_entropy(outputs[:, -1], targets["labels"])
        teacher = F.log_softmax(outputs[:, -1:].detach(), -1)
        students = F.log_softmax(outputs[:, :-1], -1)
        distill = (teacher.exp() * (teacher - students)).sum((1, 2)).mean()
        return {"finetune": finetune, "distill": distill, "total": finetune + distill}


def uncertainty(logits):
    """Entropy of an answer relative to the largest possible: (..., K) -> (...), in [0, 1] (equation 3)."""
    log_p = F.log_softmax(logits, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return (entropy / math.log(logits.shape[-1])).clamp(max=1)  # only rounding exceeds it


class FastBertPostProcess(nn.Module):
    """The answer of the first classifier that is certain enough, after all have been computed.

    Args:
        speed: largest uncertainty at which a text exits, in [0, 1]; at the last classifier it always does.

    Inputs: ``outputs`` of :class:`FastBert`.
    Returns: dict: ``"classes"`` (N,) int64; ``"logits"`` (N, K); ``"uncertainty"`` (N,); ``"layers"`` (N,) int64, how
        many layers the answer needed.
    Raises: ValueError if ``speed`` is not in [0, 1].
    """

    def __init__(self, speed: float = 0.5):
        super().__init__()
        if not 0 <= speed <= 1:
            raise ValueError(f"speed={speed} must be 0 to 1")
        self.speed = speed

    def forward(self, outputs):
        doubt = uncertainty(outputs)
        sure = doubt[:, :-1] <= self.speed
        first = argmax(F.pad(sure.to(doubt.dtype), (0, 1), value=1.0))
        logits = outputs.gather(1, first[:, None, None].expand(-1, 1, outputs.shape[2]))[:, 0]
        return {
            "classes": argmax(logits),
            "logits": logits,
            "uncertainty": doubt.gather(1, first[:, None])[:, 0],
            "layers": first + 1,
        }


@torch.no_grad()
def adaptive(model, input_ids, segment_ids, speed: float = 0.5) -> dict:
    """The same answers, layer by layer: a text that has exited is not computed further.

    Args:
        model: a :class:`FastBert`, in evaluation mode.
        input_ids, segment_ids: its inputs.
        speed: see :class:`FastBertPostProcess`.

    Returns:
        What :class:`FastBertPostProcess` returns; ``layers.sum() / (N L)`` is the share of the layers that was
        computed.
    """
    x, bias = model.start(input_ids, segment_ids)
    left = torch.arange(len(x), device=x.device)  # texts that have not exited
    parts = []
    for depth, (layer, classifier) in enumerate(zip(model.encoder.transformer, model.classifiers, strict=True), 1):
        x = layer(x, bias)
        logits = classifier(x, bias)
        doubt = uncertainty(logits)
        leaves = doubt <= speed if depth < len(model.classifiers) else torch.ones_like(doubt, dtype=torch.bool)
        parts.append((left[leaves], logits[leaves], doubt[leaves], torch.full_like(left[leaves], depth)))
        left, x, bias = left[~leaves], x[~leaves], bias[~leaves]
        if not len(left):
            break
    order, logits, doubt, layers = (torch.cat(values) for values in zip(*parts, strict=True))
    back = order.argsort()
    return {
        "classes": argmax(logits[back]),
        "logits": logits[back],
        "uncertainty": doubt[back],
        "layers": layers[back],
    }


class FastBertTrainer:
    """Training steps of one phase.

    Args:
        model: a :class:`FastBert`.
        criterion: its losses.
        phase: "finetune" trains the backbone and the last classifier on labels, "distill" the other classifiers on
            the last one's answers.
        learning_rate: of every step; 2e-5 or, in the second phase, 2e-4 by default (the reference: with warm-up, for 3
            and 10 epochs).
    """

    def __init__(self, model, criterion=None, phase: str = "finetune", learning_rate: float | None = None):
        if phase not in ("finetune", "distill"):
            raise ValueError(f"phase={phase!r} must be 'finetune' or 'distill'")
        self.model, self.phase = model, phase
        self.learning_rate = learning_rate or {"finetune": 2e-5, "distill": 2e-4}[phase]
        self.criterion = FastBertCriterion() if criterion is None else criterion
        students = tuple(f"classifiers.{i}." for i in range(len(model.classifiers) - 1))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(students) == (phase == "distill"))  # mirror: freezes
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimizer = BertAdam(trained, max_norm=UNCLIPPED)
        self.optimizer.decay |= {name: 0.0 for name in trained if name.endswith((".gamma", ".beta"))}

    def step(self, inputs, targets) -> dict:
        """One update from inputs and targets by name; the losses before it."""
        losses = self.criterion(self.model(*inputs.values()), targets)
        parameters = self.optimizer.parameters
        gradients = torch.autograd.grad(losses[self.phase], list(parameters.values()))
        self.optimizer.step(dict(zip(parameters, gradients, strict=True)), self.learning_rate)
        return losses


def fastbert_base(num_classes: int = 2, pooling: str = "first", **options):
    sizes = {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072}
    return FastBert(**{**sizes, **options}, num_classes=num_classes, pooling=pooling)
