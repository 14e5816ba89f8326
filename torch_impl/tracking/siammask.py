"""SiamMask: a tracker that also segments the object, by a mask for each position where it could be.

"Fast Online Object Tracking and Segmentation: A Unifying Approach", 2018, arXiv:1812.05050. Parameter names:
foolwood/SiamMask ``experiments/siammask_base``, ``siammask_sharp`` (MIT). What to look at: a feature vector of the
correlated map is a whole mask of 63 x 63 pixels; the refinement uses the finer maps of the frame around its cell to
enlarge it to 127 x 127.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths.
- Windows are taken with ``unfold`` in PyTorch, with gathers of rows and columns in TensorFlow.
"""

from torch import nn
from torch.nn import functional as F

from torch_impl.layers.resize import resize_bilinear, resize_nearest
from torch_impl.tracking._siamese import ANCHORS, CONV, VALUES, AtrousResNet, DepthwiseXCorr, SiamRPNCriterion
from weights.processing.tracking.siammask import WINDOWS

__all__ = [
    "Refine",
    "SiamMask",
    "SiamMaskCriterion",
    "siammask_base",
    "siammask_sharp",
]

STRIDE = 8  # pixels from cell to cell
PATCH = 127  # size of a cell's receptive field, pixels
COARSE = 63  # size of the mask in a feature vector
SMALL, CUT = 20, 4  # a map narrower than the first loses this many cells on each side


def windows(x, size: int, stride: int, pad: int):
    """All windows of a map.

    Args:
        x: (N, C, H, W).
        size, stride: of the windows.
        pad: zeros around the map.

    Returns:
        (N H' W', C, size, size), row by row of every image.
    """
    x = F.pad(x, (pad, pad, pad, pad))
    x = x.unfold(2, size, stride).unfold(3, size, stride)  # (N, C, H', W', size, size); mirror: unfold
    return x.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def pair_of_convs(in_channels: int, first: int, second: int):
    """Two 3x3 convolutions, each with ReLU."""
    return nn.Sequential(conv3x3(in_channels, first), nn.ReLU(), conv3x3(first, second), nn.ReLU())


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    return convolution


class Refine(nn.Module):
    """Refine the mask of a feature vector of the correlated map by finer maps.

    Args:
        in_channels: of the maps, fine to coarse, and of the vectors.
        hidden: of the deconvolved vector and of the steps, coarse to fine.

    columns: (M, C); windows: dict of :data:`WINDOWS` of the maps -> (M, 127 * 127) logits.
    """

    def __init__(self, in_channels: tuple[int, ...], hidden: tuple[int, ...] = (32, 16, 4)):
        super().__init__()
        third, second, first = hidden
        widths = zip(in_channels, (first, second, third))
        self.v0, self.v1, self.v2 = (pair_of_convs(width, 4 * n, n) for width, n in widths)
        self.h2, self.h1, self.h0 = (pair_of_convs(n, n, n) for n in hidden)
        self.deconv = nn.ConvTranspose2d(in_channels[3], third, 15, 15)
        pairs = ((third, second), (second, first), (first, 1))
        self.post0, self.post1, self.post2 = (conv3x3(*pair) for pair in pairs)

    def forward(self, columns, windows):
        x = self.deconv(columns[:, :, None, None])
        x = self.post0(resize_nearest(self.h2(x) + self.v2(windows["c3"]), (31, 31)))
        x = self.post1(resize_nearest(self.h1(x) + self.v1(windows["c2"]), (61, 61)))
        x = self.post2(resize_nearest(self.h0(x) + self.v0(windows["c1"]), (PATCH, PATCH)))
        return x.flatten(1)


class ResDown(nn.Module):
    """A 1x1 convolution with normalisation; small maps lose four cells on each side.

    Args:
        in_channels: C.
        out_channels: of the result.

    x: (N, C, H, W) -> (N, out_channels, H, W), or (N, out_channels, H - 8, W - 8).
    """

    def __init__(self, in_channels: int, out_channels: int):  # mirror: infers
        super().__init__()
        convolution = CONV(in_channels, out_channels, 1)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def forward(self, x):
        x = self.downsample(x)
        return x[:, :, CUT:-CUT, CUT:-CUT] if x.shape[3] < SMALL else x


class Features(nn.Module):
    """The trunk, and a narrower map of its last stage.

    Args:
        layers, planes: of the trunk.
        channels: of the narrower map.

    x: (N, 3, H, W) -> dict of maps, and the narrower one.
    """

    def __init__(self, layers: tuple[int, ...], planes: tuple[int, ...], channels: int):
        super().__init__()
        self.features = AtrousResNet(layers, planes, used=(1, 2, 3, 4))
        self.downsample = ResDown(4 * planes[-1], channels)

    def forward(self, x):
        maps = self.features(x)
        return maps, self.downsample(maps["c4"])


class Heads(nn.Module):
    """Correlation heads by name.

    Args:
        channels: of the maps.
        outputs: name -> channels of the result.

    kernel, search: maps -> dict of maps.
    """

    def __init__(self, channels: int, outputs: dict[str, int]):
        super().__init__()
        self.names = tuple(outputs)
        for name, count in outputs.items():
            setattr(self, name, DepthwiseXCorr(channels, channels, count))

    def forward(self, kernel, search):
        return {name: getattr(self, name)(kernel, search) for name in self.names}


class SiamMask(nn.Module):
    """The tracker's network.

    Args:
        layers, planes: of the trunk's three stages.
        channels: of the maps that are correlated.
        refine: whether there is a refinement.

    Inputs: ``template`` (N, 3, 127, 127), ``search`` (N, 3, H, W) float, BGR in 0 to 255.
    Returns: dict: ``"cls"`` (N, 10, H', W') and ``"loc"`` (N, 20, H', W') as of SiamRPN, ``"mask"``
        (N, 63 * 63, H', W') logits; with refinement ``"refine"`` (N, H' W', 127 * 127) logits.
    """

    def __init__(
        self,
        layers: tuple[int, ...] = (3, 4, 6),
        planes: tuple[int, ...] = (64, 128, 256),
        channels: int = 256,
        refine: bool = True,
    ):
        super().__init__()
        self.features = Features(layers, planes, channels)
        self.rpn_model = Heads(channels, {"cls": VALUES[0] * ANCHORS, "loc": VALUES[1] * ANCHORS})
        self.mask_model = Heads(channels, {"mask": COARSE * COARSE})
        widths = (planes[0], 4 * planes[0], 4 * planes[1], channels)
        self.refine_model = Refine(widths) if refine else None

    def template(self, template):
        """The map of the object in the first frame."""
        return self.features(template)[1]

    def look(self, template, search):
        """The heads' predictions for a later frame, the correlated map, and the trunk's maps."""
        maps, search = self.features(search)
        head = self.mask_model.mask
        correlated = head.correlate(template, search)
        return {**self.rpn_model(template, search), "mask": head.head(correlated)}, correlated, maps

    def track(self, template, search):
        """The predictions for a later frame, the mask of every cell among them."""
        outputs, correlated, maps = self.look(template, search)
        if self.refine_model is not None:
            columns = correlated.permute(0, 2, 3, 1).flatten(0, 2)
            whole = maps["c4"].shape[3] >= SMALL
            cut = {name: windows(maps[name], size, step, pad * whole) for name, (size, step, pad) in WINDOWS.items()}
            drawn = self.refine_model(columns, cut)
            outputs["refine"] = drawn.reshape(-1, correlated.shape[2] * correlated.shape[3], PATCH * PATCH)
        return outputs

    def forward(self, template, search):
        return self.track(self.template(template), search)


class SiamMaskCriterion(SiamRPNCriterion):
    """The losses of SiamRPN, and that of the masks.

    Args:
        cls_weight, loc_weight, mask_weight: of the three.

    Inputs: ``outputs`` of :class:`SiamMask`; ``targets`` of ``SiamRPNCriterion``, and ``"label_mask"`` (N, 1, H, W), 1
        the object, -1 background, in the pixels of the frame; ``"label_mask_weight"`` (N, H', W'), 1 for the cells that
        count.
    Returns: dict of scalars, weighted: ``"cls"``, ``"loc"``, ``"mask"``, ``"total"``, their sum.
    """

    def __init__(self, cls_weight: float = 1.0, loc_weight: float = 1.2, mask_weight: float = 36.0):
        super().__init__(cls_weight, loc_weight)
        self.mask_weight = mask_weight

    def forward(self, outputs, targets):
        losses = super().forward(outputs, targets)
        refined = "refine" in outputs
        logits = outputs["refine" if refined else "mask"]
        if not refined:
            coarse = logits.permute(0, 2, 3, 1).reshape(-1, 1, COARSE, COARSE)
            logits = resize_bilinear(coarse, (PATCH, PATCH), align_corners=True)
        pixels, cells = targets["label_mask"].shape[3], outputs["cls"].shape[3]
        pad = 0 if (pixels - PATCH) // STRIDE + 1 == cells else CUT * STRIDE  # whether the map was cropped
        wanted = windows(targets["label_mask"].to(logits.dtype), PATCH, STRIDE, pad)
        product = wanted.reshape(-1, PATCH * PATCH) * logits.reshape(-1, PATCH * PATCH)
        by_cell = ((-product).relu() + F.softplus(-product.abs())).mean(1)
        weight = targets["label_mask_weight"].to(logits.dtype).reshape(-1)
        mask = (by_cell * weight).sum() / weight.sum().clamp(min=1.0)
        losses["mask"] = self.mask_weight * mask
        return {**losses, "total": losses["total"] + losses["mask"]}


def siammask_base(refine=False, **options) -> SiamMask:
    return SiamMask(refine=refine, **options)


def siammask_sharp(**options) -> SiamMask:
    return SiamMask(**options)
