"""BERT: a bidirectional Transformer encoder, pre-trained to fill in words and to tell whether one sentence follows
another.

"BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", 2018, arXiv:1810.04805.
Parameter names: Hugging Face transformers ``models/bert/modeling_bert.py`` (Apache-2.0).

Mirror notes:
- Keras layers reserve the name ``output``; the attribute is ``output_`` there.
- PyTorch ties a decoder by giving two modules one parameter; Keras layers share one variable.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.activation import gelu
from torch_impl.layers.attention import attend, mask_bias, merge_heads, split_heads
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess, sparse_cross_entropy
from torch_impl.nlp.bert_adam import BertAdam

__all__ = [
    "BertForMaskedLM",
    "BertForMultipleChoice",
    "BertForPreTraining",
    "BertForQuestionAnswering",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertMaskedLMCriterion",
    "BertMaskedLMPostProcess",
    "BertModel",
    "BertPreTrainingCriterion",
    "BertPreTrainingPostProcess",
    "BertQuestionAnsweringCriterion",
    "BertTrainer",
    "ClassificationCriterion",
    "ClassificationPostProcess",
    "SentenceEncoder",
    "all_minilm_l6_v2",
    "bert_base_cased",
    "bert_base_chinese",
    "bert_base_uncased",
    "bert_large_cased",
    "bert_large_uncased",
    "bert_mini",
    "bert_small",
    "bert_tiny",
]

EPS = 1e-12  # of every layer normalisation


class BertEmbeddings(nn.Module):
    """Sum of word, position and segment embeddings, normalised.  (N, T) int -> (N, T, D)."""

    def __init__(self, vocab_size: int, hidden: int, positions: int, types: int, dropout: float):
        super().__init__()
        self.word_embeddings = nn.Embedding(vocab_size, hidden)
        self.position_embeddings = nn.Embedding(positions, hidden)
        self.token_type_embeddings = nn.Embedding(types, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids, token_type_ids):
        x = self.word_embeddings(input_ids) + self.token_type_embeddings(token_type_ids)
        x = x + self.position_embeddings.weight[: input_ids.shape[1]]
        return self.dropout(self.LayerNorm(x))


class BertSelfAttention(nn.Module):
    """Scaled dot-product attention of several heads.  x: (N, T, D), bias: (N, 1, 1, T) -> (N, T, D)."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        if hidden % heads:
            raise ValueError(f"hidden={hidden} must be a multiple of heads={heads}")
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)

    def forward(self, x, bias):
        q, k, v = (split_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        return merge_heads(attend(q, k, v, bias, self.dropout))


class BertOutput(nn.Module):
    """Projection, dropout, residual, normalisation: the end of both halves of a layer."""

    def __init__(self, in_features: int, hidden: int, dropout: float):
        super().__init__()
        self.dense = nn.Linear(in_features, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=EPS)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, residual):
        return self.LayerNorm(self.dropout(self.dense(x)) + residual)


class BertAttention(nn.Module):
    """Self-attention with its residual.  x: (N, T, D), bias: (N, 1, 1, T) -> (N, T, D)."""

    def __init__(self, hidden: int, heads: int, dropout: float):
        super().__init__()
        self.self = BertSelfAttention(hidden, heads, dropout)
        self.output = BertOutput(hidden, hidden, dropout)  # mirror: reserve the name

    def forward(self, x, bias):
        return self.output(self.self(x, bias), x)


class BertIntermediate(nn.Module):
    """Dense and GELU.  (N, T, D) -> (N, T, F)."""

    def __init__(self, in_features: int, intermediate: int):
        super().__init__()
        self.dense = nn.Linear(in_features, intermediate)

    def forward(self, x):
        return gelu(self.dense(x))


class BertLayer(nn.Module):
    """Attention and feed-forward network, each with a residual and a normalisation after it."""

    def __init__(self, hidden: int, heads: int, intermediate: int, dropout: float):
        super().__init__()
        self.attention = BertAttention(hidden, heads, dropout)
        self.intermediate = BertIntermediate(hidden, intermediate)
        self.output = BertOutput(intermediate, hidden, dropout)

    def forward(self, x, bias):
        x = self.attention(x, bias)
        return self.output(self.intermediate(x), x)


class BertEncoder(nn.Module):
    """All layers of the encoder, one after the other.  (N, T, D) -> (N, T, D)."""

    def __init__(self, layers: int, hidden: int, heads: int, intermediate: int, dropout: float):
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(hidden, heads, intermediate, dropout) for _ in range(layers))

    def forward(self, x, bias):
        for layer in self.layer:
            x = layer(x, bias)
        return x


class BertPooler(nn.Module):
    """tanh of a dense layer on the first token.  (N, T, D) -> (N, D)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, x):
        return torch.tanh(self.dense(x[:, 0]))


class BertModel(nn.Module):
    """Embeddings, encoder, pooler.

    Args:
        vocab_size, hidden, layers, heads, intermediate: sizes (V, D, number of layers and heads, F).
        positions: longest sequence.
        types: number of segments.
        dropout: rate after embeddings, attention and dense layers.
        pooler: whether there is one; as in the reference, heads that do not read it have none.

    Inputs: ``input_ids``, ``attention_mask`` (1 = token, 0 = padding), ``token_type_ids`` (segment): (N, T) int.
    Returns: dict: ``"last_hidden_state"`` (N, T, D), with a pooler ``"pooler_output"`` (N, D).
    """

    def __init__(
        self,
        vocab_size: int = 30522,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        intermediate: int = 3072,
        positions: int = 512,
        types: int = 2,
        dropout: float = 0.1,
        pooler: bool = True,
    ):
        super().__init__()
        self.hidden = hidden
        self.embeddings = BertEmbeddings(vocab_size, hidden, positions, types, dropout)
        self.encoder = BertEncoder(layers, hidden, heads, intermediate, dropout)
        self.pooler = BertPooler(hidden) if pooler else None
        initialize(self)

    def forward(self, input_ids, attention_mask, token_type_ids):
        x = self.embeddings(input_ids, token_type_ids)
        bias = mask_bias(attention_mask[:, None, None] == 0, x.dtype)
        x = self.encoder(x, bias)
        pooled = {} if self.pooler is None else {"pooler_output": self.pooler(x)}
        return {"last_hidden_state": x, **pooled}


class SentenceEncoder(BertModel):
    """BERT that returns one vector of length 1 per sentence: the mean over its tokens (sentence-transformers).

    Returns: dict: ``"embedding"`` (N, D), ``"last_hidden_state"`` (N, T, D), ``"pooler_output"`` (N, D).
    """

    def forward(self, input_ids, attention_mask, token_type_ids):
        outputs = super().forward(input_ids, attention_mask, token_type_ids)
        x = outputs["last_hidden_state"]
        mask = attention_mask[:, :, None].to(x.dtype)
        mean = (x * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        length = mean.square().sum(1, keepdim=True).clamp(min=1e-24).sqrt()
        return {"embedding": mean / length, **outputs}


class BertPredictionHeadTransform(nn.Module):
    """Dense, GELU, normalisation.  (N, T, D) -> (N, T, D)."""

    def __init__(self, hidden: int):
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.LayerNorm = nn.LayerNorm(hidden, eps=EPS)

    def forward(self, x):
        return self.LayerNorm(gelu(self.dense(x)))


class BertLMPredictionHead(nn.Module):
    """Scores of every word of the vocabulary; the matrix is the word embedding.  (N, T, D) -> (N, T, V)."""

    def __init__(self, hidden: int, embedding: nn.Embedding):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(embedding.num_embeddings))
        self.transform = BertPredictionHeadTransform(hidden)
        self.decoder = nn.Linear(hidden, embedding.num_embeddings)
        self.decoder.weight = embedding.weight  # mirror: ties a decoder
        self.decoder.bias = self.bias

    def forward(self, x):
        return self.decoder(self.transform(x))


class BertPreTrainingHeads(nn.Module):
    """Word prediction on every token and sentence relation on the pooled one."""

    def __init__(self, hidden: int, embedding: nn.Embedding):
        super().__init__()
        self.predictions = BertLMPredictionHead(hidden, embedding)
        self.seq_relationship = nn.Linear(hidden, 2)

    def forward(self, x, pooled):
        return self.predictions(x), self.seq_relationship(pooled)


class BertForPreTraining(nn.Module):
    """BERT with both pre-training heads.

    Args:
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: dict: ``"prediction_logits"`` (N, T, V), ``"seq_relationship_logits"`` (N, 2), 0 = is the next sentence.
    """

    def __init__(self, **options):
        super().__init__()
        self.bert = BertModel(**options)
        embedding = self.bert.embeddings.word_embeddings
        self.cls = BertPreTrainingHeads(embedding.embedding_dim, embedding)
        initialize(self)

    def forward(self, input_ids, attention_mask, token_type_ids):
        outputs = self.bert(input_ids, attention_mask, token_type_ids)
        words, relation = self.cls(outputs["last_hidden_state"], outputs["pooler_output"])
        return {"prediction_logits": words, "seq_relationship_logits": relation}


class BertOnlyMLMHead(nn.Module):
    """Word prediction on every token.  (N, T, D) -> (N, T, V)."""

    def __init__(self, hidden: int, embedding: nn.Embedding):
        super().__init__()
        self.predictions = BertLMPredictionHead(hidden, embedding)

    def forward(self, x):
        return self.predictions(x)


class BertForMaskedLM(nn.Module):
    """BERT that fills in words.

    Args:
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: dict: ``"prediction_logits"`` (N, T, V).
    """

    def __init__(self, **options):
        super().__init__()
        self.bert = BertModel(**{"pooler": False, **options})
        embedding = self.bert.embeddings.word_embeddings
        self.cls = BertOnlyMLMHead(embedding.embedding_dim, embedding)
        initialize(self)

    def forward(self, input_ids, attention_mask, token_type_ids):
        x = self.bert(input_ids, attention_mask, token_type_ids)["last_hidden_state"]
        return {"prediction_logits": self.cls(x)}


class BertForSequenceClassification(nn.Module):
    """BERT with a linear classifier on the pooled token.

    Args:
        num_classes: classes K.
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: logits (N, K).
    """

    def __init__(self, num_classes: int = 2, **options):
        super().__init__()
        self.bert = BertModel(**options)
        self.dropout = nn.Dropout(options.get("dropout", 0.1))
        self.classifier = nn.Linear(self.bert.hidden, num_classes)
        initialize(self)

    def forward(self, input_ids, attention_mask, token_type_ids):
        pooled = self.bert(input_ids, attention_mask, token_type_ids)["pooler_output"]
        return self.classifier(self.dropout(pooled))


class BertForTokenClassification(nn.Module):
    """BERT with a linear classifier on every token.

    Args:
        num_classes: classes K.
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: logits (N, T, K).
    """

    def __init__(self, num_classes: int = 2, **options):
        super().__init__()
        self.bert = BertModel(**{"pooler": False, **options})
        self.dropout = nn.Dropout(options.get("dropout", 0.1))
        self.classifier = nn.Linear(self.bert.hidden, num_classes)
        initialize(self)

    def forward(self, input_ids, attention_mask, token_type_ids):
        x = self.bert(input_ids, attention_mask, token_type_ids)["last_hidden_state"]
        return self.classifier(self.dropout(x))


class BertForQuestionAnswering(nn.Module):
    """BERT that finds the first and the last token of an answer.

    Args:
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`.
    Returns: dict: ``"start_logits"``, ``"end_logits"``: (N, T).
    """

    def __init__(self, **options):
        super().__init__()
        self.bert = BertModel(**{"pooler": False, **options})
        self.qa_outputs = nn.Linear(self.bert.hidden, 2)
        initialize(self)

    def forward(self, input_ids, attention_mask, token_type_ids):
        x = self.bert(input_ids, attention_mask, token_type_ids)["last_hidden_state"]
        logits = self.qa_outputs(x)
        return {"start_logits": logits[..., 0], "end_logits": logits[..., 1]}


class BertForMultipleChoice(nn.Module):
    """BERT that scores several continuations of a text.

    Args:
        options: of :class:`BertModel`.

    Inputs: as :class:`BertModel`, but (N, choices, T).
    Returns: logits (N, choices).
    """

    def __init__(self, **options):
        super().__init__()
        self.bert = BertModel(**options)
        self.dropout = nn.Dropout(options.get("dropout", 0.1))
        self.classifier = nn.Linear(self.bert.hidden, 1)
        initialize(self)

    def forward(self, input_ids, attention_mask, token_type_ids):
        choices = input_ids.shape[1]
        flat = (ids.flatten(0, 1) for ids in (input_ids, attention_mask, token_type_ids))
        return self.classifier(self.dropout(self.bert(*flat)["pooler_output"])).unflatten(0, (-1, choices))[..., 0]


def initialize(model) -> None:
    """Normal with deviation 0.02 for matrices and embeddings, biases zero."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


class BertPreTrainingCriterion(nn.Module):
    """Cross-entropy of the masked words and of the sentence relation (section 3.1).

    Inputs: ``outputs`` of :class:`BertForPreTraining`; ``targets``: ``"labels"`` (N, T) int, the word, or -100 where
        none was masked; ``"next_sentence_label"`` (N,) int, 0 = is the next sentence, 1 = is a random one.
    Returns: dict of scalars: ``"mlm"``, ``"nsp"``, ``"total"``.
    """

    def forward(self, outputs, targets):
        mlm = sparse_cross_entropy(outputs["prediction_logits"], targets["labels"])
        nsp = sparse_cross_entropy(outputs["seq_relationship_logits"], targets["next_sentence_label"])
        return {"mlm": mlm, "nsp": nsp, "total": mlm + nsp}


class BertPreTrainingPostProcess(nn.Module):
    """The most probable word of every token, and the probability that the second sentence follows.

    Inputs: ``outputs`` of :class:`BertForPreTraining`.
    Returns: dict: ``"words"`` (N, T) int64, ``"is_next"`` (N,) float in [0, 1].
    """

    def forward(self, outputs):
        return {
            "words": outputs["prediction_logits"].argmax(-1),
            "is_next": torch.softmax(outputs["seq_relationship_logits"], -1)[:, 0],
        }


class BertMaskedLMCriterion(nn.Module):
    """Cross-entropy of the masked words (section 3.1).

    Inputs: ``outputs`` of :class:`BertForMaskedLM`; ``targets["labels"]`` (N, T) int, the word, or -100 where none was
        masked.
    Returns: dict of scalars: ``"mlm"``, ``"total"``.
    """

    def forward(self, outputs, targets):
        loss = sparse_cross_entropy(outputs["prediction_logits"], targets["labels"])
        return {"mlm": loss, "total": loss}


class BertMaskedLMPostProcess(nn.Module):
    """The most probable word of every token.

    Inputs: ``outputs`` of :class:`BertForMaskedLM`.
    Returns: dict: ``"words"`` (N, T) int64.
    """

    def forward(self, outputs):
        return {"words": outputs["prediction_logits"].argmax(-1)}


class BertQuestionAnsweringCriterion(nn.Module):
    """Cross-entropy over all tokens of the answer's first and last one (section 4.2), averaged.

    Inputs: ``outputs`` of :class:`BertForQuestionAnswering`; ``targets``: ``"start_positions"`` and
        ``"end_positions"`` (N,) int, 0-based; a position outside the text (-100) does not count.
    Returns: dict of scalars: ``"start"``, ``"end"``, their mean ``"total"``.
    """

    def position_loss(self, logits, positions):
        hit = (torch.arange(logits.shape[1], device=logits.device) == positions[:, None]).to(logits.dtype)
        return -(F.log_softmax(logits, -1) * hit).sum() / hit.sum().clamp(min=1)

    def forward(self, outputs, targets):
        start = self.position_loss(outputs["start_logits"], targets["start_positions"])
        end = self.position_loss(outputs["end_logits"], targets["end_positions"])
        return {"start": start, "end": end, "total": (start + end) / 2}


class BertTrainer:
    """Pre-training steps.

    Args:
        model: a :class:`BertForPreTraining`.
        criterion: its losses.
        learning_rate: of every step; see :func:`.bert_adam.linear_warmup`.
    """

    def __init__(self, model, criterion=None, learning_rate: float = 1e-4):
        self.model, self.learning_rate = model, learning_rate
        self.criterion = BertPreTrainingCriterion() if criterion is None else criterion
        self.optimizer = BertAdam(dict(model.named_parameters()))

    def step(self, inputs, targets) -> dict:
        """One update from inputs and targets by name; the losses before it."""
        losses = self.criterion(self.model(*inputs.values()), targets)
        parameters = self.optimizer.parameters
        gradients = torch.autograd.grad(losses["total"], list(parameters.values()))
        self.optimizer.step(dict(zip(parameters, gradients, strict=True)), self.learning_rate)
        return losses


HEADS = {
    "model": BertModel,
    "pretraining": BertForPreTraining,
    "masked_lm": BertForMaskedLM,
    "sequence": BertForSequenceClassification,
    "token": BertForTokenClassification,
    "question": BertForQuestionAnswering,
    "choice": BertForMultipleChoice,
    "sentence": SentenceEncoder,
}


def with_head(head: str, **options):
    """Build BERT with the given head."""
    if head not in HEADS:
        raise ValueError(f"head={head!r} must be one of {sorted(HEADS)}")
    return HEADS[head](**options)


def bert_tiny(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 128, "layers": 2, "heads": 2, "intermediate": 512, **options})


def bert_mini(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 256, "layers": 4, "heads": 4, "intermediate": 1024, **options})


def bert_small(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 512, "layers": 4, "heads": 8, "intermediate": 2048, **options})


def bert_base_uncased(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072, **options})


def bert_large_uncased(head: str = "pretraining", **options):
    return with_head(head, **{"hidden": 1024, "layers": 24, "heads": 16, "intermediate": 4096, **options})


def bert_base_cased(head: str = "pretraining", **options):
    return bert_base_uncased(head, **{"vocab_size": 28996, **options})


def bert_large_cased(head: str = "pretraining", **options):
    return bert_large_uncased(head, **{"vocab_size": 28996, **options})


def bert_base_chinese(head: str = "pretraining", **options):
    return bert_base_uncased(head, **{"vocab_size": 21128, **options})


def all_minilm_l6_v2(head: str = "sentence", **options):
    return with_head(head, **{"hidden": 384, "layers": 6, "heads": 12, "intermediate": 1536, **options})
