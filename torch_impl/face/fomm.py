"""First Order Motion Model: an image moves like another one, by a few points and the affine motion around each.

"First Order Motion Model for Image Animation", 2019, arXiv:2003.00196. Parameter names and numbers:
AliaksandrSiarohin/first-order-model ``modules`` (MIT). What to look at: the points are not labelled, but learnt by
reconstructing one frame from another; around each point the motion is a matrix, and a mask decides which point moves
which pixel.

Mirror notes:
- NCHW here, NHWC in TensorFlow; maps of all points are (N, K, C, H, W) here, (N, K, H, W, C) there.
- Keras infers the input widths.
- Spectral normalisation: ``nn.utils.spectral_norm`` in PyTorch, a separate convolution layer in TensorFlow.
"""

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import spectral_norm

from torch_impl.layers.grid_sample import grid_sample
from torch_impl.layers.resize import map_size, resize_bilinear, resize_nearest

__all__ = [
    "DenseMotionNetwork",
    "Discriminator",
    "KPDetector",
    "OcclusionAwareGenerator",
    "fomm_discriminator",
    "fomm_discriminator_kp",
    "fomm_generator",
    "fomm_kp_detector",
    "relative_motion",
]


def coordinate_grid(size, like):
    """Coordinates of all cells, x and y from -1 to 1 at the centres of the outer ones.  (H, W, 2)."""
    y, x = (2 * torch.arange(n, device=like.device).to(like.dtype) / (n - 1) - 1 for n in size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def hills(value, size, variance: float):
    """A Gaussian of height 1 around every point.

    Args:
        value: (N, K, 2), x and y in [-1, 1].
        size: height and width of the maps.
        variance: of the Gaussians.

    Returns:
        (N, K, H, W).
    """
    distance = coordinate_grid(size, value) - value[:, :, None, None]
    return (-0.5 * distance.square().sum(-1) / variance).exp()


def inverse(matrix):
    """Inverse of 2x2 matrices (..., 2, 2), written out."""
    a, b, c, d = (matrix[..., i, j] for i in (0, 1) for j in (0, 1))
    adjugate = torch.stack((torch.stack((d, -b), -1), torch.stack((-c, a), -1)), -2)
    return adjugate / (a * d - b * c)[..., None, None]


def relative_motion(source, driving, first, scale: float = 1.0) -> dict:
    """Points for the source image that move as the driving ones have moved since the first frame.

    Args:
        source, driving, first: dicts of ``"value"`` (N, K, 2) and ``"jacobian"`` (N, K, 2, 2).
        scale: of the movements.

    Returns:
        The same dict.
    """
    change = torch.matmul(driving["jacobian"], inverse(first["jacobian"]))
    return {
        "value": (driving["value"] - first["value"]) * scale + source["value"],
        "jacobian": torch.matmul(change, source["jacobian"]),
    }


def sample(x, grid, align_corners: bool):
    """Sample a map at a grid, which is resized to the map first.

    Args:
        x: (N, C, H, W).
        grid: (N, h, w, 2).
        align_corners: -1 and 1 are centres of pixels, not their outer borders.
    """
    if tuple(x.shape[2:]) != tuple(grid.shape[1:3]):
        # each coordinate by itself: onnxruntime would wrongly move a transpose of both through the resize
        size, grid = map_size(x), grid.permute(0, 3, 1, 2)
        grid = resize_bilinear(grid.reshape(-1, 1, *grid.shape[2:]), size)
        grid = grid.reshape(-1, 2, *size).permute(0, 2, 3, 1)
    return grid_sample(x, grid, align_corners=align_corners)


class AntiAlias(nn.Module):
    """Every 1/scale-th pixel of a map, after blurring.

    Args:
        channels: C.
        scale: the inverse of an integer.

    x: (N, C, H, W) -> (N, C, ceil(H scale), ceil(W scale)).
    """

    def __init__(self, channels: int, scale: float):
        super().__init__()
        self.step = round(1 / scale)
        kernel = torch.from_numpy(blur_kernel(self.step)).float()
        self.register_buffer("weight", kernel.repeat(channels, 1, 1, 1))

    def forward(self, x):
        pad = self.weight.shape[2] // 2
        x = F.conv2d(x, self.weight, padding=pad, groups=x.shape[1])
        return x[:, :, :: self.step, :: self.step]


def blur_kernel(step: int) -> np.ndarray:
    """A Gaussian kernel (k, k) of sum 1, as wide as suits a map of which every step-th pixel is kept."""
    sigma = (step - 1) / 2
    reach = round(4 * sigma)
    line = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    return np.outer(line, line) / line.sum() ** 2


class DownBlock2d(nn.Module):
    """Convolution, normalisation, ReLU, halving.  x: (N, C, H, W) -> (N, out_channels, H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return F.avg_pool2d(self.norm(self.conv(x)).relu(), 2)


class UpBlock2d(nn.Module):
    """Doubling, convolution, normalisation, ReLU.  x: (N, C, H, W) -> (N, out_channels, 2 H, 2 W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels)

    def forward(self, x):
        x = resize_nearest(x, tuple(2 * n for n in map_size(x)))
        return self.norm(self.conv(x)).relu()


class SameBlock2d(nn.Module):
    """Convolution of 7x7, normalisation, ReLU.  x: (N, C, H, W) -> (N, out_channels, H, W)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, out_channels, 7, padding=3), nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return self.norm(self.conv(x)).relu()


class ResBlock2d(nn.Module):
    """Normalisation, ReLU and convolution twice, and the input.  x: (N, C, H, W) -> the same."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x):
        y = self.conv1(self.norm1(x).relu())
        return x + self.conv2(self.norm2(y).relu())


class Encoder(nn.Module):
    """The downward path of :class:`FOMMHourglass`; returns all maps, the input first."""

    def __init__(self, in_channels: int, widths: list[int]):
        super().__init__()
        pairs = zip([in_channels, *widths], widths)
        self.down_blocks = nn.ModuleList(DownBlock2d(*pair) for pair in pairs)

    def forward(self, x):
        maps = [x]
        for block in self.down_blocks:
            maps.append(block(maps[-1]))
        return maps


class Decoder(nn.Module):
    """The upward path of :class:`FOMMHourglass`, from all maps of the downward path."""

    def __init__(self, in_channels: list[int], widths: list[int]):
        super().__init__()
        self.up_blocks = nn.ModuleList(UpBlock2d(*pair) for pair in zip(in_channels, widths))

    def forward(self, maps):
        *rest, x = maps
        for block, skip in zip(self.up_blocks, rest[::-1], strict=True):
            x = torch.cat((block(x), skip), 1)
        return x


class FOMMHourglass(nn.Module):
    """Down and up again, with the downward maps concatenated to the upward ones; the input itself at the end.

    Args:
        in_channels: C.
        block_expansion: half the width of the first block.
        max_features: upper bound of the channels.
        num_blocks: halvings.

    x: (N, C, H, W) -> (N, block_expansion + C, H, W); H and W multiples of 2^num_blocks.
    """

    def __init__(self, in_channels: int, block_expansion: int, max_features: int, num_blocks: int):
        super().__init__()
        widths = [min(max_features, block_expansion * 2**i) for i in range(num_blocks + 1)]
        self.encoder = Encoder(in_channels, widths[1:])
        up = [widths[-1], *(2 * n for n in widths[-2:0:-1])]  # mirror: infers
        self.decoder = Decoder(up, widths[-2::-1])

    def forward(self, x):
        return self.decoder(self.encoder(x))


class KPDetector(nn.Module):
    """Points of an image, and the affine frame around each.

    Args:
        num_kp: points K.
        block_expansion, max_features, num_blocks: of the hourglass.
        scale_factor: factor of the input's size.
        temperature: of the softmax over the positions.

    Inputs: (N, 3, H, W) float in [0, 1].
    Returns: dict: ``"value"`` (N, K, 2), x and y in [-1, 1]; ``"jacobian"`` (N, K, 2, 2).
    """

    def __init__(
        self,
        num_kp: int = 10,
        block_expansion: int = 32,
        max_features: int = 1024,
        num_blocks: int = 5,
        scale_factor: float = 0.25,
        temperature: float = 0.1,
    ):
        super().__init__()
        self.num_kp, self.temperature = num_kp, temperature
        self.predictor = FOMMHourglass(3, block_expansion, max_features, num_blocks)
        self.kp = nn.Conv2d(block_expansion + 3, num_kp, 7)
        self.jacobian = nn.Conv2d(block_expansion + 3, 4 * num_kp, 7)
        nn.init.zeros_(self.jacobian.weight)
        with torch.no_grad():
            self.jacobian.bias.copy_(torch.tensor([1.0, 0, 0, 1]).repeat(num_kp))
        self.down = AntiAlias(3, scale_factor)

    def forward(self, images):
        features = self.predictor(self.down(images))
        logits = self.kp(features)
        heat = (logits.flatten(2) / self.temperature).softmax(2)  # (N, K, H W); mirror: NCHW
        grid = coordinate_grid(logits.shape[2:], heat).reshape(-1, 2)
        jacobian = self.jacobian(features).flatten(2).unflatten(1, (self.num_kp, 4))
        jacobian = (heat[:, :, None] * jacobian).sum(3)
        value = torch.matmul(heat, grid[None])
        return {"value": value, "jacobian": jacobian.reshape(-1, self.num_kp, 2, 2)}


class DenseMotionNetwork(nn.Module):
    """Where every pixel comes from: a motion for each point and one for the rest, and a mask that selects.

    Args:
        num_kp, block_expansion, max_features, num_blocks, scale_factor: see :class:`KPDetector`.
        variance: of the Gaussians around the points.
        align_corners: see :func:`sample`.

    source: (N, 3, H, W); points of both images -> dict: ``"mask"`` (N, K + 1, h, w), ``"sparse_deformed"``
        (N, K + 1, 3, h, w), ``"deformation"`` (N, h, w, 2), ``"occlusion_map"`` (N, 1, h, w).
    """

    def __init__(
        self,
        num_kp: int = 10,
        block_expansion: int = 64,
        max_features: int = 1024,
        num_blocks: int = 5,
        scale_factor: float = 0.25,
        variance: float = 0.01,
        align_corners: bool = True,
    ):
        super().__init__()
        self.num_kp, self.variance, self.align_corners = num_kp, variance, align_corners
        width = 4 * (num_kp + 1)
        self.hourglass = FOMMHourglass(width, block_expansion, max_features, num_blocks)
        self.mask = nn.Conv2d(block_expansion + width, num_kp + 1, 7, padding=3)
        self.occlusion = nn.Conv2d(block_expansion + width, 1, 7, padding=3)
        self.down = AntiAlias(3, scale_factor)

    def motions(self, size, source_value, source_jacobian, driving_value, driving_jacobian):
        """Where every pixel would come from, for the identity and for every point.  (N, K + 1, h, w, 2)."""
        grid = coordinate_grid(size, source_value)
        matrix = torch.matmul(source_jacobian, inverse(driving_jacobian))[:, :, None, None]  # (N, K, 1, 1, 2, 2)
        offset = (grid - driving_value[:, :, None, None])[..., None]
        moved = torch.matmul(matrix, offset)[..., 0] + source_value[:, :, None, None]
        still = grid[None, None].expand(moved.shape[0], -1, -1, -1, -1)
        return torch.cat((still, moved), 1)

    def forward(self, source, source_value, source_jacobian, driving_value, driving_jacobian):
        source = self.down(source)
        size, count = map_size(source), self.num_kp + 1
        heat = hills(driving_value, size, self.variance) - hills(source_value, size, self.variance)
        heat = torch.cat((torch.zeros_like(heat[:, :1]), heat), 1)[:, :, None]  # (N, K + 1, 1, h, w)
        motion = self.motions(size, source_value, source_jacobian, driving_value, driving_jacobian)
        every = source[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
        deformed = sample(every, motion.flatten(0, 1), self.align_corners)
        deformed = deformed.unflatten(0, (-1, count))
        x = torch.cat((heat, deformed), 2)  # (N, K + 1, 4, h, w)
        x = self.hourglass(x.flatten(1, 2))
        mask = self.mask(x).softmax(1)
        deformation = (motion * mask[..., None]).sum(1)
        return {
            "mask": mask,
            "sparse_deformed": deformed,
            "deformation": deformation,
            "occlusion_map": self.occlusion(x).sigmoid(),
        }


class Middle(nn.Module):
    """Residual blocks one after the other."""

    def __init__(self, channels: int, count: int):
        super().__init__()
        self.count = count
        for i in range(count):
            setattr(self, f"r{i}", ResBlock2d(channels))

    def forward(self, x):
        for i in range(self.count):
            x = getattr(self, f"r{i}")(x)
        return x


class OcclusionAwareGenerator(nn.Module):
    """The source image, moved.

    Args:
        num_kp: points K.
        block_expansion, max_features: of the generator.
        num_down_blocks, num_bottleneck_blocks: halvings, residual blocks.
        motion_expansion, motion_features, motion_blocks, scale_factor: of the motion network.
        align_corners: see :func:`sample`; the released code dates from when True was the default.

    Inputs: ``source`` (N, 3, H, W) in [0, 1]; ``source_value``, ``driving_value`` (N, K, 2); ``source_jacobian``,
        ``driving_jacobian`` (N, K, 2, 2).
    Returns: dict: that of :class:`DenseMotionNetwork`; ``"deformed"`` (N, 3, H, W), the moved pixels alone;
        ``"prediction"`` (N, 3, H, W) in [0, 1].
    """

    def __init__(
        self,
        num_kp: int = 10,
        block_expansion: int = 64,
        max_features: int = 512,
        num_down_blocks: int = 2,
        num_bottleneck_blocks: int = 6,
        motion_expansion: int = 64,
        motion_features: int = 1024,
        motion_blocks: int = 5,
        scale_factor: float = 0.25,
        align_corners: bool = True,
    ):
        super().__init__()
        self.align_corners = align_corners
        motion = (num_kp, motion_expansion, motion_features, motion_blocks, scale_factor)
        self.dense_motion_network = DenseMotionNetwork(*motion, align_corners=align_corners)
        widths = [min(max_features, block_expansion * 2**i) for i in range(num_down_blocks + 1)]
        self.first = SameBlock2d(3, widths[0])
        self.down_blocks = nn.ModuleList(DownBlock2d(*pair) for pair in itertools.pairwise(widths))
        self.up_blocks = nn.ModuleList(UpBlock2d(*pair) for pair in zip(widths[::-1], widths[-2::-1]))
        self.bottleneck = Middle(widths[-1], num_bottleneck_blocks)
        self.final = nn.Conv2d(widths[0], 3, 7, padding=3)

    def forward(self, source, source_value, source_jacobian, driving_value, driving_jacobian):
        x = self.first(source)
        for block in self.down_blocks:
            x = block(x)
        points = (source_value, source_jacobian, driving_value, driving_jacobian)
        outputs = self.dense_motion_network(source, *points)
        occlusion = outputs["occlusion_map"]
        if tuple(occlusion.shape[2:]) != tuple(x.shape[2:]):
            occlusion = resize_bilinear(occlusion, map_size(x))
        x = self.bottleneck(sample(x, outputs["deformation"], self.align_corners) * occlusion)
        for block in self.up_blocks:
            x = block(x)
        deformed = sample(source, outputs["deformation"], self.align_corners)
        return {**outputs, "deformed": deformed, "prediction": self.final(x).sigmoid()}


class PatchBlock(nn.Module):
    """Convolution of 4x4 without padding, normalisation, leaky ReLU, half the size.

    Args:
        in_channels, out_channels: of the convolution.
        norm, pool, sn: whether there is an instance normalisation, a pooling, a spectral normalisation.

    x: (N, C, H, W) -> (N, out_channels, H', W').
    """

    def __init__(self, in_channels: int, out_channels: int, norm: bool, pool: bool, sn: bool):
        super().__init__()
        convolution = nn.Conv2d(in_channels, out_channels, 4)
        self.conv, self.pool = spectral_norm(convolution) if sn else convolution, pool  # mirror: Spectral normalisation
        self.norm = nn.InstanceNorm2d(out_channels, affine=True) if norm else None

    def forward(self, x):
        x = self.conv(x)
        x = F.leaky_relu(x if self.norm is None else self.norm(x), 0.2)
        return F.avg_pool2d(x, 2) if self.pool else x


class PatchDiscriminator(nn.Module):
    """Whether patches of an image are real.

    Args:
        block_expansion, max_features, num_blocks: of the convolutions.
        sn: spectral normalisation.
        num_kp: points whose Gaussians are concatenated to the image; 0 for none.
        variance: of the Gaussians.

    x: (N, 3, H, W), value: (N, K, 2) -> dict: ``"feature_0"``, ... maps, ``"prediction"`` (N, 1, H', W').
    """

    def __init__(
        self,
        block_expansion: int = 32,
        max_features: int = 512,
        num_blocks: int = 4,
        sn: bool = True,
        num_kp: int = 0,
        variance: float = 0.01,
    ):
        super().__init__()
        self.num_kp, self.variance = num_kp, variance
        widths = [min(max_features, block_expansion * 2 ** (i + 1)) for i in range(num_blocks)]
        last, pairs = num_blocks - 1, zip([3 + num_kp, *widths], widths)
        self.down_blocks = nn.ModuleList(PatchBlock(*pair, i > 0, i < last, sn) for i, pair in enumerate(pairs))
        convolution = nn.Conv2d(widths[-1], 1, 1)
        self.conv = spectral_norm(convolution) if sn else convolution

    def forward(self, x, value=None):
        if self.num_kp:
            x = torch.cat((x, hills(value, map_size(x), self.variance)), 1)
        outputs = {}
        for i, block in enumerate(self.down_blocks):
            x = outputs[f"feature_{i}"] = block(x)
        outputs["prediction"] = self.conv(x)
        return outputs


class Discriminator(nn.Module):
    """The discriminator of the full size, under the multi-scale discriminator's names.

    Args:
        block_expansion, max_features, num_blocks, sn, num_kp: see :class:`PatchDiscriminator`.

    Inputs: (N, 3, H, W) in [0, 1]; with points ``value`` (N, K, 2).
    Returns: dict: ``"feature_0"``, ... maps, ``"prediction"`` (N, 1, H', W').
    """

    def __init__(
        self,
        block_expansion: int = 32,
        max_features: int = 512,
        num_blocks: int = 4,
        sn: bool = True,
        num_kp: int = 0,
    ):
        super().__init__()
        patches = PatchDiscriminator(block_expansion, max_features, num_blocks, sn, num_kp)
        self.discs = nn.ModuleDict({"1": patches})

    def forward(self, images, value=None):
        return self.discs["1"](images, value)


def fomm_kp_detector(**options) -> KPDetector:
    return KPDetector(**options)


def fomm_generator(**options) -> OcclusionAwareGenerator:
    return OcclusionAwareGenerator(**options)


def fomm_discriminator(**options) -> Discriminator:
    return Discriminator(**options)


def fomm_discriminator_kp(sn=False, num_kp=10, **options) -> Discriminator:
    return Discriminator(sn=sn, num_kp=num_kp, **options)
