"""Shared operators in both panels: published numbers, formulas written out, initial values, what is refused."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.state
import torch_impl.layers.initialization
import torch_impl.state
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.vocabulary import to_keras
from tf_impl.layers import carafe as tf_carafe
from tf_impl.layers import context as tf_context
from tf_impl.layers import deform_conv as tf_deform
from tf_impl.layers import generalized_attention as tf_attention
from torch_impl.classification.resnet import resnet50
from torch_impl.layers import carafe as torch_carafe
from torch_impl.layers import context as torch_context
from torch_impl.layers import deform_conv as torch_deform
from torch_impl.layers import generalized_attention as torch_attention
from weights.seeded import seeded

pytestmark = pytest.mark.usefixtures("double_precision")

PANELS = ("tensorflow", "pytorch")
MODULES = {
    "carafe": (tf_carafe, torch_carafe),
    "context": (tf_context, torch_context),
    "deform_conv": (tf_deform, torch_deform),
    "generalized_attention": (tf_attention, torch_attention),
}


def built(panel: str, module: str, name: str, **options):
    """A layer of one of the panels with its variables, in float64 in PyTorch."""
    builder = getattr(MODULES[module][panel == "pytorch"], name)
    if panel == "pytorch":
        return builder(**options).double().eval()
    width = options.get("in_channels", options.get("channels"))
    layer = builder(**to_keras(builder, options), dtype="float64")
    return tf_impl.state.build(layer, {"x": ((4, 4, width), "float64")})


def tensors(layer) -> dict:
    return (torch_impl.state if isinstance(layer, torch.nn.Module) else tf_impl.state).state_dict(layer)


def fill(layer) -> dict:
    """Seeded weights for a layer; returns them."""
    state = torch_impl.state if isinstance(layer, torch.nn.Module) else tf_impl.state
    values = seeded({name: value.shape for name, value in state.state_dict(layer).items()})
    state.load_state_dict(layer, values)
    return {name: value.astype(np.float64) for name, value in values.items()}


def apply(layer, *maps):
    """A layer or function on NCHW arrays."""
    if isinstance(layer, torch.nn.Module) or layer.__module__.startswith("torch_impl"):
        with torch.no_grad():
            return layer(*map(torch.from_numpy, maps)).numpy()
    return layer(*(tf.constant(x.transpose(0, 2, 3, 1)) for x in maps)).numpy().transpose(0, 3, 1, 2)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def conv1x1(values, name, x):
    """A 1x1 convolution of (N, C, P)."""
    y = np.einsum("oc,ncp->nop", values[f"{name}.weight"][:, :, 0, 0], x)
    return y + values[f"{name}.bias"][:, None] if f"{name}.bias" in values else y


X = np.random.default_rng(5).standard_normal((2, 16, 6, 7))

# ------------------------------------------------------------------------------------------------- parameter counts

COUNTS = [
    ("context", "ContextBlock", 512, 33889, {"ratio": 1 / 16}),
    ("context", "ContextBlock", 512, 132481, {"ratio": 1 / 4}),
    ("context", "ContextBlock", 1024, 133313, {"ratio": 1 / 16}),
    ("context", "ContextBlock", 1024, 527105, {"ratio": 1 / 4}),
    ("context", "ContextBlock", 2048, 528769, {"ratio": 1 / 16}),
    ("context", "ContextBlock", 2048, 2102785, {"ratio": 1 / 4}),
    ("context", "ContextBlock", 512, 67265, {"ratio": 1 / 16, "fusion_types": ("channel_add", "channel_mul")}),
    ("context", "ContextBlock", 512, 264449, {"ratio": 1 / 4, "fusion_types": ("channel_add", "channel_mul")}),
    ("context", "NonLocal2d", 256, 131712, {}),
    ("context", "NonLocal2d", 256, 131712, {"mode": "dot_product"}),
    ("context", "NonLocal2d", 256, 131968, {"mode": "concatenation"}),
    ("context", "NonLocal2d", 256, 65920, {"mode": "gaussian"}),
    ("carafe", "CARAFEPack", 256, 74148, {"scale_factor": 2}),
    *(
        ("generalized_attention", "GeneralizedAttention", channels, count, {"num_heads": 8, "attention_type": bits})
        for channels, counts in (
            (256, {"1111": 328449, "0010": 197121, "1000": 262401, "0001": 197121, "0011": 262913, "1101": 328193}),
            (256, {"1001": 328193}),
            (512, {"1111": 1312257, "0010": 787457, "1000": 1049089}),
        )
        for bits, count in counts.items()
    ),
]


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("module, name, channels, count, options", COUNTS)
def test_parameter_counts(panel, module, name, channels, count, options):
    key = "channels" if name == "CARAFEPack" else "in_channels"
    layer = built(panel, module, name, **{key: channels}, **options)
    assert sum(value.size for value in tensors(layer).values()) == count


@pytest.mark.parametrize("panel", PANELS)
def test_offsets_of_a_deformable_convolution_have_the_published_count(panel):
    layer = built(panel, "deform_conv", "ModulatedDeformConv2dPack", in_channels=256, out_channels=8, kernel_size=3)
    found = {name: value.size for name, value in tensors(layer).items()}
    assert found["conv_offset.weight"] + found["conv_offset.bias"] == 62235


# -------------------------------------------------------------------------------------------------- formulas


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("pooling", ["att", "avg"])
def test_context_block_is_its_formula(panel, pooling):
    layer = built(
        panel,
        "context",
        "ContextBlock",
        in_channels=16,
        ratio=0.25,
        pooling_type=pooling,
        fusion_types=("channel_mul", "channel_add"),
    )
    values, x = fill(layer), X.reshape(2, 16, 42)
    weight = softmax(conv1x1(values, "conv_mask", x)[:, 0]) if pooling == "att" else np.full((2, 42), 1 / 42)
    context = np.einsum("ncp,np->nc", x, weight)[..., None]

    def branch(name):
        y = conv1x1(values, f"{name}.0", context)
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
        y = y * values[f"{name}.1.weight"][:, 0] + values[f"{name}.1.bias"][:, 0]
        return conv1x1(values, f"{name}.3", np.maximum(y, 0))

    expected = x / (1 + np.exp(-branch("channel_mul_conv"))) + branch("channel_add_conv")
    np.testing.assert_allclose(apply(layer, X), expected.reshape(X.shape), rtol=0, atol=1e-13)


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("sub_sample", [False, True])
@pytest.mark.parametrize("mode", ["gaussian", "embedded_gaussian", "dot_product", "concatenation"])
def test_non_local_block_is_its_formula(panel, mode, sub_sample):
    options = {"in_channels": 16, "mode": mode, "sub_sample": sub_sample}
    x5 = X[:, :, :5]  # an odd height: the pooling drops the last row
    layer = built(panel, "context", "NonLocal2d", **options)
    values, x = fill(layer), x5.reshape(2, 16, 35)
    inner = ".0" if sub_sample else ""

    def pooled(y):
        if not sub_sample:
            return y
        y = y.reshape(2, -1, 5, 7)[:, :, :4, :6]
        return y.reshape(2, -1, 2, 2, 3, 2).max((3, 5)).reshape(2, -1, 6)

    g = pooled(conv1x1(values, f"g{inner}.conv", x))
    theta = x if mode == "gaussian" else conv1x1(values, "theta.conv", x)
    phi = pooled(x if mode == "gaussian" else conv1x1(values, f"phi{inner}.conv", x))
    if mode == "concatenation":
        pairs = np.concatenate(
            [np.repeat(theta[..., None], phi.shape[-1], -1), np.repeat(phi[:, :, None], theta.shape[-1], 2)], 1
        )
        weight = values["concat_project.conv.weight"][0, :, 0, 0]
        weights = np.maximum(np.einsum("c,ncqk->nqk", weight, pairs), 0) / phi.shape[-1]
    else:
        energy = np.einsum("ncq,nck->nqk", theta, phi)
        weights = {
            "gaussian": lambda: softmax(energy),
            "embedded_gaussian": lambda: softmax(energy / np.sqrt(8)),
            "dot_product": lambda: energy / phi.shape[-1],
        }[mode]()
    y = conv1x1(values, "conv_out.conv", np.einsum("nqk,nck->ncq", weights, g))
    np.testing.assert_allclose(apply(layer, x5), (x + y).reshape(x5.shape), rtol=0, atol=1e-13)


TYPES = ["".join(bits) for bits in itertools.product("01", repeat=4)][1:]


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("spatial_range", [-1, 3])
@pytest.mark.parametrize("bits", TYPES)
def test_generalized_attention_is_its_formula(panel, bits, spatial_range):
    """All types on a map that is not square, also those for which the reference exchanges height and width."""
    options = {"in_channels": 16, "num_heads": 4, "attention_type": bits, "spatial_range": spatial_range}
    layer = built(panel, "generalized_attention", "GeneralizedAttention", **options)
    values = fill(layer)
    keys = X[:, :, ::2, ::2].reshape(2, 16, 12)

    def heads(name, x):
        return conv1x1(values, name, x).reshape(2, 4, 4, -1)  # (N, M, e, P)

    def relative(layer, queries, count):
        distance = (np.arange(queries)[:, None] - 2 * np.arange(count))[..., None] / 1000 ** (np.arange(4) / 4)
        waves = np.concatenate([np.sin(distance), np.cos(distance)], -1) / np.sqrt(2)
        return (waves @ values[f"{layer}.weight"].T).reshape(queries, count, 4, 4)  # (y, y', M, e)

    energy = np.zeros((2, 4, 6, 7, 3, 4))
    query = heads("query_conv", X.reshape(2, 16, 42)).reshape(2, 4, 4, 6, 7) if "1" in bits[:2] else None
    key = heads("key_conv", keys).reshape(2, 4, 4, 3, 4) if "1" in (bits[0], bits[2]) else None
    if bits[0] == "1":
        energy += np.einsum("nmeyx,nmevu->nmyxvu", query, key)
    if bits[2] == "1":
        energy += np.einsum("me,nmevu->nmvu", values["appr_bias"].reshape(4, 4), key)[:, :, None, None]
    if "1" in (bits[1], bits[3]):
        place = relative("appr_geom_fc_y", 6, 3)[:, None, :, None] + relative("appr_geom_fc_x", 7, 4)[None, :, None]
        if bits[1] == "1":
            energy += np.einsum("nmeyx,yxvume->nmyxvu", query, place)
        if bits[3] == "1":
            energy += np.einsum("me,yxvume->myxvu", values["geom_bias"].reshape(4, 4), place)
    if spatial_range >= 0:
        for y, x in itertools.product(range(6), range(7)):
            allowed = np.zeros((3, 4), bool)
            allowed[max((y - 3) // 2, 0) : (y + 4) // 2 + 1, max((x - 3) // 2, 0) : (x + 4) // 2 + 1] = True
            energy[:, :, y, x, ~allowed] = -np.inf
    attention = softmax(energy.reshape(2, 4, 42, 12))
    out = np.einsum("nmqk,nmek->nmeq", attention, heads("value_conv", keys)).reshape(2, 16, 42)
    expected = values["gamma"] * conv1x1(values, "proj_conv", out).reshape(X.shape) + X
    np.testing.assert_allclose(apply(layer, X), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("kernel, groups, scale", [(5, 4, 2), (3, 1, 3), (1, 2, 2)])
def test_carafe_is_its_sum(panel, kernel, groups, scale):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 3, 4))
    masks = rng.standard_normal((2, groups * kernel**2, 3 * scale, 4 * scale))
    padded = np.pad(x, ((0, 0), (0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
    expected = np.zeros((2, 8, 3 * scale, 4 * scale))
    for c, y, x_ in itertools.product(range(8), range(3 * scale), range(4 * scale)):
        group = c // (8 // groups)
        for i, j in itertools.product(range(kernel), repeat=2):
            weight = masks[:, (group * kernel + i) * kernel + j, y, x_]
            expected[:, c, y, x_] += weight * padded[:, c, y // scale + i, x_ // scale + j]
    layer = MODULES["carafe"][panel == "pytorch"].CARAFE(kernel, groups, scale)
    np.testing.assert_allclose(apply(layer, x, masks), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("panel", PANELS)
def test_carafe_pack_is_encoder_pixel_shuffle_softmax_and_sum(panel):
    """The pack never shuffles pixels; the public function takes what a shuffle gives."""
    options = {"channels": 16, "scale_factor": 2, "up_kernel": 3, "up_group": 2, "compressed_channels": 8}
    layer = built(panel, "carafe", "CARAFEPack", **options)
    fill(layer)
    masks = apply(layer.content_encoder, apply(layer.channel_compressor, X))
    masks = torch.pixel_shuffle(torch.from_numpy(np.ascontiguousarray(masks)), 2)
    masks = masks.reshape(2, 2, 9, 12, 14).softmax(2).reshape(2, 18, 12, 14).numpy()
    function = MODULES["carafe"][panel == "pytorch"].CARAFE(3, 2, 2)
    np.testing.assert_allclose(apply(layer, X), apply(function, X, masks), rtol=0, atol=1e-13)


@pytest.mark.parametrize("panel", PANELS)
def test_feature_pyramid_with_carafe_agrees_with_mmdet(panel):
    expected = fingerprints.load("faster-rcnn_r50_fpn-carafe_1x_coco")
    values = seeded({name: tuple(shape) for name, shape in expected["tensors"]})

    def part(prefix):
        return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}

    backbone = resnet50(features_only=True).eval()
    torch_impl.state.load_state_dict(backbone, part("backbone."))
    image = torch.from_numpy(fingerprints.inputs_of({"inputs": {"input": expected["inputs"]["input"]}})["input"])
    with torch.no_grad():
        maps = [found.double() for found in backbone(image.float()).values()]
    neck = MODULES["carafe"][panel == "pytorch"].FPNCARAFE((256, 512, 1024, 2048), 256, 5)
    if panel == "pytorch":
        torch_impl.state.load_state_dict(neck.double(), part("neck."))
        with torch.no_grad():
            levels = [level.numpy() for level in neck(*maps)]
    else:
        maps = [tf.constant(found.numpy().transpose(0, 2, 3, 1)) for found in maps]
        neck(*maps)
        tf_impl.state.load_state_dict(neck, part("neck."))
        levels = [level.numpy().transpose(0, 3, 1, 2) for level in neck(*maps)]
    shapes = [[name, list(value.shape)] for name, value in tensors(neck).items()]
    assert shapes == [[name[5:], shape] for name, shape in expected["tensors"] if name.startswith("neck.")]
    for i, level in enumerate(levels):
        for figure in compare_with_fingerprint(f"neck.{i}", level, expected["outputs"][f"neck.{i}"]):
            assert figure.relative < 1e-4, figure


@pytest.mark.parametrize("panel", PANELS)
def test_border_gradient_of_the_deformable_convolution(panel):
    """Zero offsets with padding: mmcv's kernels give the first offset no gradient outside of the map."""
    x = np.tile([1.0, 2.0, 3.0], (3, 1))[None, None]
    offset, mask, weight = np.zeros((1, 8, 4, 4)), np.full((1, 4, 4, 4), 0.5), np.ones((1, 1, 2, 2))
    found = {}
    for rule in ("mmcv", "torchvision"):
        if panel == "pytorch":
            offsets = torch.from_numpy(offset.copy()).requires_grad_()
            x_, mask_, weight_ = map(torch.from_numpy, (x, mask, weight))
            y = torch_deform.deform_conv2d(x_, offsets, weight_, padding=1, mask=mask_, border_grad=rule)
            y.sum().backward()
            found[rule] = float(offsets.grad[:, 0].sum())
        else:
            offsets, x_, mask_ = (tf.constant(a.transpose(0, 2, 3, 1)) for a in (offset, x, mask))
            with tf.GradientTape() as tape:
                tape.watch(offsets)
                weight_ = tf.constant(weight.transpose(2, 3, 1, 0))
                y = tf.reduce_sum(
                    tf_deform.deform_conv2d(x_, offsets, weight_, padding=1, mask=mask_, border_grad=rule)
                )
            found[rule] = float(tf.reduce_sum(tape.gradient(y, offsets)[..., 0]))
    assert found == {"mmcv": -3.0, "torchvision": 0.0}


# ---------------------------------------------------------------------------------- initial values, what is refused

ZERO_AT_START = [
    ("context", "ContextBlock", {"ratio": 0.25}, {"channel_add_conv.3.weight", "channel_add_conv.3.bias"}),
    ("context", "NonLocal2d", {}, {"conv_out.conv.weight", "conv_out.conv.bias"}),
    ("context", "NonLocal2d", {"norm": "batch"}, {"conv_out.bn.weight", "conv_out.bn.bias"}),
    ("generalized_attention", "GeneralizedAttention", {"num_heads": 4}, {"gamma"}),
    *(
        ("deform_conv", name, {"out_channels": 8, "kernel_size": 3}, {"conv_offset.weight", "conv_offset.bias"})
        for name in ("DeformConv2dPack", "ModulatedDeformConv2dPack")
    ),
]


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("initialise", ["kaiming_normal", "kaiming_uniform", "normal"])
@pytest.mark.parametrize("module, name, options, zeros", ZERO_AT_START)
def test_what_starts_as_zero_stays_zero_when_a_model_is_initialised(panel, module, name, options, zeros, initialise):
    arguments = (0.02,) if initialise == "normal" else ()
    builder = getattr(MODULES[module][panel == "pytorch"], name)
    if panel == "pytorch":
        model = torch.nn.Sequential(torch.nn.Conv2d(16, 16, 1), builder(in_channels=16, **options))
        getattr(torch_impl.layers.initialization, initialise)(model, *arguments)
    else:  # every layer has its own initial values
        conv = keras.layers.Conv2D(16, 1, bias_initializer="zeros")
        model = keras.Sequential([conv, builder(**to_keras(builder, {"in_channels": 16, **options}))])
        tf_impl.state.build(model, {"x": ((4, 4, 16), "float64")})
    found = tensors(model)
    assert not found["0.bias"].any()  # the rest of the model is initialised
    assert found["0.weight"].any()
    for zero in zeros:
        assert not found[f"1.{zero}"].any(), zero
    biases = {key for key in ("1.appr_bias", "1.value_conv.weight", "1.g.conv.weight") if key in found}
    assert all(found[key].any() for key in biases)


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize(
    "module, name, options, word",
    [
        ("context", "ContextBlock", {"ratio": 0.25, "pooling_type": "max"}, "pooling_type='max'"),
        ("context", "ContextBlock", {"ratio": 0.25, "fusion_types": ("add",)}, "fusion_types"),
        ("context", "ContextBlock", {"ratio": 0.25, "fusion_types": ()}, "fusion_types"),
        ("context", "NonLocal2d", {"mode": "cosine"}, "mode='cosine'"),
        ("generalized_attention", "GeneralizedAttention", {"attention_type": "0000"}, "attention_type='0000'"),
        ("generalized_attention", "GeneralizedAttention", {"attention_type": "11"}, "attention_type='11'"),
    ],
)
def test_what_a_layer_cannot_do_is_named(panel, module, name, options, word):
    with pytest.raises(ValueError, match=word):
        builder = getattr(MODULES[module][panel == "pytorch"], name)
        options = {"in_channels": 16, **options}
        builder(**(options if panel == "pytorch" else to_keras(builder, options)))


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize(
    "options, word",
    [
        ({"up_kernel": 4}, "kernel_size=4"),
        ({"up_group": 3}, "group_size=3"),
    ],
)
def test_carafe_names_what_it_cannot_do(panel, options, word):
    with pytest.raises(ValueError, match=word):
        MODULES["carafe"][panel == "pytorch"].CARAFEPack(channels=16, scale_factor=2, **options)
