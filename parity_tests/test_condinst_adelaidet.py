"""CondInst with AdelaiDet's weights, under AdelaiDet's names: its maps, masks, losses and gradients."""

import importlib
import re

import numpy as np
import pytest
import tensorflow as tf
import torch

from parity_tests.cases.segmentation.blendmask import scene_targets
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog
from weights.seeded import seeded

EXPECTED = fingerprints.load("adelaidet_condinst_r50")
HEAD = r"^proposal_generator\.fcos_head\."
NAMES = {  # of AdelaiDet
    r"^backbone\.bottom_up\.(stem\.)?": "backbone.",
    **{rf"^backbone\.res{i + 1}\.": f"backbone.layer{i}." for i in range(1, 5)},
    r"^(backbone\..*)conv(\d)\.norm\.": r"\1bn\2.",
    r"\.shortcut\.norm\.": ".downsample.1.",
    r"\.shortcut\.": ".downsample.0.",
    **{rf"^backbone\.fpn_lateral{i + 3}\.": f"neck.lateral_convs.{i}.conv." for i in range(3)},
    **{rf"^backbone\.fpn_output{i + 3}\.": f"neck.fpn_convs.{i}.conv." for i in range(3)},
    **{rf"^backbone\.top_block\.p{i + 6}\.": f"neck.fpn_convs.{i + 3}.conv." for i in range(2)},
    **{
        rf"{HEAD}{tower}_tower\.{3 * i + j}\.": f"bbox_head.{ours}_convs.{i}.{part}."
        for tower, ours in (("cls", "cls"), ("bbox", "reg"))
        for i in range(4)
        for j, part in enumerate(("conv", "gn"))
    },
    rf"{HEAD}cls_logits\.": "bbox_head.conv_cls.",
    rf"{HEAD}bbox_pred\.": "bbox_head.conv_reg.",
    rf"{HEAD}ctrness\.": "bbox_head.conv_centerness.",
    rf"{HEAD}scales": "bbox_head.scales",
    r"^controller\.": "bbox_head.controller.",
    r"^mask_branch\.refine\.(\d)\.0\.": r"mask_head.mask_feature_head.convs_all_levels.\1.conv\1.conv.",
    r"^mask_branch\.refine\.(\d)\.1\.": r"mask_head.mask_feature_head.convs_all_levels.\1.conv\1.bn.",
    r"^mask_branch\.tower\.4\.": "mask_head.mask_feature_head.conv_pred.",
    r"^mask_branch\.tower\.(\d)\.0\.": r"mask_head.mask_feature_head.conv_branch.\1.conv.",
    r"^mask_branch\.tower\.(\d)\.1\.": r"mask_head.mask_feature_head.conv_branch.\1.bn.",
}
OF_CODE = ("mask_head.sizes_of_interest", "mask_head._iter")  # constants, and a counter of steps
KEYS = {"cls": "cls", "reg": "reg", "ctr": "ctr", "controller": "params"}
LOSSES = {"loss_fcos_cls": "cls", "loss_fcos_loc": "bbox", "loss_fcos_ctr": "centerness", "loss_mask": "mask"}
INSTANCES = ((0, 0, 5), (0, 1, 9), (1, 0, 40), (2, 1, 3), (3, 0, 1))  # level, image, cell of the level
CELLS = (192, 48, 12, 4, 1)


def ours(name: str) -> str:
    for pattern, replacement in NAMES.items():
        name = re.sub(pattern, replacement, name)
    return name


def module(panel, name: str):
    return importlib.import_module(f"{panel.package}.segmentation.{name}")


@pytest.fixture(scope="module", params=(TensorFlow, PyTorch), ids=lambda panel: panel.package)
def panel(request):
    found = request.param(catalog.get("condinst_r50_fpn"), {"stride_in_1x1": True}, {}, None, "float32")

    class Criterion(module(found, "condinst").CondInstCriterion):
        """With the overlaps of AdelaiDet, whose areas are one square stride larger."""

        box_losses = module(found, "blendmask").BlendMaskCriterion.box_losses

    found.criterion = found._place(Criterion())
    theirs = {name: tuple(shape) for name, shape in EXPECTED["tensors"] if name not in OF_CODE}
    known = {name: shape for name, shape in found.shapes().items() if not name.endswith("num_batches_tracked")}
    named = {ours(name): shape for name, shape in theirs.items() if not name.endswith("num_batches_tracked")}
    assert {name: () if "scales" in name else shape for name, shape in named.items()} == known
    values = {ours(name): value for name, value in seeded(theirs).items()}
    found.load({name: value.reshape(()) if "scales" in name else value for name, value in values.items()})
    return found


@pytest.mark.slow
def test_maps_and_masks_are_those_of_adelaidet(panel):
    outputs = panel.outputs({"images": fingerprints.inputs_of(EXPECTED)["image"]})
    found = {f"{key}.{i}": outputs[f"{name}_p{i + 3}"] for key, name in KEYS.items() for i in range(5)}
    found["mask_feats"] = outputs["mask_features"]
    for name in found.keys() & EXPECTED["outputs"].keys():
        figures = compare_with_fingerprint(name, found[name], EXPECTED["outputs"][name])
        assert max(figure.relative for figure in figures) < 1e-4, figures
    cells = np.array([sum(CELLS[:level]) + cell for level, _, cell in INSTANCES])
    tensor, axes = (tf.constant, (0, 2, 3, 1)) if panel.package == "tf_impl" else (torch.tensor, (0, 1, 2, 3))
    given = {name: tensor(x.transpose(axes)) for name, x in outputs.items()}
    masks = np.asarray(module(panel, "condinst").masks_of_points(given, tensor(np.stack([cells, cells]))))
    masks = np.stack([masks[image, i] for i, (_, image, _) in enumerate(INSTANCES)])[:, None]
    figures = compare_with_fingerprint("mask_logits", masks, EXPECTED["outputs"]["mask_logits"])
    assert max(figure.relative for figure in figures) < 1e-4, figures


@pytest.mark.slow
def test_losses_and_gradients_are_those_of_adelaidet(panel):
    inputs, targets = {"images": fingerprints.inputs_of(EXPECTED)["image"]}, scene_targets(EXPECTED)
    found = panel.losses(inputs, targets)
    for name, value in EXPECTED["loss"]["terms"].items():
        assert found[f"loss_{LOSSES[name]}"] == pytest.approx(value, rel=1e-4), name
    gradients, wanted = panel.gradients(inputs, targets), EXPECTED["loss"]["gradients"]
    norms = [np.linalg.norm(gradients[ours(name)].astype(np.float64)) for name in wanted]
    np.testing.assert_allclose(norms, [norm for norm, _ in wanted.values()], rtol=1e-3, atol=1e-6 * max(norms))
