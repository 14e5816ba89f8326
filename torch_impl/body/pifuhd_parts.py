"""PIFuHD in the parts that a reconstruction calls: maps of the whole image once, then any number of points.

Papers, names of parameters: see ``pifuhd.py``. What to look at: here the window is the whole large image, and one
camera serves both levels; the surface is where the field passes one half. A part holds the parameters that it uses,
under their names in the whole model.

Mirror notes:
- NCHW here, NHWC in TensorFlow; points are (N, 3, P) here, (N, P, 3) there.
- Keras infers the input widths.
"""

import torch
from torch import nn

from torch_impl.body.pifuhd import MLP, GlobalGenerator, HGFilter, PIFu, PIFuHD, inside, normals, project
from torch_impl.layers.resize import map_size, resize_bilinear

__all__ = ["PIFuHDFeatures", "PIFuHDField", "pifuhd_features", "pifuhd_field"]


class CoarseFeatures(nn.Module):
    """The coarse level's maps of an image.

    Args:
        num_stack, hg_depth, hg_dim, ngf, blocks, base, groups: see :class:`PIFu`, whose :meth:`maps` this wraps.
    """

    def __init__(
        self,
        num_stack: int = 4,
        hg_depth: int = 2,
        hg_dim: int = 256,
        ngf: int = 64,
        blocks: int = 9,
        base: int = 64,
        groups: int = 32,
    ):
        super().__init__()
        self.image_filter = HGFilter(num_stack, hg_depth, hg_dim, True, base, groups)
        self.netF, self.netB = (GlobalGenerator(ngf, blocks) for _ in range(2))

    maps = PIFu.maps


class CoarseField(nn.Module):
    """The coarse level's predictions for points.

    Args:
        mlp_dim, res_layers, merge_layer, load_size, z_size, groups: see :class:`PIFu`, whose :meth:`query` this wraps.
    """

    def __init__(
        self,
        mlp_dim: tuple[int, ...] = (257, 1024, 512, 256, 128, 1),
        res_layers: tuple[int, ...] = (2, 3, 4),
        merge_layer: int = 2,
        load_size: int = 512,
        z_size: float = 200.0,
        groups: int = 32,
    ):
        super().__init__()
        self.depth_scale = load_size // 2 / z_size
        self.mlp = MLP(mlp_dim, res_layers, merge_layer, groups)  # mirror: infers

    query = PIFu.query


class PIFuHDFeatures(nn.Module):
    """The maps of an image.

    Args:
        netG: the coarse level's part.
        num_stack, hg_depth, hg_dim, base, groups: see :class:`PIFuHD`.

    Inputs: ``images_global`` (N, 3, H, W) and ``images_local`` (N, 3, h, w), the same image, large: as of
        :class:`PIFuHD`.
    Returns: dict of the last stacks' maps: ``"coarse"`` (N, C, H / 4, W / 4), ``"fine"`` (N, hg_dim, h / 2, w / 2).
    """

    def __init__(
        self,
        netG,
        num_stack: int = 1,
        hg_depth: int = 2,
        hg_dim: int = 16,
        base: int = 64,
        groups: int = 32,
    ):
        super().__init__()
        self.image_filter = HGFilter(num_stack, hg_depth, hg_dim, False, base, groups)
        self.netG = netG

    def forward(self, images_global, images_local):
        maps, sides = self.netG.maps(images_global)
        sides = resize_bilinear(sides, map_size(images_local), align_corners=True)
        return {"coarse": maps[-1], "fine": self.image_filter(torch.cat((images_local, sides), 1))[-1]}


class PIFuHDField(nn.Module):
    """Which points are inside the person.

    Args:
        netG: the coarse level's part.
        mlp_dim, res_layers, delta: see :class:`PIFuHD`.

    Inputs: ``coarse``, ``fine`` of :class:`PIFuHDFeatures`, ``points`` (N, 3, P) in space, ``calib`` (N, 4, 4), from
        space to the cube of the image.
    Returns: (N, 1, P), probabilities; 0 outside the image.
    """

    def __init__(
        self,
        netG,
        mlp_dim: tuple[int, ...] = (272, 512, 256, 128, 1),
        res_layers: tuple[int, ...] = (1, 2),
        delta: float = 0.001,
    ):
        super().__init__()
        self.delta = delta
        self.mlp = MLP(mlp_dim, res_layers)
        self.netG = netG

    query = PIFuHD.query

    def judge(self, coarse, fine, points, calib):
        """Probabilities (N, 1, P), also outside the image."""
        return self.query(fine, self.netG.query(coarse, points, calib)[1], points, calib)

    def normals(self, coarse, fine, points, calib):
        """Directions (N, 3, P) out of the person, of points near its surface."""
        return normals(lambda x: self.judge(coarse, fine, x, calib), points, self.delta)

    def forward(self, coarse, fine, points, calib):
        return inside(project(points, calib)[:, :2]) * self.judge(coarse, fine, points, calib)


def pifuhd_features(
    num_stack: int = 1,
    hg_depth: int = 2,
    hg_dim: int = 16,
    base: int = 64,
    groups: int = 32,
    coarse: dict | None = None,
) -> PIFuHDFeatures:
    netG = CoarseFeatures(base=base, groups=groups, **(coarse or {}))
    return PIFuHDFeatures(netG, num_stack, hg_depth, hg_dim, base, groups)


def pifuhd_field(
    mlp_dim: tuple[int, ...] = (272, 512, 256, 128, 1),
    res_layers: tuple[int, ...] = (1, 2),
    groups: int = 32,
    delta: float = 0.001,
    coarse: dict | None = None,
) -> PIFuHDField:
    return PIFuHDField(CoarseField(groups=groups, **(coarse or {})), mlp_dim, res_layers, delta)
