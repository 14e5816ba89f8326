"""PIFuHD: whether a point in space is inside a person, from the image features where the point is projected.

"PIFuHD: Multi-Level Pixel-Aligned Implicit Function for High-Resolution 3D Human Digitization", 2020, arXiv:2004.00452.
Parameter names: facebookresearch/pifuhd ``lib/model/HGPIFuNetwNML.py``, ``HGPIFuMRNet.py``, ``HGFilters.py``
(CC-BY-NC 4.0; only names and formulas are taken). What to look at: the fine level sees a window of a large image and no
depth; it only knows the third dimension from the coarse level's inner feature.

Mirror notes:
- NCHW here, NHWC in TensorFlow; points are (N, 3, P) here, (N, P, 3) there.
- Keras infers the input widths; a block is told whether its shortcut needs the convolution.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.gan._patchgan import initialize
from torch_impl.gan.cyclegan import ResnetBlock
from torch_impl.layers.grid_sample import grid_sample
from torch_impl.layers.resize import map_size, resize_bicubic, resize_bilinear

__all__ = [
    "GlobalGenerator",
    "HGFilter",
    "PIFu",
    "PIFuCriterion",
    "PIFuHD",
    "PIFuHDCriterion",
    "PIFuHDPostProcess",
    "pifuhd",
    "pifuhd_coarse",
]

DOWNS = 4  # halvings in the normal networks
EPS = 1e-8  # smallest length of a normal
CLIP = 1e-5  # smallest distance of a probability from 0 and 1


class GlobalGenerator(nn.Module):
    """A normal map from an image: halvings, residual blocks, doublings (arXiv:1711.11585).

    Args:
        ngf: channels of the first layer.
        blocks: residual blocks.

    x: (N, 3, H, W), H and W multiples of 16 -> (N, 3, H, W) in [-1, 1].
    """

    def __init__(self, ngf: int = 64, blocks: int = 9):
        super().__init__()
        widths = [ngf * 2**i for i in range(DOWNS + 1)]
        model = [nn.ReflectionPad2d(3), nn.Conv2d(3, ngf, 7), nn.InstanceNorm2d(ngf), nn.ReLU()]
        for channels, filters in itertools.pairwise(widths):
            model += [nn.Conv2d(channels, filters, 3, 2, 1), nn.InstanceNorm2d(filters), nn.ReLU()]
        model += [ResnetBlock(widths[-1]) for _ in range(blocks)]
        for channels, filters in itertools.pairwise(widths[::-1]):
            model += [nn.ConvTranspose2d(channels, filters, 3, 2, 1, 1), nn.InstanceNorm2d(filters), nn.ReLU()]
        model += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, 3, 7), nn.Tanh()]
        self.model = nn.Sequential(*model)
        initialize(self)

    def forward(self, x):
        return self.model(x)


class ConvBlock(nn.Module):
    """Normalisation, ReLU and 3x3 convolution three times, all three results concatenated, and a shortcut.

    Args:
        in_channels, out_channels: widths.
        groups: of the normalisations.

    x: (N, in_channels, H, W) -> (N, out_channels, H, W).
    """

    def __init__(self, in_channels: int, out_channels: int, groups: int = 32):
        super().__init__()
        half, quarter = out_channels // 2, out_channels // 4
        self.conv1 = nn.Conv2d(in_channels, half, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(half, quarter, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(quarter, quarter, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.GroupNorm(groups, in_channels), nn.GroupNorm(groups, half)
        self.bn3, self.bn4 = nn.GroupNorm(groups, quarter), nn.GroupNorm(groups, in_channels)
        self.downsample = None
        if in_channels != out_channels:  # mirror: is told
            shortcut = nn.Conv2d(in_channels, out_channels, 1, bias=False)
            self.downsample = nn.Sequential(self.bn4, nn.ReLU(), shortcut)

    def forward(self, x):
        first = self.conv1(F.relu(self.bn1(x)))
        second = self.conv2(F.relu(self.bn2(first)))
        third = self.conv3(F.relu(self.bn3(second)))
        return torch.cat((first, second, third), 1) + (x if self.downsample is None else self.downsample(x))


class HourGlass(nn.Module):
    """Several halvings and doublings, each with a branch at full size.

    Args:
        depth: halvings.
        channels: width.
        groups: of the normalisations.

    x: (N, channels, H, W) -> the same; H and W multiples of 2^depth.
    """

    def __init__(self, depth: int, channels: int, groups: int = 32):
        super().__init__()
        self.depth = depth
        for level in range(1, depth + 1):
            for name in (f"b1_{level}", f"b2_{level}", f"b3_{level}"):
                setattr(self, name, ConvBlock(channels, channels, groups))
        self.b2_plus_1 = ConvBlock(channels, channels, groups)

    def descend(self, x, level: int):
        """One halving and everything below it."""
        around = getattr(self, f"b1_{level}")(x)
        y = getattr(self, f"b2_{level}")(F.avg_pool2d(x, 2))
        y = self.descend(y, level - 1) if level > 1 else self.b2_plus_1(y)
        y = getattr(self, f"b3_{level}")(y)
        return around + resize_bicubic(y, map_size(around), align_corners=True)

    def forward(self, x):
        return self.descend(x, self.depth)


class HGFilter(nn.Module):
    """Stacked hourglasses, with a map of features after each.

    Args:
        num_stack, hg_depth: hourglasses and their halvings.
        hg_dim: channels of the features.
        pool: whether the map is halved twice; otherwise once.
        base: channels of the first layer, a quarter of those of the hourglasses.
        groups: of the normalisations.

    x: (N, 9, H, W) -> list of maps (N, hg_dim, H / 4, W / 4), or of half the size without ``pool``.
    """

    def __init__(self, num_stack: int, hg_depth: int, hg_dim: int, pool: bool = True, base: int = 64, groups: int = 32):
        super().__init__()
        self.num_stack, self.pool, width = num_stack, pool, 4 * base
        self.conv1, self.bn1 = nn.Conv2d(9, base, 7, 2, 3), nn.GroupNorm(groups, base)
        self.conv2 = ConvBlock(base, 2 * base, groups)
        self.conv3 = ConvBlock(2 * base, 2 * base, groups)
        self.conv4 = ConvBlock(2 * base, width, groups)
        for i in range(num_stack):
            setattr(self, f"m{i}", HourGlass(hg_depth, width, groups))
            setattr(self, f"top_m_{i}", ConvBlock(width, width, groups))
            setattr(self, f"conv_last{i}", nn.Conv2d(width, width, 1))
            setattr(self, f"bn_end{i}", nn.GroupNorm(groups, width))
            setattr(self, f"l{i}", nn.Conv2d(width, hg_dim, 1))
            if i < num_stack - 1:
                setattr(self, f"bl{i}", nn.Conv2d(width, width, 1))
                setattr(self, f"al{i}", nn.Conv2d(hg_dim, width, 1))
        initialize(self)

    def forward(self, x):
        x = self.conv2(F.relu(self.bn1(self.conv1(x))))
        x = self.conv4(self.conv3(F.avg_pool2d(x, 2) if self.pool else x))
        found = []
        for i in range(self.num_stack):
            y = getattr(self, f"top_m_{i}")(getattr(self, f"m{i}")(x))
            y = F.relu(getattr(self, f"bn_end{i}")(getattr(self, f"conv_last{i}")(y)))
            found.append(getattr(self, f"l{i}")(y))
            if i < self.num_stack - 1:
                x = x + getattr(self, f"bl{i}")(y) + getattr(self, f"al{i}")(found[-1])
        return found


class MLP(nn.Module):
    """A multilayer perceptron over the features of every point.

    Args:
        channels: widths, the features' included.
        res_layers: layers that see the features again.
        merge_layer: index of the layer whose activation is returned too.
        groups: of the normalisations, None for none.

    x: (N, channels[0], P) -> probability (N, 1, P), inner feature (N, C, P) or None.
    """

    def __init__(self, channels: tuple[int, ...], res_layers: tuple[int, ...], merge_layer: int = -1, groups=None):
        super().__init__()
        self.res_layers, self.merge_layer = tuple(res_layers), merge_layer
        inputs = [n + channels[0] * (i in res_layers) for i, n in enumerate(channels[:-1])]
        self.filters = nn.ModuleList(nn.Conv1d(*pair, 1) for pair in zip(inputs, channels[1:], strict=True))
        self.norms = nn.ModuleList(nn.GroupNorm(groups, n) for n in (channels[1:-1] if groups else ()))
        self.activation = nn.LeakyReLU(0.01)
        for layer in self.filters:
            nn.init.normal_(layer.weight, 0.0, 0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        y, inner = x, None
        for i, layer in enumerate(self.filters):
            y = layer(torch.cat((y, x), 1) if i in self.res_layers else y)
            if i < len(self.filters) - 1:
                y = self.activation(self.norms[i](y) if len(self.norms) else y)
            if i == self.merge_layer:
                inner = y
        return torch.sigmoid(y), inner


def project(points, calib):
    """Transform points into the camera's cube.  (N, 3, P), (N, 4, 4) -> (N, 3, P)."""
    return torch.matmul(calib[:, :3, :3], points) + calib[:, :3, 3:]


def inside(points):
    """Whether all coordinates of a point are in [-1, 1].  (N, C, P) -> (N, 1, P), 0 or 1."""
    return (points.abs() <= 1).all(1, keepdim=True).to(points)


def sample(features, points):
    """Sample features at points.  (N, C, H, W), (N, 3, P) -> (N, C, P)."""
    grid = points[:, :2].transpose(1, 2)[:, :, None]
    return grid_sample(features, grid, align_corners=True)[..., 0]


def normals(field, points, step: float):
    """Normalised negative gradient of a field, by forward differences.

    Args:
        field: from points (N, 3, P) to values (N, 1, P).
        points: (N, 3, M).
        step: length of the differences.

    Returns:
        (N, 3, M), of unit length.
    """
    shifts = F.pad(step * torch.eye(3).to(points), (1, 0))  # zero, then along every axis
    values = field((points[..., None] + shifts[:, None]).flatten(2)).unflatten(2, (-1, 4))
    slope = values[..., :1] - values[..., 1:]  # (N, 1, M, 3)
    return F.normalize(slope[:, 0], dim=2, eps=EPS).transpose(1, 2)  # mirror: points are


class PIFu(nn.Module):
    """The coarse level, and the normal networks.

    Args:
        num_stack, hg_depth, hg_dim: of the image's features, see :class:`HGFilter`.
        mlp_dim, res_layers, merge_layer: see :class:`MLP`.
        load_size, z_size: image size in pixels and depth of the person in millimetres; they scale depth.
        ngf, blocks: of the normal networks.
        base, groups: see :class:`HGFilter`.
        delta: step of the differences for normals.

    Inputs: ``images`` (N, 3, H, W) float in [-1, 1], multiples of 16; ``points`` (N, 3, P) and ``normal_points``
        (N, 3, M) in space; ``calib`` (N, 4, 4), from space to the camera's cube.
    Returns: dict: ``"occupancy"`` (N, S, P) probabilities of every stack, 0 outside the cube; ``"inside"`` (N, 1, P), 1
        in the cube; ``"normals"`` (N, 3, M).
    """

    def __init__(
        self,
        num_stack: int = 4,
        hg_depth: int = 2,
        hg_dim: int = 256,
        mlp_dim: tuple[int, ...] = (257, 1024, 512, 256, 128, 1),
        res_layers: tuple[int, ...] = (2, 3, 4),
        merge_layer: int = 2,
        load_size: int = 512,
        z_size: float = 200.0,
        ngf: int = 64,
        blocks: int = 9,
        base: int = 64,
        groups: int = 32,
        delta: float = 0.01,
    ):
        super().__init__()
        self.depth_scale, self.delta = load_size // 2 / z_size, delta
        self.image_filter = HGFilter(num_stack, hg_depth, hg_dim, True, base, groups)
        self.mlp = MLP(mlp_dim, res_layers, merge_layer, groups)
        self.netF, self.netB = (GlobalGenerator(ngf, blocks) for _ in range(2))

    def maps(self, images):
        """Features of every stack, and the normals (N, 6, H, W) of front and back, which are not trained here."""
        found = torch.cat((self.netF(images), self.netB(images)), 1).detach()
        return self.image_filter(torch.cat((images, found), 1)), found

    def query(self, features, points, calib):
        """Probabilities (N, 1, P) and inner features (N, C, P) of points, from one map."""
        points = project(points, calib)
        return self.mlp(torch.cat((sample(features, points), self.depth_scale * points[:, 2:]), 1))

    def level(self, features, points, calib, normal_points):
        """What :meth:`forward` returns, and the inner features of the points, from the maps."""
        answers = [self.query(x, points, calib) for x in features]
        within = inside(project(points, calib))
        return {
            "occupancy": torch.cat([within * p for p, _ in answers], 1),
            "inside": within,
            "normals": normals(lambda x: self.query(features[-1], x, calib)[0], normal_points, self.delta),
        }, answers[-1][1]

    def forward(self, images, points, calib, normal_points):
        return self.level(self.maps(images)[0], points, calib, normal_points)[0]


class PIFuHD(nn.Module):
    """Both levels; the fine level's losses do not train the coarse one.

    Args:
        netG: the coarse level.
        num_stack, hg_depth, hg_dim, base, groups: of the features of the large image, see :class:`HGFilter`.
        mlp_dim, res_layers: see :class:`MLP`.
        load_size_big: size of the large image, pixels.
        delta: step of the differences for normals.

    Inputs: ``images_global`` (N, 3, H, W) float in [-1, 1], multiples of 16; ``images_local`` (N, 3, h, w), a window of
        the large image; ``corners`` (N, 2) int64, x and y of its first pixel; ``points`` (N, 3, P) and
        ``normal_points`` (N, 3, M) in space; ``calib_global`` and ``calib_local`` (N, 4, 4), from space to the cubes of
        the image and of the window.
    Returns: dict of both levels, as of :class:`PIFu`: ``"occupancy"``, ``"inside"`` (depth does not count),
        ``"normals"``; ``"coarse_occupancy"``, ``"coarse_inside"``, ``"coarse_normals"``.
    """

    def __init__(
        self,
        netG,
        num_stack: int = 1,
        hg_depth: int = 2,
        hg_dim: int = 16,
        mlp_dim: tuple[int, ...] = (272, 512, 256, 128, 1),
        res_layers: tuple[int, ...] = (1, 2),
        load_size_big: int = 1024,
        base: int = 64,
        groups: int = 32,
        delta: float = 0.001,
    ):
        super().__init__()
        self.load_size_big, self.delta = load_size_big, delta
        self.image_filter = HGFilter(num_stack, hg_depth, hg_dim, False, base, groups)
        self.mlp = MLP(mlp_dim, res_layers)
        self.netG = netG

    def window(self, images, corners, size: tuple[int, int]):
        """Cut one window out of every image.  (N, C, H, W), (N, 2) -> (N, C, *size)."""
        rows, columns = (torch.arange(n).to(corners) for n in size)
        places = (corners[:, 1:] + rows)[:, :, None] * images.shape[3] + (corners[:, :1] + columns)[:, None]
        index = places.flatten(1)[:, None].expand(-1, images.shape[1], -1)
        return images.flatten(2).gather(2, index).unflatten(2, size)

    def query(self, features, inner, points, calib):
        """Probabilities (N, 1, P) of points, from one map and the coarse level's inner features."""
        return self.mlp(torch.cat((sample(features, project(points, calib)), inner.detach()), 1))[0]

    def forward(self, images_global, images_local, corners, points, calib_global, calib_local, normal_points):
        maps, sides = self.netG.maps(images_global)
        coarse, inner = self.netG.level(maps, points, calib_global, normal_points)
        sides = resize_bilinear(sides, (self.load_size_big, self.load_size_big), align_corners=True)
        sides = self.window(sides, corners, map_size(images_local))
        features = self.image_filter(torch.cat((images_local, sides), 1))
        within = inside(project(points, calib_local)[:, :2])

        def field(x):
            return self.query(features[-1], self.netG.query(maps[-1], x, calib_global)[1], x, calib_local)

        return {
            "occupancy": torch.cat([within * self.query(x, inner, points, calib_local) for x in features], 1),
            "inside": within,
            "normals": normals(field, normal_points, self.delta),
            **{f"coarse_{name}": x for name, x in coarse.items()},
        }


def extended_bce(p, labels, gamma):
    """Cross-entropy whose two halves have different weights.  p: (N, S, P), labels: (N, 1, P), gamma: (N, 1, 1)."""
    p = p.clamp(CLIP, 1 - CLIP)
    return -(gamma * labels * p.log() + (1 - gamma) * (1 - labels) * (1 - p).log())


class PIFuCriterion(nn.Module):
    """Cross-entropy of points, squared difference of normals.

    Args:
        gamma: weight of the points inside; those outside have 1 - gamma.

    Inputs: ``outputs`` of :class:`PIFu`; ``targets``: ``"labels"`` (N, 1, P), 1 inside the person;
        ``"normals"`` (N, 3, M).
    Returns: dict of scalars: ``"occ"``, ``"nml"``, ``"total"``, their sum.
    """

    def __init__(self, gamma: float = 0.7):
        super().__init__()
        self.gamma = gamma

    def forward(self, outputs, targets):
        labels, wanted = (targets[name].to(outputs["normals"]) for name in ("labels", "normals"))
        points = extended_bce(outputs["occupancy"], outputs["inside"] * labels, self.gamma)
        losses = {"occ": points.mean(), "nml": (outputs["normals"] - wanted).square().mean()}
        return {**losses, "total": sum(losses.values())}


class PIFuHDCriterion(PIFuCriterion):
    """The losses of both levels; the fine one ignores points outside the window.

    Args:
        gamma: see :class:`PIFuCriterion`, of the coarse level; the fine one uses the share of points that are outside.

    Inputs: ``outputs`` of :class:`PIFuHD`; ``targets`` of :class:`PIFuCriterion`.
    Returns: dict of scalars: ``"occ"``, ``"nml"`` of the coarse level, ``"occ_fine"``, ``"nml_fine"``, ``"total"``,
        their sum.
    """

    def forward(self, outputs, targets):
        prefix = "coarse_"
        coarse = {name.removeprefix(prefix): x for name, x in outputs.items() if name.startswith(prefix)}
        losses = super().forward(coarse, targets)
        total = losses.pop("total")
        labels, wanted = (targets[name].to(outputs["normals"]) for name in ("labels", "normals"))
        within = outputs["inside"]
        labels, count = within * labels, within.sum(2, keepdim=True)
        count = torch.where(count > 0, count, 1.0)
        points = extended_bce(outputs["occupancy"], labels, 1 - labels.sum(2, keepdim=True) / count)
        losses["occ_fine"] = (points * within.shape[2] / count).mean()
        losses["nml_fine"] = (outputs["normals"] - wanted).square().mean()
        return {**losses, "total": total + losses["occ_fine"] + losses["nml_fine"]}


class PIFuHDPostProcess(nn.Module):
    """The results of the last stacks.

    Inputs: ``outputs`` of :class:`PIFuHD`.
    Returns: dict: ``"occupancy"``, ``"coarse_occupancy"`` (N, 1, P) probabilities; ``"colors"`` (N, M, 3) in [0, 1],
        the normals as colours.
    """

    def forward(self, outputs):
        found = {name: outputs[name][:, -1:] for name in ("occupancy", "coarse_occupancy")}
        return {**found, "colors": outputs["normals"].transpose(1, 2) / 2 + 0.5}


def pifuhd_coarse(**options) -> PIFu:
    return PIFu(**options)


def pifuhd(
    num_stack: int = 1,
    hg_depth: int = 2,
    hg_dim: int = 16,
    mlp_dim: tuple[int, ...] = (272, 512, 256, 128, 1),
    res_layers: tuple[int, ...] = (1, 2),
    load_size_big: int = 1024,
    base: int = 64,
    groups: int = 32,
    delta: float = 0.001,
    coarse: dict | None = None,
) -> PIFuHD:
    netG = PIFu(base=base, groups=groups, **(coarse or {}))
    return PIFuHD(netG, num_stack, hg_depth, hg_dim, mlp_dim, res_layers, load_size_big, base, groups, delta)
