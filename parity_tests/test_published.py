"""The published models: their size, tensors in the official layout, references too large for a case, and dropout."""

import dataclasses
import importlib

import keras
import numpy as np
import pytest
import torch

from parity_tests.cases.classification._common import BLOCKS, reference
from parity_tests.cases.nlp import gpt as nlp_gpt
from parity_tests.cases.nlp import text_classifiers as nlp_classifiers
from parity_tests.cases.nlp.bert import SMALL_BERT, hugging_face, tokens
from parity_tests.cases.nlp.efficient import SMALL_PERFORMER, words
from parity_tests.cases.nlp.transformer import SMALL_TRANSFORMER, sentences
from parity_tests.harness import fingerprints
from parity_tests.harness.case import Case, cases, images
from parity_tests.harness.measure import Proof, compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, onnx_file
from weights.seeded import seeded

MODELS = {name: model for name, model in catalog.load().items() if model.kind == "model"}
LARGE = 12_000_000  # parameters; what has as many is left to --full


def published(name, **options):
    """PyTorch's model at the published size; nothing is allocated."""
    model = MODELS[name]
    module = importlib.import_module(f"torch_impl.{model.module}")
    with torch.device("meta"):
        return getattr(module, model.builder)(**model.options, **options)


# size


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.parameters])
def test_parameter_count_is_the_published_one(name):
    assert sum(parameter.numel() for parameter in published(name).parameters()) == MODELS[name].parameters


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.family == "classification"])
def test_maps_have_the_channels_and_strides_of_the_catalogue(name):
    trunk, model = published(name, features_only=True).eval(), MODELS[name]
    size = model.inputs["images"].shape[2]
    with torch.device("meta"), torch.no_grad():
        maps = trunk(torch.empty(1, 3, size, size))
    assert {key: x.shape[1] for key, x in maps.items()} == model.maps
    for key, x in maps.items():
        stride = 2 ** int(key[1:]) if key[0] == "c" else int(key[1:])
        assert 0.85 < size / stride / x.shape[2] < 1.2, key  # networks without padding lose a border


def smallest(models):
    """Names of the smallest model of each file, if it is small enough for the default tier."""
    found = {}
    for name, (module, count) in models.items():
        if count < min(LARGE, found.get(module, (LARGE, ""))[0]):
            found[module] = count, name
    return {name for _, name in found.values()}


def tiers(models):
    """Parameters of a test: the smallest model of each file by default, the others with ``--full``."""
    quick = smallest(models)
    marks = {name: [pytest.mark.module(module)] for name, (module, _) in models.items()}
    return [pytest.param(name, marks=marks[name] + ([] if name in quick else [pytest.mark.slow])) for name in models]


@pytest.mark.parametrize("name", tiers({n: (m.module, m.parameters) for n, m in MODELS.items() if m.parameters}))
def test_tensorflow_has_the_published_tensors(name):
    """Names, shapes and order of every tensor at the published size."""
    found = TensorFlow(MODELS[name], {}, precision="float32").shapes()
    found = [(n, shape) for n, shape in found.items() if not n.startswith("criterion.")]
    assert found == [(n, tuple(t.shape)) for n, t in published(name).state_dict().items()]


# tensors in the official layout


def stored(file):
    return fingerprints.load(f"{file}")


# files with other names are renamed by the level "reference"; NetVLAD has the width of what it is given, and a
# network of other images than the catalogue's is not built here
OFFICIAL = {
    ref.file: (case, ref)
    for case in cases().values()
    for ref in case.references
    if not ref.rename and case.entry.module != "retrieval.netvlad" and "in_chans" not in ref.options
}


@pytest.mark.parametrize("panel", [TensorFlow, PyTorch], ids=["tensorflow", "pytorch"])
@pytest.mark.parametrize(
    "file", tiers({f: (c.entry.module, stored(f)["parameters"]) for f, (c, _) in OFFICIAL.items()})
)
def test_official_tensors_load_without_a_difference(file, panel):
    """Names and shapes as the third-party implementation stores them, none missing and none left over."""
    (case, ref), expected = OFFICIAL[file], stored(file)
    tokens = {name: np.zeros((1, 8), x.dtype) for name, x in case.entry.inputs.items() if x.shape == ("N", "T")}
    example = tokens if len(tokens) == len(case.entry.inputs) else None  # long enough for every filter
    if set(ref.inputs.values()) == case.entry.inputs.keys():  # of a length that the options allow
        given = fingerprints.inputs_of(expected)
        example = {ours: given[theirs] for theirs, ours in ref.inputs.items()}
    built = panel(case.entry, ref.options, ref.criterion, case.postprocess, "float32", example=example)
    before = built.state()
    tensors = seeded({name: tuple(shape) for name, shape in expected["tensors"]}, built.aliases())
    tensors |= {name: before[name] for name, _ in expected["tensors"] if name not in tensors}  # left as built
    built.load(tensors, strict=True)
    after = built.state()
    assert after.keys() == tensors.keys()
    for name, values in tensors.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)


# references that no case has, because the published size is too large for the default tier

BERT, LAST = hugging_face("hf_bert_pretraining_base", layers=3), "bert.encoder.layer.11"
LAYERS, STAGES = [f"layer{i}" for i in range(1, 5)], [f"stages.{i}" for i in range(4)]
REFERENCES = {
    "mobilenet_v2_140": reference("torchvision_mobilenet_v2_w140", BLOCKS),
    "resnetv2_34": reference("timm_resnetv2_34", STAGES),
    "resnetv2_101": reference("timm_resnetv2_101", STAGES),
    "resnet50-os8": reference("timm_resnet50_os8", LAYERS, output_stride=8),
    "resnet50-os16": reference("timm_resnet50_os16", LAYERS, output_stride=16),
    "resnet101": reference("torchvision_resnet101", LAYERS),
    "resnet152": reference("torchvision_resnet152", LAYERS),
    "resnet101d": reference("timm_resnet101d", LAYERS),
    "resnet152d": reference("timm_resnet152d", LAYERS),
    "wide_resnet101_2": reference("torchvision_wide_resnet101_2", LAYERS),
    "bert_base_uncased": dataclasses.replace(BERT, options={}, modules={**BERT.modules, "hidden.3": LAST}),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "resnetv2_34" else pytest.mark.slow) for n in REFERENCES],
)
def test_published_model_gives_the_references_numbers(name):
    model = name.partition("-")[0]
    inputs = tokens() if MODELS[model].family == "nlp" else images(65, 49)
    level = Proof(Case(model, inputs, references=[REFERENCES[name]])).level("reference")
    assert level.applies and level.holds, level.broken()[:12]


# dropout: the models use the frameworks' own, so its places and scale are compared under given masks


class Masks:
    """Dropout whose masks are numbered in the order of the calls; zeros where the frameworks would draw them.

    Args:
        maps: in TensorFlow, four axes are a map in NHWC.
    """

    def __init__(self, maps: bool):
        self.maps, self.rates = maps, []

    def mask(self, shape, rate):
        """In PyTorch's layout, scaled."""
        self.rates.append(rate)
        return (np.random.default_rng(len(self.rates)).random(shape) >= rate) / (1 - rate)

    def torch(self, x, p=0.5, training=True, inplace=False, channels=False):
        if not training or not p:
            return x
        return x * torch.from_numpy(self.mask((*x.shape[:2], 1, 1) if channels else tuple(x.shape), p))

    def keras(self, layer, x, training=False, channels=False):
        if not training or not layer.rate:
            return x
        shape, move = tuple(x.shape), self.maps and len(x.shape) == 4
        shape = tuple(shape[i] for i in (0, 3, 1, 2)) if move else shape
        mask = self.mask((*shape[:2], 1, 1) if channels else shape, layer.rate)
        return x * (mask.transpose(0, 2, 3, 1) if move else mask)


def attention(masks):
    """PyTorch's fused attention written out, with a given mask on its weights."""

    def attend(q, k, v, bias=None, dropout_p=0.0):
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5 + bias, -1)
        return masks.torch(weights, dropout_p) @ v

    return attend


def with_masks(monkeypatch, maps):
    """Replace dropout in both frameworks; the masks of each."""
    ours, theirs = Masks(maps), Masks(maps)

    def call(self, inputs, training=False):
        return ours.keras(self, inputs, training)

    def spatial(self, inputs, training=False):
        return ours.keras(self, inputs, training, channels=True)

    def dropout2d(x, p=0.5, training=True, inplace=False):
        return theirs.torch(x, p, training, channels=True)

    monkeypatch.setattr(keras.layers.Dropout, "call", call)
    monkeypatch.setattr(keras.layers.SpatialDropout2D, "call", spatial)
    monkeypatch.setattr(torch.nn.functional, "dropout", theirs.torch)
    monkeypatch.setattr(torch.nn.functional, "dropout2d", dropout2d)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention(theirs))
    return ours, theirs


MMDET = {  # file of a whole detector: our trunk, and its options
    "faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco": ("resnet50_dcn", {"deform": "v1"}),
    "faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco": ("resnet50_dcn", {}),
    "faster-rcnn_r50-attn1111_fpn_1x_coco": ("resnet50_attention", {}),
    "faster-rcnn_r50-attn0010_fpn_1x_coco": ("resnet50_attention", {"attention_type": "0010"}),
    "mask-rcnn_r50-gcb-r16-c3-c5_fpn_1x_coco": ("resnet50_gcb", {}),
}


@pytest.mark.parametrize("file", MMDET)
def test_trunk_gives_the_maps_of_the_detector_it_is_in(file):
    model, options = MMDET[file]
    expected = fingerprints.load(f"{file}")
    theirs = {name: tuple(shape) for name, shape in expected["tensors"] if name.startswith("backbone.")}
    inputs = {"images": fingerprints.inputs_of(expected)["input"]}
    for panel in (TensorFlow, PyTorch):
        built = panel(MODELS[model], {**options, "features_only": True}, precision="float32")
        assert {f"backbone.{name}": shape for name, shape in built.shapes().items()} == theirs
        built.load({name.removeprefix("backbone."): value for name, value in seeded(theirs).items()})
        for i, x in enumerate(built.outputs(inputs).values()):
            x = x.transpose(0, 3, 1, 2) if panel is TensorFlow else x
            figures = compare_with_fingerprint(f"{file}: map {i}", x, expected["outputs"][f"backbone.{i}"])
            assert max(figure.relative for figure in figures) <= 1e-4, figures


TRANSLATION = {**SMALL_TRANSFORMER, "layers": 1, "dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3}
SMALL_TEXT = {"num_classes": 11, "base": 2, "nh": 4}
DROPOUTS = {  # builder: (the catalogue's model, small options with dropout, its inputs, rates in order of the calls)
    "mobilenet_v2": ("mobilenet_v2", {"width": 0.35, "dropout": 0.3}, images(33, 41), [0.3]),
    "unet_256": ("unet_256", {"num_downs": 7, "width": 4}, images(128, 256, name="A"), [0.5, 0.5]),
    "crnn_khmer": ("crnn", SMALL_TEXT, images(48, 40, 1), [0.2] * 4),
    "bert_base_uncased": ("bert_base_uncased", {**SMALL_BERT, "dropout": 0.1}, tokens(), [0.1] * 7),
    "bert_token": ("bert_base_uncased_token", {**SMALL_BERT, "dropout": 0.1}, tokens(), [0.1] * 8),
    "transformer_base": (
        "transformer_base",
        TRANSLATION,
        sentences(),
        [0.1, *(0.2, 0.1), *(0.3, 0.1), 0.1, *(0.2, 0.1) * 2, *(0.3, 0.1)],
    ),
    "performer_lm": (
        "performer_lm",
        {
            **SMALL_PERFORMER,
            "depth": 1,
            "local_attn_heads": 1,
            "emb_dropout": 0.1,
            "attn_dropout": 0.2,
            "ff_dropout": 0.3,
        },
        words(),
        [0.1, 0.2, 0.2, 0.3],
    ),
    "gpt1": ("gpt1", {**nlp_gpt.SMALL_GPT, "dropout": 0.1}, nlp_gpt.tokens(), [0.1] * 7),
    "gpt2": ("gpt2", {**nlp_gpt.SMALL_GPT, "dropout": 0.1}, nlp_gpt.tokens(), [0.1] * 7),
    "gpt1_choice": ("gpt1_double_heads", {**nlp_gpt.SMALL_GPT, "dropout": 0.1}, nlp_gpt.choices(), [0.1] * 8),
    "textcnn": ("textcnn_rand", {**nlp_classifiers.SMALL_TEXTCNN, "dropout": 0.5}, nlp_classifiers.sentences(), [0.5]),
    "fastbert": (
        "fastbert_base",
        {**nlp_classifiers.SMALL_FASTBERT, "dropout": 0.1},
        nlp_classifiers.segments(),
        [0.1] * 13,
    ),
    "bert_sequence": ("bert_base_uncased_sequence", {**SMALL_BERT, "dropout": 0.1}, tokens(), [0.1] * 8),
}


@pytest.mark.parametrize("name", DROPOUTS)
def test_dropout_is_in_the_same_places_of_both_panels(name, monkeypatch):
    model, options, make, rates = DROPOUTS[name]
    entry = MODELS[model]
    if name == "crnn_khmer":
        entry = dataclasses.replace(entry, builder=name)
    inputs = make(np.random.default_rng(0), 2)
    maps = entry.family != "nlp"
    panels = [panel(entry, options) for panel in (TensorFlow, PyTorch)]
    masks = with_masks(monkeypatch, maps)  # Keras may call a model once while it is built
    outputs, plain = [], []
    for built in panels:
        built.load(seeded(built.shapes(), built.aliases()), strict=False)
        outputs.append(built.outputs(inputs, training=True))
        plain.append(built.outputs(inputs))
    assert masks[0].rates == masks[1].rates == rates
    for ours, theirs in (outputs, plain):
        for key, values in theirs.items():
            assert onnx_file.relative(ours[key], values) <= 1e-10, key
    for key, values in outputs[1].items():
        assert onnx_file.relative(values, plain[1][key]) > 1e-3, f"{key}: dropout does something"


@pytest.mark.parametrize("channels", [False, True], ids=["values", "channels"])
def test_the_frameworks_dropout_scales_what_it_keeps(channels):
    x = np.ones((200, 50, 2, 2), np.float32)
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    for rate in (0.0, 0.25):
        layer = (torch.nn.Dropout2d if channels else torch.nn.Dropout)(rate)
        kept = layer.train()(torch.from_numpy(x)).numpy()
        np.testing.assert_array_equal(layer.eval()(torch.from_numpy(x)).numpy(), x)
        layer = (keras.layers.SpatialDropout2D if channels else keras.layers.Dropout)(rate)
        nhwc = x.transpose(0, 2, 3, 1)
        found = np.asarray(layer(nhwc, training=True)).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(layer(nhwc, training=False), nhwc)
        for values in (kept, found):
            assert set(np.unique(values)) == ({1.0} if rate == 0 else {0.0, np.float32(1 / (1 - rate))})
            assert abs((values == 0).mean() - rate) < 0.02
            assert (values.reshape(200, 50, 4).std(-1) == 0).all() == (channels or rate == 0)
