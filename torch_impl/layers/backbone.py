"""What every backbone offers: maps at several strides, and parts that stay frozen while the rest trains.

Mirror notes:
- PyTorch freezes parameters and puts modules into evaluation mode in ``train``; Keras marks layers as not trainable,
  and those normalise with their running statistics.
"""

import copy
import itertools

import torch
from torch import nn

from torch_impl.layers.normalization import freeze_norm

__all__ = ["Backbone", "split"]


def split(blocks, ends) -> list[list]:
    """A list of blocks in parts; ``ends`` are the indices of the last block of each."""
    return [list(blocks[a:b]) for a, b in itertools.pairwise([0, *(end + 1 for end in ends)])]


class Backbone(nn.Module):
    """The base of the classifiers that detectors and segmenters are built on.

    A network that is one list of blocks keeps it in ``features`` and the index of the last block at each stride in
    ``stage_ends``; any other lists its parts in ``levels`` and ``forward_features``.

    ``channels`` and ``strides`` describe by name, such as "c4", what ``forward_features`` returns; code that builds on
    a backbone reads them instead of computing them.
    """

    known_channels = known_strides = None

    @property
    def channels(self) -> dict[str, int]:
        """Width of every map that ``forward_features`` returns, by name."""
        if self.known_channels is None:
            model = copy.deepcopy(self).to("meta").eval()
            first = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
            maps = model.forward_features(torch.empty(2, first.in_channels, 320, 320, device="meta"))
            self.known_channels = {name: x.shape[1] for name, x in maps.items()}
        return dict(self.known_channels)

    @property
    def strides(self) -> dict[str, int]:
        """Stride, in pixels of the image, of every map that ``forward_features`` returns, by name."""
        return dict(self.known_strides or {name: 2 ** int(name[1:]) for name in self.channels})

    def levels(self) -> list[list[nn.Module]]:
        """The modules that lead to the first map (the stem), then those that lead from each map to the next."""
        return split(self.features, self.stage_ends)

    def freeze(self, norm_eval: bool, frozen_stages: int, norm: str = "batch") -> None:
        """Freeze parts; called when all modules exist.

        Args:
            norm_eval: batch normalisation uses its running statistics in training, too.
            frozen_stages: -1 trains all; k freezes the layers up to the map of index k (0 is the stem): no gradient,
                running statistics.
            norm: "batch" leaves the normalisation as it is, "frozen" makes it a fixed scale and shift.

        Raises:
            ValueError: if ``norm`` is neither, or there are fewer maps.
        """
        if norm not in ("batch", "frozen"):
            raise ValueError(f"norm={norm!r}; 'batch' or 'frozen' is allowed")
        levels = self.levels()
        if not -1 <= frozen_stages < len(levels):
            raise ValueError(f"frozen_stages={frozen_stages}; -1 to {len(levels) - 1} is allowed")
        if norm == "frozen":
            freeze_norm(self)
        self.norm_eval = norm_eval
        self.frozen = frozen_stages + 1  # levels
        for part in (part for level in self.levels()[: self.frozen] for part in level):
            part.requires_grad_(False)  # mirror: PyTorch freezes

    def train(self, mode: bool = True):  # mirror: evaluation mode in
        super().train(mode)
        for part in (part for level in self.levels()[: self.frozen] for part in level):
            part.eval()
        if self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def forward_features(self, images) -> dict:
        """The maps of ``out_indices`` by name, from an image batch."""
        x, maps = images, {}
        for i in range(self.stage_ends[-1] + 1):
            x = self.features[i](x)
            if i in self.stage_ends and self.stage_ends.index(i) in self.out_indices:
                maps[f"c{self.stage_ends.index(i) + 1}"] = x
        return maps
