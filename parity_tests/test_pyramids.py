"""Feature pyramids: published sizes, twins, and where the levels beyond the maps come from."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.state
from parity_tests.boxes import TF, TORCH
from weights import onnx_file
from weights.seeded import seeded

pytestmark = pytest.mark.usefixtures("double_precision")

C3 = {"c3": 512, "c4": 1024, "c5": 2048}


@pytest.mark.parametrize(
    "options, count",
    [
        ({"in_channels": C3, "extra": "on_input"}, 7_997_440),
        ({"in_channels": C3, "extra": "on_output"}, 3_868_672),
        ({"in_channels": C3, "extra": "on_lateral"}, 3_868_672),
        ({"in_channels": {"c2": 256, **C3}, "extra": "pool"}, 3_344_384),
        ({"in_channels": C3, "extra": "on_input", "norm": "group"}, 7_999_488),
    ],
)
def test_pyramid_has_the_published_size(options, count):
    with torch.device("meta"):
        pyramid = TORCH.pyramid.FPN(**options)
    assert sum(p.numel() for p in pyramid.parameters()) == count


@pytest.mark.parametrize(
    "name, options, levels",
    [
        ("FPN", {"extra": "pool", "num_outs": 5}, 5),
        ("FPN", {"extra": "on_input", "norm": "group", "norm_groups": 2, "relu_before_extra": True}, 5),
        ("FPN", {"extra": "on_output", "norm": "batch", "num_outs": 4}, 4),
        ("FPN", {"extra": "on_lateral"}, 5),
        ("FeaturePyramidNetwork", {}, 3),
        ("FeaturePyramidNetwork", {"extra": "pool"}, 4),
        ("FeaturePyramidNetwork", {"extra": "on_input"}, 5),
        ("FeaturePyramidNetwork", {"extra": "on_output"}, 5),
    ],
)
def test_pyramids_are_twins(name, options, levels):
    sizes, channels = [(9, 13), (5, 7), (3, 4)], {"c3": 3, "c4": 4, "c5": 5}
    rng = np.random.default_rng(5)
    maps = {
        name: rng.standard_normal((2, c, *size)).astype(np.float32) for (name, c), size in zip(channels.items(), sizes)
    }
    theirs = getattr(TORCH.pyramid, name)(channels, 6, **options).eval()
    ours = getattr(TF.pyramid, name)(channels, 6, **options)
    given = {name: tf.constant(x.transpose(0, 2, 3, 1)) for name, x in maps.items()}
    ours(given)
    values = seeded({key: tuple(value.shape) for key, value in theirs.state_dict().items()})
    theirs.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in values.items()})
    tf_impl.state.load_state_dict(ours, values)
    found, expected = ours(given), theirs({name: torch.from_numpy(x) for name, x in maps.items()})
    assert list(found) == list(expected) == [f"p{i}" for i in range(3, 3 + levels)]
    for x, y in zip(found.values(), expected.values()):
        assert onnx_file.relative(np.transpose(x, (0, 3, 1, 2)), y.detach().numpy()) < 1e-5


@pytest.mark.parametrize("extra", ["on_input", "on_lateral", "on_output"])
@pytest.mark.parametrize("relu", [False, True])
def test_levels_beyond_the_maps_come_from_where_they_should(extra, relu):
    torch.manual_seed(0)
    maps = [torch.randn(1, 6, 8, 8), torch.randn(1, 6, 4, 4)]
    pyramid = TORCH.pyramid.FPN({"c4": 6, "c5": 6}, 6, 4, extra, relu)
    levels = list(pyramid({"c4": maps[0], "c5": maps[1]}).values())
    source = {"on_input": maps[1], "on_lateral": pyramid.lateral_convs[1](maps[1]), "on_output": levels[1]}[extra]
    torch.testing.assert_close(levels[2], pyramid.fpn_convs[2].conv(source))
    before = levels[2].clamp(min=0) if relu else levels[2]  # mmdet has no ReLU, unless it is told to
    torch.testing.assert_close(levels[3], pyramid.fpn_convs[3].conv(before))


def test_pyramids_refuse_an_unknown_level():
    for panel in (TF, TORCH):
        with pytest.raises(ValueError, match="extra='p6' must be None, 'pool', 'on_input' or 'on_output'"):
            panel.pyramid.FeaturePyramidNetwork({"c4": 3, "c5": 4}, 5, "p6")
        with pytest.raises(ValueError, match="extra='p6' must be 'pool', 'on_input', 'on_lateral' or 'on_output'"):
            panel.pyramid.FPN({"c4": 3, "c5": 4}, 5, extra="p6")
        with pytest.raises(ValueError, match="norm='layer' must be None, 'batch' or 'group'"):
            panel.pyramid.ConvModule(*(3, 4, 1)[panel is TF :], norm="layer")
