"""RetinaFace's meshes: spheres, how a face is drawn, what the image shows at its anchor."""

import numpy as np
import pytest
import torch

from torch_impl.classification.resnet import BasicBlock, ResNet
from torch_impl.face import retinaface_dense as dense
from weights.processing.face.spheres import edges, scaled_laplacian, sphere


@pytest.mark.parametrize("level, vertices", [(0, 12), (1, 42), (2, 162)])
def test_spheres_are_closed_and_finer_and_finer(level, vertices):
    mesh = sphere(level)
    assert len(mesh.vertices) == vertices and vertices - len(edges(mesh.triangles)[0]) + len(mesh.triangles) == 2
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 1)
    a, b, c = mesh.vertices[mesh.triangles].transpose(1, 0, 2)
    assert ((np.cross(b - a, c - a) * a).sum(1) > 0).all()  # counter-clockwise from outside
    values = np.linalg.eigvalsh(scaled_laplacian(mesh.triangles, vertices))
    np.testing.assert_allclose(values[[0, -1]], (-1, 1), atol=1e-12)
    if level:
        np.testing.assert_allclose(mesh.enlargement.sum(1), 1)
        middle = mesh.enlargement @ sphere(level - 1).vertices
        np.testing.assert_allclose(middle / np.linalg.norm(middle, axis=1, keepdims=True), mesh.vertices)


def face(**options):
    """A face whose mesh is the sphere, whatever its code."""
    model = dense.retinaface_dense_face(levels=(1, 2), width=2, size=(24, 30), **options).double()
    for parameter in model.last.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def test_a_face_is_drawn_where_the_camera_has_it():
    codes = torch.zeros(3, 144).double()
    codes[1, 128] = 0.5  # to the right
    codes[2, 134] = np.log(0.5)  # half as large
    with torch.no_grad():
        found = face()(codes)
    y, x = np.mgrid[:24, :30] + 0.5
    centres = [[(seen * n).sum() / seen.sum() for n in (x, y)] for seen in found["silhouette"].numpy()]
    np.testing.assert_allclose(centres, [(15, 12), (15 + 4.8, 12), (15, 12)], atol=0.2)
    area = found["silhouette"].sum((1, 2)).numpy()
    assert area[0] == pytest.approx(np.pi * 9.6**2, rel=0.05) and area[2] == pytest.approx(area[0] / 4, rel=0.1)
    np.testing.assert_allclose(found["colours"], 0.5)  # grey, in full light from everywhere


def test_a_lamp_brightens_its_own_side():
    codes = torch.zeros(1, 144).double()
    codes[0, 135:138] = torch.tensor([5.0, 0, 0])
    codes[0, 138:141] = torch.tensor([1.0, 0.5, 0])  # red and a little green
    with torch.no_grad():
        found = face()(codes)
    colours, side = found["colours"][0].numpy(), sphere(2).vertices[:, 0]
    np.testing.assert_allclose(colours[side.argmax()], (1, 0.75, 0.5), atol=1e-2)
    np.testing.assert_allclose(colours[side < -0.2], 0.5)


def model():
    body = ResNet(BasicBlock, (1, 1, 1, 1), planes=(4, 4, 4, 4), features_only=True, out_indices=(2, 3, 4))
    return dense.RetinaFaceDense(body, 8, (0, 1), 2, (4, 5), faces=2).double()


def test_crops_show_the_image_in_the_colours_of_faces():
    y, x = np.mgrid[:40, :50] + 0.5
    image = np.stack([x, y, 0 * x]) - np.array(dense.MEAN)[:, None, None]  # blue, green, red
    boxes = torch.tensor([[[10.0, 4, 30, 20], [-20, 0, 0, 40]]]).double()
    found = 255 * model().crops(torch.tensor(image)[None], boxes)[0].numpy()
    np.testing.assert_allclose(found[0, 2], np.tile(10 + 4 * (np.arange(5) + 0.5), (4, 1)))
    np.testing.assert_allclose(found[0, 1], np.tile(4 + 4 * (np.arange(4) + 0.5), (5, 1)).T)
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-12)
    assert not found[1].any()  # outside


def test_only_faces_that_were_drawn_cost_something():
    rng = np.random.default_rng(0)
    images = torch.tensor(rng.standard_normal((2, 3, 64, 64)))
    boxes = np.zeros((2, 1, 4))
    boxes[:, 0] = 8, 8, 40, 40
    targets = {"boxes": torch.tensor(boxes), "landmarks": torch.tensor(boxes).repeat(1, 1, 3)[..., :10]}
    targets |= {"marked": torch.tensor([[True], [False]]), "valid": torch.tensor([[True], [False]])}
    outputs = model()(images, targets)
    assert outputs["chosen"].tolist()[1] == [False, False] and outputs["chosen"][0].any()
    losses = dense.RetinaFaceDenseCriterion()(outputs, targets)
    difference = (outputs["rendered"] - outputs["crops"]).abs().sum(2).mean((2, 3))
    torch.testing.assert_close(losses["pixel"], difference[outputs["chosen"]].mean())
    outputs["rendered"] = outputs["crops"]
    assert dense.RetinaFaceDenseCriterion()(outputs, targets)["pixel"] == 0
