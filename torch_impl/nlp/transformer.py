"""The Transformer: an encoder and a decoder of attention and feed-forward layers, for translation.

"Attention Is All You Need", 2017, arXiv:1706.03762. Parameter names: Hugging Face transformers
``models/marian/modeling_marian.py`` (Apache-2.0), which after ``model.`` are those of fairseq (MIT).

The decoder runs over whole sentences in training, and word by word in a search, where it keeps keys and values of the
words so far in a cache of fixed length. Both modes, and the encoder, are graphs that can be exported.

Mirror notes:
- PyTorch ties the output by giving two modules one parameter; Keras layers share one variable.
- Keras builds lazily, and a graph of one half would lack the other's variables: all layers are built at once.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.attention import causal_mask, mask_bias
from torch_impl.nlp._transformer_layers import (
    PAD,
    DecoderLayer,
    EncoderLayer,
    TransformerBody,
    TransformerStack,
    embedding,
)
from torch_impl.nlp.beam_search import beam_search, greedy_search
from torch_impl.training.optimizers import Adam

__all__ = [
    "Transformer",
    "TransformerCriterion",
    "TransformerEncode",
    "TransformerPostProcess",
    "TransformerStep",
    "TransformerTrainer",
    "inverse_sqrt_warmup",
    "transformer_base",
    "transformer_big",
    "transformer_iwslt_de_en",
    "translate",
]

EOS = 2  # the decoder starts from the end-of-sentence word, as in fairseq


class Transformer(nn.Module):
    """Encoder, decoder, and scores of the next word.

    Args:
        vocab_size: words V of the target, and of the source unless ``source_vocab_size`` is given.
        dim, layers, heads, ffn: width D, layers of each half, heads of attention, inner width of feed-forward.
        pos: sines and cosines of positions: "paper", "t2t", "fairseq" or "marian".
        positions: rows of the table of "marian".
        normalize_before: layer normalisation before each part, not after its residual.
        tying: which matrices are shared: "all" three, the "decoder"'s input and output, or "none".
        source_vocab_size: words of the source, if they differ from the target's; not with "all".
        dropout, attention_dropout, activation_dropout: rates after embeddings and parts, of attention weights, and
            inside the feed-forward network.

    Inputs: ``input_ids`` and ``attention_mask`` (1 = word, 0 = padding): (N, S) int; ``decoder_input_ids`` (N, T) int.
    Returns: logits (N, T, V); position t does not depend on later words.
    """

    def __init__(
        self,
        vocab_size: int = 37000,
        dim: int = 512,
        layers: int = 6,
        heads: int = 8,
        ffn: int = 2048,
        pos: str = "paper",
        positions: int = 1024,
        normalize_before: bool = False,
        tying: str = "all",
        source_vocab_size: int | None = None,
        dropout: float = 0.1,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim={dim} must be a multiple of heads={heads}")
        if tying not in ("all", "decoder", "none"):
            raise ValueError(f"tying={tying!r} must be one of all, decoder, none")
        if tying == "all" and source_vocab_size not in (None, vocab_size):
            raise ValueError(f"source_vocab_size={source_vocab_size} must be vocab_size={vocab_size} where tying='all'")
        self.dim = dim
        self.register_buffer("final_logits_bias", torch.zeros(1, vocab_size))
        of_layer = (dim, heads, ffn, normalize_before, dropout, attention_dropout, activation_dropout)
        of_stack = (dim, pos, positions, normalize_before, dropout)
        target = embedding(vocab_size, dim)
        source = target if tying == "all" else embedding(source_vocab_size or vocab_size, dim)
        self.model = TransformerBody(
            target if tying == "all" else None,
            TransformerStack(source, [EncoderLayer(*of_layer) for _ in range(layers)], *of_stack),
            TransformerStack(target, [DecoderLayer(*of_layer) for _ in range(layers)], *of_stack),
        )
        self.lm_head = nn.Linear(dim, vocab_size, bias=False)  # mirror: builds lazily
        nn.init.normal_(self.lm_head.weight, std=dim**-0.5)
        if tying != "none":
            self.lm_head.weight = target.weight  # mirror: ties the output

    def source(self, input_ids, attention_mask):
        """The encoder's output, and its keys and values (N, heads, S, E) for every layer of the decoder."""
        encoder = self.model.encoder
        x = encoder.embed(input_ids)
        bias = mask_bias(attention_mask[:, None, None] == 0, x.dtype)
        for layer in encoder.layers:
            x = layer(x, bias)
        x = encoder.normalized(x)
        return x, [layer.encoder_attn.keys_values(x) for layer in self.model.decoder.layers]

    def encode(self, input_ids, attention_mask):
        """Everything the decoder's steps need from the source.

        Returns: dict: ``"last_hidden_state"`` (N, S, D); ``"memory_key"`` and ``"memory_value"``, the keys and values
            of the source for the L layers of the decoder, (N, L, heads, S, E).
        """
        x, memory = self.source(input_ids, attention_mask)
        keys, values = (torch.stack(parts, 1) for parts in zip(*memory))
        return {"last_hidden_state": x, "memory_key": keys, "memory_value": values}

    def logits(self, x):
        return self.lm_head(self.model.decoder.normalized(x)) + self.final_logits_bias

    def step(self, decoder_input_ids, position, attention_mask, memory_key, memory_value, past_key, past_value):
        """Logits after one more word.

        Args:
            decoder_input_ids: (N, 1) int, the word.
            position: (N,) int, its position, below the length M of the cache.
            attention_mask, memory_key, memory_value: of :meth:`encode`.
            past_key, past_value: (N, L, heads, M, E), the cache; its contents from the position on are ignored.

        Returns: dict: ``"logits"`` (N, V); ``"present_key"``, ``"present_value"``, the cache with this word.
        """
        x = self.model.decoder.embed(decoder_input_ids, position)
        places = torch.arange(past_key.shape[3], device=x.device)
        self_bias = mask_bias(places > position[:, None, None, None], x.dtype)  # (N, 1, 1, M)
        here = (places == position[:, None])[:, None, :, None]
        memory_bias = mask_bias(attention_mask[:, None, None] == 0, x.dtype)
        presents = []
        for i, layer in enumerate(self.model.decoder.layers):
            past = past_key[:, i], past_value[:, i]
            x, present = layer(x, (memory_key[:, i], memory_value[:, i]), self_bias, memory_bias, past, here)
            presents.append(present)
        keys, values = (torch.stack(parts, 1) for parts in zip(*presents))
        return {"logits": self.logits(x)[:, 0], "present_key": keys, "present_value": values}

    def forward(self, input_ids, attention_mask, decoder_input_ids):
        _, memory = self.source(input_ids, attention_mask)
        x = self.model.decoder.embed(decoder_input_ids)
        self_bias = mask_bias(causal_mask(x, x), x.dtype)
        memory_bias = mask_bias(attention_mask[:, None, None] == 0, x.dtype)
        for layer, pair in zip(self.model.decoder.layers, memory):
            x, _ = layer(x, pair, self_bias, memory_bias)
        return self.logits(x)


class TransformerEncode(Transformer):
    """The encoder as a graph: inputs and returns of :meth:`Transformer.encode`."""

    def forward(self, input_ids, attention_mask):
        return self.encode(input_ids, attention_mask)


class TransformerStep(Transformer):
    """One step of the decoder as a graph: inputs and returns of :meth:`Transformer.step`."""

    def forward(self, decoder_input_ids, position, attention_mask, memory_key, memory_value, past_key, past_value):
        return self.step(decoder_input_ids, position, attention_mask, memory_key, memory_value, past_key, past_value)


class TransformerCriterion(nn.Module):
    """Cross-entropy with label smoothing, averaged over the words that are not padding.

    With V words and smoothing e, the target has 1 - e and the others e / (V - 1) each in "fairseq" and "t2t", which
    subtracts the entropy of that distribution, so that a perfect model has loss 0; in "torch" e / V is spread over all.

    Args:
        label_smoothing: e, in [0, 1).
        form: "fairseq", "t2t" or "torch".
        padding: label of the positions that do not count.

    Inputs: ``outputs``, logits (N, T, V); ``targets["labels"]`` (N, T) int in [0, V).
    Returns: dict of scalars: ``"nll"`` (without smoothing), ``"label_smoothed"``, ``"total"`` (the latter).
    """

    def __init__(self, label_smoothing: float = 0.1, form: str = "fairseq", padding: int = PAD):
        super().__init__()
        if form not in ("fairseq", "t2t", "torch"):
            raise ValueError(f"form={form!r} must be one of fairseq, t2t, torch")
        self.label_smoothing, self.form, self.padding = label_smoothing, form, padding

    def forward(self, outputs, targets):
        labels, eps, words = targets["labels"], self.label_smoothing, outputs.shape[-1]
        others = eps / words if self.form == "torch" else eps / (words - 1)
        target = 1 - eps if self.form == "torch" else 1 - eps - others  # on top of the share that all have
        log_p = F.log_softmax(outputs, -1)
        nll = -log_p.gather(-1, labels[..., None])[..., 0]
        smoothed = target * nll - others * log_p.sum(-1)
        if self.form == "t2t" and eps:
            smoothed = smoothed + (1 - eps) * math.log(1 - eps) + eps * math.log(others)
        counted = (labels != self.padding).to(nll.dtype)
        nll, smoothed = ((loss * counted).sum() / counted.sum().clamp(min=1) for loss in (nll, smoothed))
        return {"nll": nll, "label_smoothed": smoothed, "total": smoothed}


class TransformerPostProcess(nn.Module):
    """The most probable next word, and the logarithm of its probability.

    Inputs: ``outputs``, logits (..., V), or a dict with ``"logits"``.
    Returns: dict: ``"words"`` (...) int64, ``"log_probability"`` (...) float.
    """

    def forward(self, outputs):
        logits = outputs["logits"] if isinstance(outputs, dict) else outputs
        return {"words": logits.argmax(-1), "log_probability": F.log_softmax(logits, -1).amax(-1)}


def inverse_sqrt_warmup(step: int, dim: int = 512, warmup: int = 4000, factor: float = 1.0) -> float:
    """Learning rate of a step counted from 1 (section 5.3, equation 3); tensor2tensor has ``factor=2``."""
    return factor * dim**-0.5 * min(step**-0.5, step * warmup**-1.5)


class TransformerTrainer:
    """Training steps: Adam with betas 0.9 and 0.98, at the rate of :func:`inverse_sqrt_warmup` (section 5.3).

    Args:
        model: a :class:`Transformer`.
        criterion: its losses.
        warmup, factor: of the rate.
    """

    def __init__(self, model, criterion=None, warmup: int = 4000, factor: float = 1.0):
        self.model, self.warmup, self.factor = model, warmup, factor
        self.criterion = TransformerCriterion() if criterion is None else criterion
        parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = Adam(parameters, betas=(0.9, 0.98), eps=1e-9)
        self.steps = 0

    def step(self, inputs, targets) -> dict:
        """One update from inputs and targets by name; the losses before it."""
        self.steps += 1
        rate = inverse_sqrt_warmup(self.steps, self.model.dim, self.warmup, self.factor)
        self.optimizer.param_groups[0]["lr"] = rate
        losses = self.criterion(self.model(*inputs.values()), targets)
        self.optimizer.zero_grad()
        losses["total"].backward()
        self.optimizer.step()
        return losses


@torch.no_grad()
def translate(model, input_ids, attention_mask, beams: int = 4, alpha: float = 0.6, max_length: int | None = None):
    """Search for the best translation of every sentence in a batch.

    Args:
        model: a :class:`Transformer` in evaluation mode.
        input_ids, attention_mask: (N, S) int.
        beams: hypotheses K that are kept; with 1 the search is greedy.
        alpha: of the length penalty.
        max_length: longest translation; by default 50 words more than the source (section 6.1).

    Returns: dict of :func:`torch_impl.nlp.beam_search.beam_search`; in a greedy search K = 1.
    Raises: ValueError if ``max_length`` exceeds the model's positions.
    """
    max_length = input_ids.shape[1] + 50 if max_length is None else max_length
    table = model.model.decoder.embed_positions.rows
    if table is not None and max_length > table:
        raise ValueError(f"max_length={max_length} must be at most positions={table}, the rows of the model's table")
    encoded = model.encode(input_ids, attention_mask)
    keys, values = encoded["memory_key"], encoded["memory_value"]
    cache = keys.new_zeros(*keys.shape[:3], max_length, keys.shape[4])
    memory = [x.repeat_interleave(beams, 0) for x in (attention_mask, keys, values)]  # the same for all beams

    def step(words, position, state):
        found = model.step(words[:, None], torch.full_like(words, position), *memory, **state)
        past = {"past_key": found["present_key"], "past_value": found["present_value"]}
        return F.log_softmax(found["logits"], -1), past

    state = {"past_key": cache, "past_value": cache}

    start = torch.full_like(input_ids[:, 0], EOS)
    if beams == 1:
        return greedy_search(step, state, start, max_length, EOS, PAD)
    return beam_search(step, state, start, max_length, EOS, PAD, beams, alpha)


HEADS = {"model": Transformer, "encode": TransformerEncode, "step": TransformerStep}


def with_head(head: str, **options):
    """Build BERT with the given head."""
    if head not in HEADS:
        raise ValueError(f"head={head!r} must be one of {sorted(HEADS)}")
    return HEADS[head](**options)


def transformer_base(head: str = "model", **options):
    return with_head(head, **{"dim": 512, "layers": 6, "heads": 8, "ffn": 2048, "dropout": 0.1, **options})


def transformer_big(head: str = "model", **options):
    return with_head(head, **{"dim": 1024, "layers": 6, "heads": 16, "ffn": 4096, "dropout": 0.3, **options})


def transformer_iwslt_de_en(head: str = "model", **options):
    return with_head(head, **{"dim": 512, "layers": 6, "heads": 4, "ffn": 1024, "dropout": 0.3, **options})
