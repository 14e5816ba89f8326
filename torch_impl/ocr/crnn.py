"""CRNN: convolutions read a line of text as a sequence of columns; recurrent layers classify every column.

"An End-to-End Trainable Neural Network for Image-based Sequence Recognition and Its Application to Scene Text
Recognition", 2015, arXiv:1507.05717.
Parameter names: ``CRNN`` from meijieru/crnn.pytorch ``models/crnn.py`` (MIT); ``VGGCRNN`` from JaidedAI/EasyOCR
``easyocr/model/vgg_model.py`` (Apache-2.0), its second generation of networks; ``MeanCRNN`` from khmer-ocr-ocm.
All return raw logits, time first: (T, B, K). Class 0 is the blank.

Mirror notes:
- NCHW maps, whose columns are the sequence; in TensorFlow NHWC.
"""

import torch.nn.functional as F
from torch import nn

from torch_impl.layers.recurrent import LSTM
from torch_impl.losses.ctc import CTCCriterion, greedy_decode

__all__ = [
    "CRNN",
    "VGGCRNN",
    "CRNNPostProcess",
    "CTCCriterion",
    "MeanCRNN",
    "crnn",
    "crnn_english_g2",
    "crnn_khmer",
]

WIDTHS = (1, 2, 4, 4, 8, 8, 8)  # of the seven convolutions, times the first one's


class CRNNFeatures(nn.Module):
    """Seven convolutions; batch normalisation after the third, fifth and seventh.

    Args:
        in_channels: 1 for grey images.
        base: channels of the first convolution.
        leaky_relu: slope 0.2 below zero instead of 0.

    Inputs: (B, in_channels, 32, W).  Returns: (B, 8 base, 1, W // 4 + 1).
    """

    def __init__(self, in_channels: int, base: int, leaky_relu: bool):
        super().__init__()
        widths = [base * width for width in WIDTHS]
        self.activation = nn.LeakyReLU(0.2) if leaky_relu else nn.ReLU()
        self.conv0 = self.conv(in_channels, widths[0])
        self.conv1 = self.conv(widths[0], widths[1])
        self.conv2 = self.conv(widths[1], widths[2])
        self.batchnorm2 = self.norm(widths[2])
        self.conv3 = self.conv(widths[2], widths[3])
        self.conv4 = self.conv(widths[3], widths[4])
        self.batchnorm4 = self.norm(widths[4])
        self.conv5 = self.conv(widths[4], widths[5])
        self.conv6 = self.conv(widths[5], widths[6], 2, 0)
        self.batchnorm6 = self.norm(widths[6])

    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 3, padding: int = 1) -> nn.Conv2d:
        layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
        nn.init.normal_(layer.weight, std=0.02)  # as in the reference
        return layer

    def norm(self, channels: int) -> nn.BatchNorm2d:
        layer = nn.BatchNorm2d(channels)
        nn.init.normal_(layer.weight, 1.0, 0.02)
        return layer

    def forward(self, x):
        x = F.max_pool2d(self.activation(self.conv0(x)), 2)
        x = F.max_pool2d(self.activation(self.conv1(x)), 2)
        x = self.activation(self.batchnorm2(self.conv2(x)))
        x = self.activation(self.conv3(x))
        # the height is halved, the width grows by one column
        x = F.max_pool2d(x, (2, 2), (2, 1), (0, 1))
        x = self.activation(self.batchnorm4(self.conv4(x)))
        x = F.max_pool2d(self.activation(self.conv5(x)), (2, 2), (2, 1), (0, 1))
        return self.activation(self.batchnorm6(self.conv6(x)))


class BidirectionalLSTM(nn.Module):
    """A recurrent layer in both directions and a linear one.  (T, B, in_features) -> (T, B, out_features)."""

    def __init__(self, in_features: int, hidden: int, out_features: int):
        super().__init__()
        self.rnn = LSTM(in_features, hidden, bidirectional=True)
        self.embedding = nn.Linear(2 * hidden, out_features)

    def forward(self, x):
        return self.embedding(self.rnn(x)[0])


class CRNN(nn.Module):
    """The network of the paper.

    Args:
        num_classes: characters, blank included.
        in_chans: channels of the image.
        base: channels of the first convolution.
        nh: width of each direction of the recurrent layers.
        n_rnn: recurrent layers, at least 1.
        leaky_relu: see :class:`CRNNFeatures`.

    Inputs: (B, in_chans, 32, W), values from -1 to 1.  Returns: logits (W // 4 + 1, B, num_classes).
    Raises: ValueError if the height of the image does not shrink to 1.
    """

    def __init__(
        self,
        num_classes: int = 37,
        in_chans: int = 1,
        base: int = 64,
        nh: int = 256,
        n_rnn: int = 2,
        leaky_relu: bool = False,
    ):
        super().__init__()
        if n_rnn < 1:
            raise ValueError(f"n_rnn={n_rnn} must be at least 1")
        self.cnn = CRNNFeatures(in_chans, base, leaky_relu)
        widths = [base * WIDTHS[-1], *[nh] * (n_rnn - 1), num_classes]
        self.rnn = nn.Sequential(*(BidirectionalLSTM(widths[i], nh, widths[i + 1]) for i in range(n_rnn)))

    def forward(self, images):
        x = self.cnn(images)  # (B, C, 1, T)
        if x.shape[2] != 1:
            raise ValueError(f"pictures must be 32 pixels high; {images.shape[2]} leave {x.shape[2]} rows of features")
        return self.rnn(x[:, :, 0].permute(2, 0, 1))  # (T, B, C) -> (T, B, K); mirror: columns are the sequence


class VGGFeatures(nn.Module):
    """Seven convolutions without padded pools; batch normalisation after the fifth and sixth.

    Args:
        in_channels: 1 for grey images.
        out_channels: C, a multiple of 8.

    Inputs: (B, in_channels, H, W).  Returns: (B, C, H // 16 - 1, W // 4 - 1).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        a, b, c, d = (out_channels // divisor for divisor in (8, 4, 2, 1))
        self.ConvNet = nn.Sequential(
            nn.Conv2d(in_channels, a, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(a, b, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(c, d, 3, padding=1, bias=False),
            nn.BatchNorm2d(d),
            nn.ReLU(),
            nn.Conv2d(d, d, 3, padding=1, bias=False),
            nn.BatchNorm2d(d),
            nn.ReLU(),
            nn.MaxPool2d((2, 1)),
            nn.Conv2d(d, d, 2),
            nn.ReLU(),
        )

    def forward(self, x):
        return self.ConvNet(x)


class SequenceModeling(nn.Module):
    """:class:`BidirectionalLSTM` under EasyOCR's names."""

    def __init__(self, in_features: int, hidden: int, out_features: int):
        super().__init__()
        self.rnn = LSTM(in_features, hidden, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, out_features)

    def forward(self, x):
        return self.linear(self.rnn(x)[0])


class VGGCRNN(nn.Module):
    """EasyOCR's variant: the mean over the height instead of a fixed height, and a separate linear layer at the end.

    Args:
        num_classes: characters, blank included.
        in_chans: channels of the image.
        output_channel: channels of the features, a multiple of 8.
        hidden_size: width of each direction of the recurrent layers, and of what they return.

    Inputs: (B, in_chans, H, W), H at least 32, values from -1 to 1.  Returns: logits (W // 4 - 1, B, num_classes);
        EasyOCR's are batch first.
    Raises: ValueError if ``output_channel`` is not a multiple of 8.
    """

    def __init__(self, num_classes: int = 97, in_chans: int = 1, output_channel: int = 256, hidden_size: int = 256):
        super().__init__()
        if output_channel % 8:
            raise ValueError(f"output_channel={output_channel} must be a multiple of 8")
        self.FeatureExtraction = VGGFeatures(in_chans, output_channel)
        self.SequenceModeling = nn.Sequential(
            SequenceModeling(output_channel, hidden_size, hidden_size),
            SequenceModeling(hidden_size, hidden_size, hidden_size),
        )
        self.Prediction = nn.Linear(hidden_size, num_classes)

    def forward(self, images):
        x = self.FeatureExtraction(images).mean(2)  # (B, C, T)
        return self.Prediction(self.SequenceModeling(x.permute(2, 0, 1)))  # (T, B, C) -> (T, B, K)


class MeanCRNN(nn.Module):
    """A variant with batch normalisation everywhere, the mean over the height, and one stacked recurrent module.

    Args:
        num_classes: characters, blank included.
        in_chans: channels of the image.
        base: channels of the first convolution.
        nh: width of each direction of the recurrent layers.
        n_rnn: stacked recurrent layers.
        dropout: rate of whole channels after every pool (the reference also has it between the recurrent layers).

    Inputs: (B, in_chans, H, W), H at least 32, values from -1 to 1.  Returns: logits (W // 4 - 1, B, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 984,
        in_chans: int = 1,
        base: int = 64,
        nh: int = 256,
        n_rnn: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        pools = {0: (2, 2), 1: (2, 2), 3: (2, 1), 5: (2, 1)}  # convolution: the pool after it
        layers, channels = [], in_chans
        for i, width in enumerate(WIDTHS):
            last = i == len(WIDTHS) - 1
            layers.append(nn.Conv2d(channels, base * width, 2 if last else 3, padding=0 if last else 1))
            layers += [nn.BatchNorm2d(base * width), nn.ReLU()]
            if i in pools:
                layers += [nn.MaxPool2d(pools[i]), nn.Dropout2d(dropout)]
            channels = base * width
        self.cnn = nn.Sequential(*layers)
        self.rnn = LSTM(channels, nh, n_rnn, bidirectional=True)
        self.fc = nn.Linear(2 * nh, num_classes)

    def forward(self, images):
        x = self.cnn(images).mean(2)  # (B, C, T)
        return self.fc(self.rnn(x.permute(2, 0, 1))[0])  # (T, B, C) -> (T, B, K)


class CRNNPostProcess(nn.Module):
    """The labels of the best alignment (:func:`greedy_decode`).

    Args:
        blank: class of the blank.

    Inputs: logits (T, B, K).
    Returns: dict: ``"ids"`` (B, T) int64 classes, -1 after the end; ``"lengths"`` (B,) int64.
    """

    def __init__(self, blank: int = 0):
        super().__init__()
        self.blank = blank

    def forward(self, outputs):
        ids, lengths = greedy_decode(outputs, self.blank)
        return {"ids": ids, "lengths": lengths}


def crnn(**options) -> CRNN:
    """The network of the paper, for images 32 pixels high; digits and 26 letters."""
    return CRNN(**{"num_classes": 37, "base": 64, "nh": 256, "n_rnn": 2, **options})


def crnn_english_g2(**options) -> VGGCRNN:
    """EasyOCR's reader of English, second generation: 96 characters, images 64 pixels high."""
    return VGGCRNN(**{"num_classes": 97, "output_channel": 256, "hidden_size": 256, **options})


def crnn_khmer(**options) -> MeanCRNN:
    """The reader of Khmer and English in khmer-ocr-ocm: 983 characters, images 48 pixels high."""
    return MeanCRNN(**{"num_classes": 984, "base": 64, "nh": 256, "n_rnn": 2, **options})
