"""TextCNN: one convolution over the words of a sentence, the largest value of each filter, and a linear classifier.

"Convolutional Neural Networks for Sentence Classification", 2014, arXiv:1408.5882. Parameter names:
Shawn1993/cnn-text-classification-pytorch ``model.py`` (Apache-2.0); behaviour and training: yoonkim/CNN_sentence.

Mirror notes:
- PyTorch's embedding has a padding row, which gets no gradient; TensorFlow stops the gradient at its tokens.
- PyTorch has (N, 1, T, D) maps, TensorFlow (N, T, D, 1); both kernels span all D columns.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.layers.native import exporting
from torch_impl.losses.cross_entropy import ClassificationCriterion, ClassificationPostProcess

__all__ = [
    "ClassificationCriterion",
    "TextCNN",
    "TextCNNPostProcess",
    "TextCNNTrainer",
    "textcnn_multichannel",
    "textcnn_non_static",
    "textcnn_rand",
    "textcnn_static",
]

PAD = 0  # token of the padding; its row of the embedding is zero
RANGE = 0.25  # of initial word vectors
NORM = 3.0  # largest norm of a class's weights


class TextCNN(nn.Module):
    """Embedding, convolutions of several heights, ReLU, maximum over time, dropout, linear classifier.

    Args:
        vocab_size, embed_dim: size of the embedding (V, D), the padding's row included.
        num_classes: classes K.
        kernel_num: filters of each height.
        kernel_sizes: heights, in words.
        padding: padding tokens put before and after every sentence; None: one fewer than the largest height, so that
            every word is seen by all rows of every filter (yoonkim/CNN_sentence).
        mask_padding: whether to exclude windows without a word from the maximum; the original includes them.
        dropout: rate before the classifier. The original does not rescale in training and halves the weights at test
            time, which is equivalent.
        channels: ``"trained"``: one embedding, which is trained; ``"fixed"``: one that is not; ``"both"``: one of each,
            with the same filters on both.

    Inputs: ``input_ids`` (N, T) int; 0 = padding.
    Returns: logits (N, K).
    Raises: ValueError if ``channels`` is unknown, or a sentence is shorter than a filter.
    """

    def __init__(
        self,
        vocab_size: int = 18765,
        num_classes: int = 2,
        embed_dim: int = 300,
        kernel_num: int = 100,
        kernel_sizes: tuple[int, ...] = (3, 4, 5),
        padding: int | None = None,
        mask_padding: bool = False,
        dropout: float = 0.5,
        channels: str = "trained",
    ):
        super().__init__()
        if channels not in ("trained", "fixed", "both"):
            raise ValueError(f"channels must be 'trained', 'fixed' or 'both', got {channels!r}")
        self.padding = max(kernel_sizes) - 1 if padding is None else padding
        self.kernel_sizes, self.mask_padding = tuple(kernel_sizes), mask_padding
        self.embed = nn.Embedding(vocab_size, embed_dim, padding_idx=PAD)  # mirror: padding row
        self.embed.weight.requires_grad_(channels != "fixed")
        self.embed_static = None
        if channels == "both":
            self.embed_static = nn.Embedding(vocab_size, embed_dim, padding_idx=PAD)
            self.embed_static.weight.requires_grad_(False)
        self.convs = nn.ModuleList(nn.Conv2d(1, kernel_num, (k, embed_dim)) for k in kernel_sizes)
        self.dropout = nn.Dropout(dropout)
        self.fc1 = nn.Linear(kernel_num * len(kernel_sizes), num_classes)
        initialize(self)

    def forward(self, input_ids):
        length = input_ids.shape[1] + 2 * self.padding
        if not exporting() and length < max(self.kernel_sizes):  # during export the length is a symbol
            raise ValueError(f"input_ids: {length} tokens with padding; filters of {max(self.kernel_sizes)} need more")
        ids = F.pad(input_ids, (self.padding, self.padding), value=PAD)
        x = self.embed(ids)
        if self.embed_static is not None:
            x = x + self.embed_static(ids)  # the same filters on both: a sum of convolutions is that of the sum
        # how many there are before each position
        words = F.pad((ids != PAD).to(x.dtype).cumsum(1), (1, 0))
        features = []
        for size, conv in zip(self.kernel_sizes, self.convs, strict=True):
            y = F.relu(conv(x[:, None]))[..., 0]  # (N, filters, T - size + 1)  # mirror: maps, TensorFlow
            if self.mask_padding:
                # no value is less than the 0 of a window without words
                y = y * (words[:, size:] > words[:, :-size]).to(y.dtype)[:, None]
            features.append(y.amax(2))
        return self.fc1(self.dropout(torch.cat(features, 1)))


def initialize(model) -> None:
    """Word vectors uniform up to 0.25 and 0 for the padding, filters uniform up to 0.01, the rest zero."""
    for embedding in (model.embed, model.embed_static):
        if embedding is not None:
            nn.init.uniform_(embedding.weight, -RANGE, RANGE)
            nn.init.zeros_(embedding.weight.data[PAD])
    for conv in model.convs:
        nn.init.uniform_(conv.weight, -0.01, 0.01)
        nn.init.zeros_(conv.bias)
    nn.init.zeros_(model.fc1.weight)
    nn.init.zeros_(model.fc1.bias)


class TextCNNPostProcess(ClassificationPostProcess):
    """The most probable class.

    Args:
        k: how many.

    Inputs: the logits (N, K).
    Returns: dict: ``"scores"`` (N, k) float in [0, 1], descending; ``"classes"`` (N, k) int64.
    """

    def __init__(self, k: int = 1):
        super().__init__(k)


class TextCNNTrainer:
    """Training steps with Adadelta; after each, the classifier's weights are bounded.

    The weights of a class that are longer than 3 are scaled to that length, and the padding's vector is made zero.

    Args:
        model: a :class:`TextCNN`.
        criterion: its losses.
        rho, eps: of Adadelta, arXiv:1212.5701.

    Source: section 2.1 of the paper; yoonkim/CNN_sentence ``conv_net_sentence.py``.
    """

    def __init__(self, model, criterion=None, rho: float = 0.95, eps: float = 1e-6):
        self.model = model
        self.criterion = ClassificationCriterion() if criterion is None else criterion
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adadelta(self.parameters, lr=1.0, rho=rho, eps=eps)

    def step(self, inputs, targets) -> dict:
        """One update from inputs and targets by name; the losses before it."""
        losses = self.criterion(self.model(*inputs.values()), targets)
        self.optimizer.zero_grad()
        losses["total"].backward()
        self.optimizer.step()
        with torch.no_grad():
            weight = self.model.fc1.weight  # (K, filters)
            norm = weight.square().sum(1, keepdim=True).sqrt()
            weight.mul_(norm.clamp(max=NORM) / (1e-7 + norm))
            self.model.embed.weight[PAD] = 0
        return losses


def textcnn_rand(**options):
    return TextCNN(**{"channels": "trained", **options})


def textcnn_static(**options):
    return TextCNN(**{"channels": "fixed", **options})


def textcnn_non_static(**options):
    return TextCNN(**{"channels": "trained", **options})


def textcnn_multichannel(**options):
    return TextCNN(**{"channels": "both", **options})
