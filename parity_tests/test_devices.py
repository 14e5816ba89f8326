"""PyTorch's panel computes on the device that its inputs are on: run on the device ``meta``, which has shapes alone."""

import copy

import pytest
import torch

from torch_impl.export import apply_postprocess

READS = {  # cases that read values on the way, which ``meta`` does not have
    **dict.fromkeys(
        (
            "roi_align-adaptive",
            "blendmask_r50",
            "blendmask_550_r50",
            "blendmask_rt_r50",
            "faster_rcnn_r50_fpn",
            "faster_rcnn_r50_caffe_c4",
            "faster_rcnn_r50_caffe_dc5",
            "mask_rcnn_r50_caffe_c4",
            "mask_rcnn_r50_fpn",
            "maskrcnn_resnet50_fpn",
            "mask_rcnn_r50_gcb_r16_c3_c5_fpn",
            "mask_rcnn_r50_gcb_r4_c3_c5_fpn",
            "mask_rcnn_r50_fpn_carafe",
            "ms_rcnn_r50_caffe_fpn",
            "cascade_rcnn_r50_fpn",
            "cascade_mask_rcnn_r50_fpn",
            "faster_rcnn_r50_dconv_c3_c5_fpn",
            "faster_rcnn_r50_mdconv_c3_c5_fpn",
            "faster_rcnn_r50_attn0010_fpn",
            "faster_rcnn_r50_attn0010_dcn_fpn",
            "faster_rcnn_r50_attn1111_dcn_fpn",
            "htc_r50_fpn",
            "htc_without_semantic_r50_fpn",
            "faster_rcnn_r50_pafpn",
            "mask_rcnn_r50_fpn_gn_all",
            "mask_rcnn_r50_fpn_gn_ws_all",
            "faster_rcnn_r50_fpn_gn_ws_all",
            "mask_rcnn_r50_fpn_groie",
            "point_rend_r50_caffe_fpn",
            "faster_rcnn_r50_fpn_ohem",
            "faster_rcnn_r50_fpn_soft_nms",
            "cascade_rcnn_r50_rfp",
            "cascade_rcnn_r50_sac",
            "detectors_cascade_rcnn_r50",
            "ga_faster_rcnn_r50_caffe_fpn",
        ),
        "the number of samples is that of the largest box",
    ),
    "bilstm_crf": "packed sequences want the lengths on the CPU",
    "bilstm_crf-constrained": "packed sequences want the lengths on the CPU",
}


def test_model_criterion_and_post_process_stay_on_the_device(case, proof, monkeypatch):
    panel = proof.twins("float64")[1]
    inputs, targets = ({k: x.to("meta") for k, x in panel.tensors(arrays).items()} for arrays in proof.arrays())
    model, criterion, postprocess = (
        part if part is None else copy.deepcopy(part).to("meta")
        for part in (panel.model, panel.criterion, panel.postprocess)
    )
    model = getattr(model, proof.entry.call) if proof.entry.call else model

    @torch.no_grad()
    def compute():
        outputs = model(*inputs.values())
        found = list(panel.named(outputs).values())
        if criterion is not None:
            learned = model(*inputs.values(), targets=targets) if "targets" in proof.entry.needs else outputs
            found += criterion(learned, targets).values()
        if postprocess is not None:
            found += apply_postprocess(postprocess, outputs, list(inputs.values())).values()
        return found

    if case in READS:
        with pytest.raises((NotImplementedError, RuntimeError), match=r"copy out of meta|item\(\) cannot be called"):
            compute()
    else:
        assert all(x.device.type == "meta" for x in compute())
