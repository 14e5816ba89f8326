"""PRNet: a face as a map of positions, from which a mesh, key points and a pose are read.

"Joint 3D Face Reconstruction and Dense Alignment with Position Map Regression Network", 2018, arXiv:1803.07835.
Parameter names: the variables of YadiraF/PRNet ``predictor.py`` (MIT), with dots, a layer's weights called ``weight``.
What to look at: a pixel of the result is a point on the face's surface, and its three channels are the point's position
in the image; the last layer is also normalised, before the sigmoid.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Convolutions pad as TensorFlow's "same"; a transposed one of stride 1 loses one row before and two after.
- Normalisation has the constants of TensorFlow: epsilon 0.001, momentum 0.001 (0.999 in TensorFlow).
"""

import functools

from torch import nn

from torch_impl.layers.convolution import Conv2dSame

__all__ = ["PRNet", "PRNetCriterion", "ResBlock", "ResFCN256", "prnet"]

# width / 16 and stride of the blocks in the encoder, and of the transposed convolutions in the decoder
DOWN = ((2, 2), (2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), (16, 1), (32, 2), (32, 1))
UP = ((32, 1), *((f, s) for f in (16, 8, 4) for s in (2, 1, 1)), (2, 2), (2, 1), (1, 2), (1, 1))
LAST = 3  # further ones, of three channels

NORM = functools.partial(nn.BatchNorm2d, eps=1e-3, momentum=0.001)  # mirror: constants of TensorFlow


def name_of(kind: str, i: int) -> str:
    """slim's name of the i-th layer of a kind."""
    return f"{kind}_{i}" if i else kind


class Conv(Conv2dSame):
    """Convolution without a bias, normalisation, ReLU.

    Args:
        in_channels, out_channels, kernel_size, stride: of the convolution.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__(in_channels, out_channels, kernel_size, stride, bias=False)  # mirror: pad as
        self.BatchNorm = NORM(out_channels)

    def forward(self, x):
        return self.BatchNorm(super().forward(x)).relu()


class ConvTranspose(nn.ConvTranspose2d):
    """Transposed convolution of 4x4 without a bias, normalisation, activation.

    Args:
        in_channels, out_channels, stride: of the convolution.
        last: whether the activation is a sigmoid, not a ReLU.

    x: (N, C, H, W) -> (N, out_channels, stride H, stride W).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1, last: bool = False):
        super().__init__(in_channels, out_channels, 4, stride, 1 if stride == 2 else 0, bias=False)
        self.last = last
        self.BatchNorm = NORM(out_channels)

    def forward(self, x):
        y = super().forward(x)
        y = y if self.stride[0] == 2 else y[:, :, 1:-2, 1:-2]
        y = self.BatchNorm(y)
        return y.sigmoid() if self.last else y.relu()


class ResBlock(nn.Module):
    """1x1, 4x4 and 1x1 convolution, the shortcut, normalisation, ReLU.

    Args:
        in_channels: C.
        out_channels: width of the result, twice that of the middle.
        stride: of the 4x4 convolution.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        half = out_channels // 2
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        self.Conv, self.Conv_1 = Conv(in_channels, half, 1), Conv(half, half, 4, stride)
        self.Conv_2 = nn.Conv2d(half, out_channels, 1, bias=False)
        self.BatchNorm = NORM(out_channels)

    def forward(self, x):
        y = self.Conv_2(self.Conv_1(self.Conv(x)))
        y = y + (x if self.shortcut is None else self.shortcut(x))
        return self.BatchNorm(y).relu()


class ResFCN256(nn.Module):
    """Encoder and decoder.

    Args:
        base: width of the first convolution.

    x: (N, 3, H, W) -> the same; H and W multiples of 32.
    """

    def __init__(self, base: int = 16):
        super().__init__()
        self.Conv = Conv(3, base, 4)
        width = base
        for i, (factor, stride) in enumerate(DOWN):
            setattr(self, name_of("resBlock", i), ResBlock(width, factor * base, stride))
            width = factor * base
        for i, (factor, stride) in enumerate(UP):
            setattr(self, name_of("Conv2d_transpose", i), ConvTranspose(width, factor * base, stride))
            width = factor * base
        for i in range(LAST):
            setattr(self, name_of("Conv2d_transpose", len(UP) + i), ConvTranspose(width, 3, last=i == LAST - 1))
            width = 3

    def forward(self, x):
        x = self.Conv(x)
        for i in range(len(DOWN)):
            x = getattr(self, name_of("resBlock", i))(x)
        for i in range(len(UP) + LAST):
            x = getattr(self, name_of("Conv2d_transpose", i))(x)
        return x


class PRNet(nn.Module):
    """The network of the paper.

    Args:
        base: width of the first convolution.

    Inputs: (N, 3, H, W) float, RGB in [0, 1]; 256 x 256 as published, multiples of 32.
    Returns: (N, 3, H, W) in [0, 1], positions x, y, z divided by 1.1 times the size of the image.
    """

    def __init__(self, base: int = 16):
        super().__init__()
        self.resfcn256 = ResFCN256(base)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, images):
        return self.resfcn256(images)


class PRNetCriterion(nn.Module):
    """Weighted mean squared difference of the positions (equation 3).

    Inputs: ``outputs`` (N, 3, H, W); ``targets["positions"]`` (N, 3, H, W), ``targets["weight"]`` (N, 1, H, W): 16 for
        the 68 landmarks, 4 for eyes, nose and mouth, 3 for the rest of the face, 0 for the neck.
    Returns: dict of scalars: ``"weighted_mse"``, ``"total"`` (the same).
    """

    def forward(self, outputs, targets):
        difference = (outputs - targets["positions"].to(outputs.dtype)).square()
        loss = (targets["weight"].to(outputs.dtype) * difference).mean()
        return {"weighted_mse": loss, "total": loss}


def prnet(**options) -> PRNet:
    return PRNet(**options)
