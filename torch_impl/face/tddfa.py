"""3DDFA: a face's pose, shape and expression parameters from a small crop.

"Face Alignment in Full Pose Range: A 3D Total Solution", 2017, arXiv:1804.01005. Parameter names and numbers:
cleardusk/3DDFA ``mobilenet_v1.py``, ``wpdc_loss.py``, ``vdc_loss.py`` (MIT). What to look at: 62 parameters are a whole
face (12 of the pose, 40 of the shape, 10 of the expression), and the weighted loss depends on how much each of them
moves the vertices. The face model is Basel's, which cannot be redistributed: the losses hold its arrays as buffers.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- The arrays of the face model are buffers in PyTorch, non-trainable variables in Keras.
"""

import functools

import torch
from torch import nn

__all__ = [
    "TDDFA",
    "DepthwiseBlock",
    "PDCCriterion",
    "VDCCriterion",
    "WPDCCriterion",
    "tddfa_mobilenet_025",
    "tddfa_mobilenet_05",
    "tddfa_mobilenet_075",
    "tddfa_mobilenet_1",
    "tddfa_mobilenet_2",
    "vertices_of",
]

POSE, SHAPE, EXPRESSION = 12, 40, 10  # parameters of each; the pose is a 3x4 matrix, row by row
SHAPE_WEIGHT = 0.00057339936  # of a shape or expression parameter relative to one of the pose
EPS = 1e-6
# name, width / 32, stride of the blocks after the first convolution
BLOCKS = (
    ("dw2_1", 2, 1),
    ("dw2_2", 4, 2),
    ("dw3_1", 4, 1),
    ("dw3_2", 8, 2),
    ("dw4_1", 8, 1),
    ("dw4_2", 16, 2),
    *((f"dw5_{i}", 16, 1) for i in range(1, 6)),
    ("dw5_6", 32, 2),
    ("dw6", 32, 1),
)

CONV = functools.partial(nn.Conv2d, bias=False)


class DepthwiseBlock(nn.Module):
    """A depthwise 3x3 convolution, then a 1x1 convolution, each with normalisation and ReLU.

    Args:
        in_channels, out_channels: widths.
        stride: of the first.

    x: (N, C, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv_dw = CONV(in_channels, in_channels, 3, stride, 1, groups=in_channels)
        self.bn_dw = nn.BatchNorm2d(in_channels)
        self.conv_sep, self.bn_sep = CONV(in_channels, out_channels, 1), nn.BatchNorm2d(out_channels)

    def forward(self, x):
        x = self.bn_dw(self.conv_dw(x)).relu()
        return self.bn_sep(self.conv_sep(x)).relu()


class TDDFA(nn.Module):
    """The network of the paper.

    Args:
        width: multiplier of all channels.
        numbers: parameters of a face.

    Inputs: (N, 3, H, W) float, (BGR - 127.5) / 128, 120 x 120 as published.
    Returns: (N, numbers), normalised by mean and deviation.
    """

    def __init__(self, width: float = 1.0, numbers: int = POSE + SHAPE + EXPRESSION):
        super().__init__()
        channels = int(32 * width)
        self.conv1, self.bn1 = CONV(3, channels, 3, 2, 1), nn.BatchNorm2d(channels)
        for name, factor, stride in BLOCKS:
            filters = int(32 * factor * width)
            setattr(self, name, DepthwiseBlock(channels, filters, stride))
            channels = filters
        self.fc = nn.Linear(channels, numbers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)

    def forward(self, images):
        x = self.bn1(self.conv1(images)).relu()
        for name, _, _ in BLOCKS:
            x = getattr(self, name)(x)
        return self.fc(x.mean((2, 3)))  # mirror: NCHW


def parts(numbers):
    """(N, 62) -> rotation and scale (N, 3, 3), shift (N, 3, 1), shape and expression (N, 50, 1)."""
    pose = numbers[:, :POSE].reshape(-1, 3, 4)
    return pose[:, :, :3], pose[:, :, 3:], numbers[:, POSE:, None]


def vertices_of(coefficients, mean, bases):
    """Vertices in the face's own frame.

    Args:
        coefficients: (N, 50, 1) of shape and expression.
        mean: (V, 3).
        bases: (V, 3, 50).

    Returns:
        (N, 3, V).
    """
    moved = torch.matmul(bases.reshape(1, -1, bases.shape[2]), coefficients)  # (N, 3 V, 1)
    return (moved.reshape(-1, mean.shape[0], 3) + mean).permute(0, 2, 1)


class FaceCriterion(nn.Module):
    """Base of the losses below: the face model.

    Args:
        num_vertices: V.
    """

    def __init__(self, num_vertices: int = 53215):
        super().__init__()
        make = self.register_buffer  # mirror: buffers
        make("u", torch.zeros(3 * num_vertices, 1))
        make("w_shp", torch.zeros(3 * num_vertices, SHAPE))
        make("w_exp", torch.zeros(3 * num_vertices, EXPRESSION))
        numbers = POSE + SHAPE + EXPRESSION
        make("param_mean", torch.zeros(numbers))
        make("param_std", torch.ones(numbers))

    def numbers(self, whitened):
        """Undo the normalisation of the network's outputs."""
        return whitened * self.param_std + self.param_mean

    def model(self, vertices):
        """Mean (S, 3) and bases (S, 3, 50) of some vertices."""
        bases = torch.cat((self.w_shp, self.w_exp), 1)
        bases = bases.reshape(-1, 3, SHAPE + EXPRESSION)
        return self.u.reshape(-1, 3)[vertices], bases[vertices]


class PDCCriterion(nn.Module):
    """Mean squared difference of the parameters.

    Inputs: ``outputs`` (N, 62); ``targets["wanted"]`` (N, 62), both whitened.
    Returns: dict of scalars: ``"mse"``, ``"total"`` (the same).
    """

    def forward(self, outputs, targets):
        loss = (outputs - targets["wanted"].to(outputs.dtype)).square().mean()
        return {"mse": loss, "total": loss}


class WPDCCriterion(FaceCriterion):
    """Squared differences of the parameters, each weighted by how far it moves the vertices (equations 11 to 13).

    Args:
        num_vertices: of the face model, V.

    Inputs: ``outputs`` (N, 62), or a dict with ``"parameters"``; ``targets["wanted"]`` (N, 62), both whitened;
        ``targets["vertices"]`` (S,) int, the vertices that count: in the reference the 68 key points and 132 random
        ones.
    Returns: dict of scalars: ``"wpdc"``, ``"total"`` (the same).
    """

    @torch.no_grad()
    def weights_of(self, found, wanted, vertices):
        """The weights of the parameters, (N, 62) in [0, 1]; without a gradient."""
        mean, bases = self.model(vertices)
        difference = (found - wanted).abs()
        size = vertices_of(wanted[:, POSE:, None], mean, bases).norm(dim=2)  # (N, 3)
        shift = torch.full_like(size[:, :1], mean.shape[0] ** 0.5)
        pose = difference[:, :POSE] * torch.cat((size, shift), 1).repeat(1, 3)
        of_base = bases.reshape(-1, SHAPE + EXPRESSION).norm(dim=0)
        weights = torch.cat((pose, SHAPE_WEIGHT * difference[:, POSE:] * of_base), 1) + EPS
        counted = torch.arange(weights.shape[1], device=weights.device) != POSE - 1  # the depth of the face does not
        weights = weights * counted.to(weights.dtype)
        return weights / weights.amax(1, keepdim=True)

    def forward(self, outputs, targets):
        found = outputs["parameters"] if isinstance(outputs, dict) else outputs
        wanted = targets["wanted"].to(found.dtype)
        weights = self.weights_of(self.numbers(found), self.numbers(wanted), targets["vertices"])
        loss = (weights * (found - wanted).square()).mean()
        return {"wpdc": loss, "total": loss}


class VDCCriterion(FaceCriterion):
    """Mean squared difference of the vertices; the depth of the face is ignored.

    Args:
        num_vertices: of the face model, V.

    Inputs: see :class:`WPDCCriterion`.
    Returns: dict of scalars: ``"vdc"``, ``"total"`` (the same).
    """

    def forward(self, outputs, targets):
        found = outputs["parameters"] if isinstance(outputs, dict) else outputs
        mean, bases = self.model(targets["vertices"])
        (turn, shift, face), (wanted_turn, wanted_shift, wanted_face) = (
            parts(self.numbers(x.to(found.dtype))) for x in (found, targets["wanted"])
        )
        shift = torch.cat((shift[:, :2], wanted_shift[:, 2:]), 1)
        ours = torch.matmul(turn, vertices_of(face, mean, bases)) + shift
        wanted = torch.matmul(wanted_turn, vertices_of(wanted_face, mean, bases)) + wanted_shift
        loss = (wanted - ours).square().mean()
        return {"vdc": loss, "total": loss}


def tddfa_mobilenet_2(width=2.0, **options) -> TDDFA:
    return TDDFA(width, **options)


def tddfa_mobilenet_1(width=1.0, **options) -> TDDFA:
    return TDDFA(width, **options)


def tddfa_mobilenet_075(width=0.75, **options) -> TDDFA:
    return TDDFA(width, **options)


def tddfa_mobilenet_05(width=0.5, **options) -> TDDFA:
    return TDDFA(width, **options)


def tddfa_mobilenet_025(width=0.25, **options) -> TDDFA:
    return TDDFA(width, **options)
