"""DiMP's parts compute together what the whole does, and the slopes of the overlaps are its gradient for the boxes."""

import pytest
import torch

from torch_impl.tracking import dimp, dimp_parts

SMALL = {"layers": (1, 1, 1, 1), "planes": (4, 6, 8, 10), "channels": 6, "width": 8, "num_classes": 2}
OBJECT = torch.tensor([[10.0, 12, 30, 40], [5, 5, 50, 40]]).double()
BOXES = torch.tensor([[[12.0, 12, 30, 40], [2, 3, 40, 50], [-5, 40, 30, 80]], [[1, 2, 30, 44], [5, 5, 0, 40], [0] * 4]])


def whole(name: str):
    torch.manual_seed(0)
    model = getattr(dimp, name)(**SMALL).double().eval()
    for layer in model.modules():
        if isinstance(layer, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            layer.running_var.uniform_(0.5, 1.5)
            layer.running_mean.normal_()
    return model


def part(name: str, model, **options):
    """A part with the whole's tensors."""
    found, tensors = getattr(dimp_parts, name)(**options), model.state_dict()
    found.load_state_dict({name: tensors[name] for name in found.state_dict()})
    return found.double().eval()


@pytest.mark.parametrize("name", ["dimp18", "dimp50"])
def test_the_parts_are_the_whole(name):
    model = whole(name)
    extract = part(f"{name}_extract", model, **SMALL)
    first = part(f"{name}_filter", model, channels=SMALL["channels"])
    modulation = part(f"{name}_modulation", model, planes=SMALL["planes"], width=SMALL["width"])
    overlaps = part("dimp_overlaps", model, width=SMALL["width"])
    images, boxes = torch.randn(2, 3, 96, 80).double(), BOXES.double().requires_grad_()
    fine, coarse = model.feature_extractor.forward_features(images).values()
    vectors = model.bb_regressor.modulation((fine, coarse), OBJECT)
    wanted = model.bb_regressor.overlaps(vectors, (fine, coarse), boxes[None])[0]
    (slopes,) = torch.autograd.grad(wanted.sum(), boxes)
    features = model.classifier.features(coarse, 2)

    maps = extract(images)
    torch.testing.assert_close(maps["classification"], features[:, 0])
    filters = first(maps["classification"], OBJECT)
    torch.testing.assert_close(filters.mean(0), model.classifier.filter_initializer(features, OBJECT[:, None])[0])
    looks = modulation(maps["fine"], maps["coarse"], OBJECT)
    torch.testing.assert_close(tuple(looks.values()), vectors)
    found = overlaps(maps["third"], maps["fourth"], *looks.values(), BOXES.double())
    torch.testing.assert_close(found["overlaps"], wanted)
    torch.testing.assert_close(found["slopes"], slopes)
    assert (slopes[0].abs() > 1e-4).all() and not slopes[1, 1:].any()
