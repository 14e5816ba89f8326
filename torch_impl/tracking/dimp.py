"""DiMP: the filter that finds an object is learnt for each object, by descent steps that are layers of the network.

"Learning Discriminative Model Prediction for Tracking", 2019, arXiv:1904.07220; the boxes' regressor: "ATOM: Accurate
Tracking by Overlap Maximization", 2018, arXiv:1811.07628. Parameter names and numbers: visionml/pytracking
``ltr/models/tracking/dimpnet.py``, ``target_classifier``, ``bbreg/atom_iou_net.py`` (GPL-3.0; only names and formulas
are taken). What to look at: the length of every descent step is computed, not chosen; labels, mask and weights are
learnt functions of the distance from the object.

Mirror notes:
- NCHW here, NHWC in TensorFlow.
- Keras infers the input widths, and builds layers that are never called by hand.
- PyTorch fills the kernels of finished layers, Keras gives each layer its initial values.
"""

import torch
import torch.nn.functional as F
from torch import nn

from torch_impl.classification.resnet import BasicBlock, Bottleneck, ResNet, expansion
from torch_impl.layers.initialization import kaiming_normal
from torch_impl.layers.precise_roi_pool import precise_roi_pool

__all__ = [
    "AtomIoUNet",
    "DiMP",
    "DiMPCriterion",
    "DiMPSteepestDescentGN",
    "LinearFilter",
    "dimp18",
    "dimp50",
]

STRIDES = (8, 16)  # of the maps that are used, pixels
FILTER = 4  # size of the filter, cells
PAD = FILTER // 2  # zeros around a map that is filtered
EPS = 1e-5  # added to the square of a map's length


def images_first(x):
    """(N, T, ...) -> (T N, ...): in the order of the reference, whose first axis is the images of a sequence."""
    return swap(x).flatten(0, 1)


def swap(x):
    """Swap the first two axes."""
    return x.transpose(0, 1)


def to_xyxy(boxes):
    """Corner and size -> both corners.  (..., 4)."""
    return torch.cat((boxes[..., :2], boxes[..., :2] + boxes[..., 2:]), -1)


def apply_filter(features, kernel):
    """Apply each sequence's filter to all of its images.

    Args:
        features: (T, N, C, H, W).
        kernel: (N, C, K, K).

    Returns:
        (T, N, H + 1, W + 1) for an even K.
    """
    images, _, _, height, width = features.shape
    size = kernel.shape[2]
    taps = torch.matmul(kernel.flatten(2).transpose(1, 2), features.permute(1, 2, 0, 3, 4).flatten(2))
    taps = F.pad(taps.reshape(-1, size, size, images, height, width), (PAD,) * 4)  # (N, K, K, T, H + 4, W + 4)
    rows, columns = (n + 2 * PAD - size + 1 for n in (height, width))
    parts = [taps[:, i, j, :, i : i + rows, j : j + columns] for i in range(size) for j in range(size)]
    return swap(sum(parts))


def apply_transpose(features, residuals, size: int):
    """The gradient of a sum of filtered maps times ``residuals`` with respect to the filter.

    Args:
        features: (T, N, C, H, W).
        residuals: (T, N, H + 1, W + 1).
        size: of the filter, K.

    Returns:
        (N, C, K, K).
    """
    height, width = features.shape[3:]
    around = F.pad(swap(residuals), (size - 1 - PAD,) * 4)
    ends = range(size - 1, -1, -1)
    windows = torch.stack([around[:, :, i : i + height, j : j + width] for i in ends for j in ends], 1)
    rows = features.permute(1, 2, 0, 3, 4).flatten(2)  # (N, C, T H W)
    found = torch.matmul(rows, windows.flatten(2).transpose(1, 2))
    return found.reshape(-1, rows.shape[1], size, size)


class InstanceL2Norm(nn.Module):
    """Scale the map of every image to the same norm.  x: (N, C, H, W).

    Args:
        scale: root mean square of the result.
    """

    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale

    def forward(self, x):
        count = x.shape[1] * x.shape[2] * x.shape[3]
        return x * (self.scale * (count / (x.square().sum((1, 2, 3), keepdim=True) + EPS)).sqrt())


class FilterInitializer(nn.Module):
    """The initial filter: the mean content of the boxes in the training images.

    Args:
        channels: C.

    features: (T, N, C, H, W), boxes: (T, N, 4) xywh -> (N, C, K, K).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.filter_conv = nn.Conv2d(channels, channels, 3, padding=1)
        kaiming_normal(self)  # mirror: fills the kernels

    def forward(self, features, boxes):
        images = features.shape[0]
        x = self.filter_conv(features.flatten(0, 1))
        found = precise_roi_pool(x, to_xyxy(boxes).flatten(0, 1)[:, None], FILTER, 1 / STRIDES[1])
        return found.reshape(images, -1, *found.shape[2:]).mean(0)


class DiMPSteepestDescentGN(nn.Module):
    """Steps of steepest descent, whose length follows from a Gauss-Newton model of the loss.

    Args:
        iterations: steps.
        num_bins: values of the functions of the distance, B.
        bin_displacement: cells between neighbouring values.

    kernel: (N, C, K, K), features: (T, N, C, H, W), boxes: (T, N, 4) xywh -> list of filters, the first one included.
    """

    def __init__(self, iterations: int = 5, num_bins: int = 100, bin_displacement: float = 0.1):
        super().__init__()
        self.iterations, self.num_bins, self.bin_displacement = iterations, num_bins, bin_displacement
        distance = torch.arange(num_bins, dtype=torch.float64) * bin_displacement
        hill = torch.exp(-0.5 * (distance / 0.9).square())  # a quarter of the object's size, in cells
        self.log_step_length = nn.Parameter(torch.full((1,), 0.9).log())
        self.filter_reg = nn.Parameter(torch.full((1,), 0.1))
        self.label_map_predictor = self.function(hill - hill.min())
        self.target_mask_predictor = nn.Sequential(self.function(3 * torch.tanh(2 - distance)), nn.Sigmoid())
        self.spatial_weight_predictor = self.function(torch.ones(num_bins))

    def function(self, values):
        """A function of the distance, with its initial values."""
        layer = nn.Conv2d(self.num_bins, 1, 1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(values.reshape(1, -1, 1, 1))
        return layer

    def distances(self, boxes, height: int, width: int):
        """Interpolation weights of every cell's distance from its object.  (T N, B, height, width)."""
        y, x = (torch.arange(n).to(boxes) for n in (height, width))
        centre = ((boxes[..., :2] + boxes[..., 2:] / 2) / STRIDES[1]).flatten(0, 1)
        centre = centre - FILTER % 2 / 2
        squares = (y[:, None] - centre[:, 1, None, None]).square() + (x - centre[:, 0, None, None]).square()
        bins = squares.sqrt()[:, None] / self.bin_displacement
        bins = bins - torch.arange(self.num_bins).to(boxes)[:, None, None]
        return torch.cat((F.relu(1 - bins[:, :-1].abs()), (1 + bins[:, -1:]).clamp(0, 1)), 1)

    def forward(self, kernel, features, boxes):
        images, size = features.shape[0], kernel.shape[2]
        height, width = (n + 2 * PAD - size + 1 for n in features.shape[3:])
        bins = self.distances(boxes, height, width)
        shape = (images, -1, height, width)
        label = self.label_map_predictor(bins).reshape(shape)
        mask = self.target_mask_predictor(bins).reshape(shape)
        weight = images**-0.5 * self.spatial_weight_predictor(bins).reshape(shape)
        step, reg = self.log_step_length.exp(), self.filter_reg.square().clamp(min=1e-6)
        found = [kernel]
        for _ in range(self.iterations):
            scores = apply_filter(features, kernel)
            # in the background (mask 0) only values above 0 are errors
            slope = (1 - mask) / 2 * torch.sign(scores.detach()) + (1 + mask) / 2
            acted = (1 - mask) / 2 * scores.abs() + (1 + mask) / 2 * scores
            residuals = weight * (acted - label)
            gradient = apply_transpose(features, slope * weight * residuals, size) + reg * kernel
            change = weight * slope * apply_filter(features, gradient)
            squared = gradient.square().sum((1, 2, 3))
            bend = change.square().sum((0, 2, 3)) + reg * squared
            length = squared / torch.where(bend > 1e-8, bend, 1e-8)
            kernel = kernel - (step * length)[:, None, None, None] * gradient
            found.append(kernel)
        return found


class LinearFilter(nn.Module):
    """Localisation of the object: separate features, a filter from the training images, scores of the test images.

    Args:
        block: of the features, or None.
        in_channels: of the trunk's map.
        channels: C.
        iterations, num_bins, bin_displacement: see :class:`DiMPSteepestDescentGN`.

    train: (T N, in_channels, H, W), test: (S N, in_channels, H, W), boxes: (T, N, 4) -> list of scores, those of every
    step, (S, N, H + 1, W + 1).
    """

    def __init__(
        self,
        block,
        in_channels: int,
        channels: int,
        iterations: int = 5,
        num_bins: int = 100,
        bin_displacement: float = 0.1,
    ):
        super().__init__()
        blocks = [] if block is None else [block(in_channels, in_channels // expansion(block))]
        last = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.feature_extractor = nn.Sequential(*blocks, last, InstanceL2Norm((channels * FILTER * FILTER) ** -0.5))
        kaiming_normal(self.feature_extractor)
        self.filter_initializer = FilterInitializer(channels)
        self.filter_optimizer = DiMPSteepestDescentGN(iterations, num_bins, bin_displacement)

    def features(self, x, images: int):
        """(T N, in_channels, H, W) -> (T, N, C, H, W)."""
        x = self.feature_extractor(x)
        return x.reshape(images, -1, *x.shape[1:])

    def forward(self, train, test, boxes, images: int):
        train, test = self.features(train, boxes.shape[0]), self.features(test, images)
        kernel = self.filter_initializer(train, boxes)
        return [apply_filter(test, kernel) for kernel in self.filter_optimizer(kernel, train, boxes)]


def fill_he_normal(layer) -> None:
    """Normal with variance 2 / fan_in (arXiv:1502.01852), a bias of zero."""
    nn.init.kaiming_normal_(layer.weight)
    nn.init.zeros_(layer.bias)


def conv(in_channels: int, out_channels: int, kernel_size: int = 3, padding: int = 1) -> nn.Sequential:
    """Convolution, normalisation, ReLU."""
    layer = nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding)
    fill_he_normal(layer)
    norm = nn.BatchNorm2d(out_channels)
    nn.init.uniform_(norm.weight)
    return nn.Sequential(layer, norm, nn.ReLU())


class LinearBlock(nn.Module):
    """Linear layer over a pooled map, normalisation, ReLU.

    Args:
        in_features: numbers of the map, C K K.
        out_features: width of the result.

    x: (R, P, C, K, K) -> (R P, out_features).
    """

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.bn = nn.BatchNorm1d(out_features)
        fill_he_normal(self.linear)
        nn.init.uniform_(self.bn.weight)

    def forward(self, x):
        return F.relu(self.bn(self.linear(x.flatten(2).flatten(0, 1))))


class AtomIoUNet(nn.Module):
    """Predicted overlap of a box with the object, whose appearance in the first image modulates the features.

    Args:
        in_channels: of the two maps.
        width: of the hidden maps.

    train, test: two maps each; (N, C, H, W), (S N, C, H, W); boxes: (N, 4), proposals: (S, N, P, 4), xywh -> (S, N, P).
    """

    def __init__(self, in_channels: tuple[int, int], width: int = 256):  # mirror: infers
        super().__init__()
        third, fourth = in_channels
        self.conv3_1r, self.conv3_1t, self.conv3_2t = conv(third, width // 2), conv(third, width), conv(width, width)
        self.fc3_1r = conv(width // 2, width, padding=0)
        self.conv4_1r, self.conv4_1t, self.conv4_2t = conv(fourth, width), conv(fourth, width), conv(width, width)
        self.fc34_3r, self.fc34_4r = (conv(2 * width, width, 1, 0) for _ in range(2))
        self.fc3_rt, self.fc4_rt = LinearBlock(width * 25, width), LinearBlock(width * 9, width)
        self.iou_predictor = nn.Linear(2 * width, 1)
        fill_he_normal(self.iou_predictor)

    def modulation(self, maps, boxes):
        """Two vectors (N, width, 1, 1) of the object in the first image."""
        boxes = to_xyxy(boxes)[:, None]
        third = precise_roi_pool(self.conv3_1r(maps[0]), boxes, 3, 1 / STRIDES[0])[:, 0]
        fourth = precise_roi_pool(self.conv4_1r(maps[1]), boxes, 1, 1 / STRIDES[1])[:, 0]
        x = torch.cat((self.fc3_1r(third), fourth), 1)
        return self.fc34_3r(x), self.fc34_4r(x)

    def overlaps(self, vectors, maps, proposals):
        """What :meth:`forward` returns, from the vectors and the maps of the test images before their convolutions."""
        images, count = proposals.shape[0], proposals.shape[2]
        boxes = to_xyxy(proposals).flatten(0, 1)
        maps = self.conv3_2t(self.conv3_1t(maps[0])), self.conv4_2t(self.conv4_1t(maps[1]))
        third, fourth = (x * vector.repeat(images, 1, 1, 1) for x, vector in zip(maps, vectors, strict=True))
        third = self.fc3_rt(precise_roi_pool(third, boxes, 5, 1 / STRIDES[0]))
        fourth = self.fc4_rt(precise_roi_pool(fourth, boxes, 3, 1 / STRIDES[1]))
        return self.iou_predictor(torch.cat((third, fourth), 1)).reshape(images, -1, count)

    def forward(self, train, test, boxes, proposals):
        return self.overlaps(self.modulation(train, boxes), test, proposals)


class DiMP(nn.Module):
    """The tracker's network.

    Args:
        block, layers, planes: of the trunk, see :class:`ResNet`; its last stage and its classifier are unused.
        feature_block: of the classification's separate features, or None.
        channels: of these features.
        width: of the regressor of overlaps.
        iterations, num_bins, bin_displacement: see :class:`DiMPSteepestDescentGN`.
        num_classes: of the unused classifier.

    Inputs: ``train_images`` (N, T, 3, H, W), ``test_images`` (N, S, 3, H, W) float, normalised, multiples of 16;
        ``train_boxes`` (N, T, 4), ``proposals`` (N, S, P, 4) xywh in pixels.
    Returns: dict: ``"scores"`` (N, S, steps + 1, H / 16 + 1, W / 16 + 1), of the filter after every step;
        ``"iou"`` (N, S, P), in [-1, 1] for overlaps of 0 to 1.
    """

    def __init__(
        self,
        block,
        layers: tuple[int, ...],
        planes: tuple[int, ...] = (64, 128, 256, 512),
        feature_block=None,
        channels: int = 512,
        width: int = 256,
        iterations: int = 5,
        num_bins: int = 100,
        bin_displacement: float = 0.1,
        num_classes: int = 1000,
    ):
        super().__init__()
        self.feature_extractor = ResNet(block, layers, num_classes, planes=planes, out_indices=(2, 3))
        widths = tuple(self.feature_extractor.channels.values())
        steps = (iterations, num_bins, bin_displacement)
        self.classifier = LinearFilter(feature_block, widths[1], channels, *steps)
        self.bb_regressor = AtomIoUNet(widths, width)

    def forward(self, train_images, test_images, train_boxes, proposals):
        images = test_images.shape[1]
        train, test = (
            list(self.feature_extractor.forward_features(images_first(x)).values()) for x in (train_images, test_images)
        )
        boxes = swap(train_boxes)
        scores = self.classifier(train[1], test[1], boxes, images=images)
        first = [x[: train_images.shape[0]] for x in train]
        iou = self.bb_regressor(first, test, boxes[0], swap(proposals))
        return {"scores": swap(torch.stack(scores, 2)), "iou": swap(iou)}


class DiMPCriterion(nn.Module):
    """Squared difference of the scores, in the background only where they are above 0, and of the overlaps.

    Args:
        threshold: of the labels; lower ones are background.
        iou_weight, clf_weight: of the overlaps, and of the scores by the last filter, by the first, and by all others
            together.

    Inputs: ``outputs`` of :class:`DiMP`; ``targets``: ``"labels"`` (N, S, H, W), hills of the objects at the scores'
        cells; ``"ious"`` (N, S, P), overlaps of the proposals.
    Returns: dict of scalars, weighted: ``"iou"``, ``"test_clf"``, ``"test_init_clf"``, ``"test_iter_clf"``,
        ``"total"``, their sum.
    """

    def __init__(self, threshold: float = 0.05, iou_weight: float = 1.0, clf_weight: float = 100.0):
        super().__init__()
        self.threshold, self.iou_weight, self.clf_weight = threshold, iou_weight, clf_weight

    def forward(self, outputs, targets):
        scores = outputs["scores"]
        labels = targets["labels"].to(scores)[:, :, None]
        background = labels < self.threshold
        wanted = torch.where(background, 0.0, labels)
        difference = torch.where(background, F.relu(scores), scores) - wanted
        by_step = self.clf_weight * difference.square().mean((0, 1, 3, 4))
        overlaps = (outputs["iou"] - (2 * targets["ious"].to(scores) - 1)).square().mean()
        losses = {
            "iou": self.iou_weight * overlaps,
            "test_clf": by_step[-1],
            "test_init_clf": by_step[0],
            "test_iter_clf": by_step[1:-1].sum(),
        }
        return {**losses, "total": sum(losses.values())}


def dimp18(
    block=BasicBlock, layers: tuple[int, ...] = (2, 2, 2, 2), feature_block=BasicBlock, channels: int = 256, **options
) -> DiMP:
    return DiMP(block, layers, feature_block=feature_block, channels=channels, **options)


def dimp50(block=Bottleneck, layers: tuple[int, ...] = (3, 4, 6, 3), **options) -> DiMP:
    return DiMP(block, layers, **options)
