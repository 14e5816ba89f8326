"""A morphable face fitted to a photograph: rendered by the camera, it must look like the photograph.

"Accurate 3D Face Reconstruction with Weakly-Supervised Learning", 2019, arXiv:1903.08527, section 3. Numbers and names:
sicxu/Deep3DFaceRecon_pytorch ``models/losses.py``, ``models/facerecon_model.py`` (MIT), whose rasteriser differs. What
to look at: the face's coefficients get gradients from the colours of pixels, through the corners of the triangles.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
"""

import torch

from torch_impl.face.morphable import CENTRE, MorphableCriterion, MorphableFace
from torch_impl.face.rasterization import rasterize

__all__ = ["MorphableFittingCriterion", "MorphableRenderer"]

EPS = 1e-6  # added to the square of a difference of colours


class MorphableRenderer(MorphableFace):
    """The face and its rendered image.

    Args:
        num_vertices, sizes, landmarks: see :class:`MorphableFace`.
        size: of the image, H and W, to which the camera's 224 x 224 pixels are scaled.

    Inputs: as of :class:`MorphableFace`; F H W numbers must fit into memory, see :func:`rasterize`.
    Returns: dict as of :class:`MorphableFace`, and ``"image"`` (N, 3, H, W), the lit colours, 0 where there is no face;
        ``"mask"`` (N, H, W), 1 where there is one.
    """

    def __init__(
        self,
        num_vertices: int = 35709,
        sizes: tuple[int, int, int] = (80, 64, 80),
        landmarks: tuple[int, ...] = (),
        size: tuple[int, int] = (224, 224),
    ):
        super().__init__(num_vertices, sizes, landmarks)
        self.size = tuple(size)

    def forward(self, coefficients, triangles, around):
        outputs = super().forward(coefficients, triangles, around)
        share = outputs["pixels"] / (2 * CENTRE)  # of the image, y upwards
        x, y = self.size[1] * share[..., 0], self.size[0] * (1 - share[..., 1])
        screen = torch.stack((x, y, outputs["vertices"][..., 2]), -1)
        drawn = rasterize(screen, triangles, outputs["colours"], self.size)
        return {**outputs, "image": drawn["image"], "mask": (drawn["triangle"] >= 0).to(x.dtype)}


class MorphableFittingCriterion(MorphableCriterion):
    """The losses of :class:`MorphableCriterion`, those of the pixels, and the variance of the skin's colour.

    Args:
        weights: see :class:`MorphableCriterion`.
        photo, reflectance: weights of the two.

    Inputs: ``outputs`` of :class:`MorphableRenderer`; ``targets`` as of :class:`MorphableCriterion`, and ``"image"``
        (N, 3, H, W), the photograph in [0, 1]; ``"seen"`` (N, H, W), 1 where it shows skin; ``"skin"`` (V,), 1 where
        the mesh has skin.
    Returns: its dict, and ``"photo"``, ``"reflectance"``, weighted; ``"total"``.
    """

    def __init__(
        self,
        weights: tuple[float, ...] = (1.6e-3, 1.0, 0.8, 0.017, 10.0),
        photo: float = 1.92,
        reflectance: float = 5.0,
    ):
        super().__init__(weights)
        self.photo, self.reflectance = photo, reflectance

    def forward(self, outputs, targets):
        losses = super().forward(outputs, targets)
        image, texture = outputs["image"], outputs["texture"]
        difference = ((image - targets["image"].to(image)).square().sum(1) + EPS).sqrt()  # (N, H, W); mirror: NCHW
        mask = outputs["mask"] * targets["seen"].to(image)
        losses["photo"] = self.photo * (difference * mask).sum() / mask.sum().clamp(min=1.0)
        skin = targets["skin"].to(texture)[:, None]
        mean = (skin * texture).sum(1, keepdim=True) / skin.sum()
        spread = ((texture - mean) * skin).square().sum((1, 2)).mean()
        losses["reflectance"] = self.reflectance * spread / skin.sum()
        return {**losses, "total": losses["total"] + losses["photo"] + losses["reflectance"]}
