"""The halves of the Siamese trackers compute together what the whole does, with the whole's tensors."""

import pytest
import torch

from parity_tests.cases.tracking.halves import ALEX, MASK, RESNET
from parity_tests.cases.tracking.siamfcpp_googlenet import SMALL
from torch_impl.tracking import halves, siamfcpp_googlenet
from torch_impl.tracking.siamfc import siamfc_alexnet_v1
from torch_impl.tracking.siamfcpp import siamfcpp_alexnet
from torch_impl.tracking.siammask import siammask_sharp
from torch_impl.tracking.siamrpn import siamrpn_alex_dwxcorr, siamrpn_alex_up
from torch_impl.tracking.siamrpnpp import siamrpn_r50_l234_dwxcorr
from weights.processing.tracking import siammask


def filled(half, whole):
    """A half with the whole's tensors; those that it has not are the other half's."""
    tensors, own = whole.state_dict(), half.state_dict()
    half.load_state_dict({name: tensors[name] for name in own})
    return half.double().eval()


@pytest.mark.parametrize(
    "whole, first, second, options",
    [
        (siamfc_alexnet_v1, "siamfc_alexnet_v1_template", "siamfc_alexnet_v1_track", ALEX),
        (siamrpn_alex_up, "siamrpn_alex_template", "siamrpn_alex_up_track", ALEX),
        (siamrpn_alex_dwxcorr, "siamrpn_alex_template", "siamrpn_alex_dwxcorr_track", ALEX),
        (
            siamrpn_r50_l234_dwxcorr,
            "siamrpn_r50_l234_dwxcorr_template",
            "siamrpn_r50_l234_dwxcorr_track",
            RESNET,
        ),
        (siamfcpp_alexnet, "siamfcpp_alexnet_template", "siamfcpp_alexnet_track", ALEX),
        (siamfcpp_googlenet.siamfcpp_googlenet, "siamfcpp_googlenet_template", "siamfcpp_googlenet_track", SMALL),
    ],
)
def test_two_halves_are_the_whole(whole, first, second, options):
    torch.manual_seed(0)
    whole = whole(**options).double().eval()
    modules = {**vars(halves), **vars(siamfcpp_googlenet)}
    first, second = (filled(modules[name](**options), whole) for name in (first, second))
    assert first.state_dict().keys() | second.state_dict().keys() == whole.state_dict().keys()
    template, search = torch.randn(1, 3, 127, 127).double(), torch.randn(1, 3, 191, 207).double()
    with torch.no_grad():
        maps = first.template(template) if hasattr(first, "template") else first(template)
        maps = maps.values() if isinstance(maps, dict) else [maps]
        entry = second if isinstance(second, (halves.SiamRPNPPTrack, halves.SiamFCPPTrack)) else second.track
        found, wanted = entry(*maps, search), whole(template, search)
    torch.testing.assert_close(found, wanted)


def test_three_parts_draw_the_mask_of_a_cell():
    torch.manual_seed(0)
    whole = siammask_sharp(**MASK).double().eval()
    refinement = {name: MASK[name] for name in ("planes", "channels")}
    first, second, third = (
        filled(getattr(halves, f"siammask_{name}")(**options), whole)
        for name, options in (("template", MASK), ("sharp_track", MASK), ("sharp_refine", refinement))
    )
    assert {**first.state_dict(), **second.state_dict(), **third.state_dict()}.keys() == whole.state_dict().keys()
    template, search = torch.randn(1, 3, 127, 127).double(), torch.randn(1, 3, 207, 255).double()
    with torch.no_grad():
        found, wanted = second(first(template), search), whole(template, search)
        for name in ("cls", "loc", "mask"):
            torch.testing.assert_close(found[name], wanted[name])
        rows, columns = wanted["cls"].shape[2:]
        for cell in ((0, 0), (rows - 1, 3), (7, columns - 1)):
            cut = {
                name: torch.from_numpy(siammask.window(found[name].numpy(), cell, *numbers))
                for name, numbers in siammask.WINDOWS.items()
            }
            drawn = third(found["correlated"][:, :, *cell], **cut)
            torch.testing.assert_close(drawn, wanted["refine"][:, cell[0] * columns + cell[1]])
