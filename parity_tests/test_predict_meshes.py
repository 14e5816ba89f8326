"""``diptych predict`` for surfaces: made-up faces and bodies in known places, files of meshes, and four engines."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from skimage import data

from scripts import draw, meshes
from scripts.cli import main
from scripts.questions import Request, question_of
from weights import catalog
from weights.processing.body import smpl
from weights.processing.face import tddfa

ENTRY = catalog.Checkpoint("seeded", "")


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(data.astronaut()[:300, :400]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def predict(*arguments):
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def asked(name: str, photo, **given):
    model = catalog.get(name)
    return question_of(model)(model, ENTRY, Request([str(photo)], **given))


def read_obj(path) -> tuple[np.ndarray, np.ndarray]:
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines()]
    vertices = np.array([line[1:4] for line in lines if line[0] == "v"], float)
    return vertices, np.array([line[1:] for line in lines if line[0] == "f"], int) - 1


def save_face(path, face: tddfa.Face) -> None:
    bases = face.bases.reshape(-1, 50)
    arrays = {"u": face.mean.reshape(-1, 1), "w_shp": bases[:, :40], "w_exp": bases[:, 40:]}
    np.savez(path, **arrays, param_mean=face.param_mean, param_std=face.param_std, triangles=face.triangles)


def test_the_mean_face_is_in_the_middle_of_its_box(photo):
    """With numbers of 0: half of the mean's width and height on both sides of what 3DDFA looks at, the nose nearest."""
    question = asked("tddfa_mobilenet_025", photo, box=(100.0, 50.0, 80.0, 80.0))
    assert question.feed["images"].shape == (1, 3, 120, 120)
    mesh = question.mesh({"parameters": np.zeros((1, 62), np.float32)})
    side = int(1.58 * 80)
    centre = np.array([140, 90 + 0.14 * 80])
    assert mesh.vertices.shape == (33 * 33, 3) and mesh.triangles.shape == (2 * 32 * 32, 3)
    low, high = mesh.places[:, :2].min(0), mesh.places[:, :2].max(0)
    np.testing.assert_allclose((low + high) / 2, centre, atol=side / 120 + 1)  # y of a vertex is 121 less its height
    np.testing.assert_allclose(high - low, (72 * side / 120, 92 * side / 120), rtol=0.02)
    nose = mesh.places[mesh.places[:, 2].argmax(), :2]
    np.testing.assert_allclose(nose, centre, atol=3)
    np.testing.assert_allclose(mesh.vertices[:, 1], 300 - mesh.places[:, 1])
    rows = question.read({"parameters": np.zeros((1, 62), np.float32)})
    assert [row["row"] for row in rows[:4]] == ["yaw", "pitch", "roll", "scale"]
    np.testing.assert_allclose([row["value"] for row in rows[:4]], (0, 0, 0, 1), atol=1e-9)


def test_a_face_is_read_as_it_was_saved(photo, tmp_path):
    face = tddfa.synthetic_face(9)
    save_face(tmp_path / "face.npz", face)
    found = tddfa.read_face(tmp_path / "face.npz")
    for name in ("mean", "bases", "triangles", "param_mean", "param_std"):
        np.testing.assert_array_equal(getattr(found, name), getattr(face, name))
    question = asked("tddfa_mobilenet_025", photo, basis=tmp_path / "face.npz")
    assert len(question.mesh({"parameters": np.zeros((1, 62), np.float32)}).vertices) == 81


def test_a_position_map_says_where_its_points_are(photo, tmp_path):
    box = tddfa.box_around((100, 50, 180, 130))
    question = asked("prnet", photo, box=(100.0, 50.0, 80.0, 80.0))
    y, x = np.meshgrid(*[np.arange(256.0)] * 2, indexing="ij")
    outputs = {"position_map": np.stack([x, y, 100 + 0 * x])[None].astype(np.float32) / (1.1 * 256)}
    mesh = question.mesh(outputs)
    assert mesh.vertices.shape == (256 * 256, 3) and mesh.triangles.shape == (2 * 255 * 255, 3)
    side = round(box[2]) - round(box[0])
    np.testing.assert_allclose(mesh.places[0, :2] + 0.5, [round(n) + side / 512 for n in box[:2]], atol=1e-3)
    np.testing.assert_allclose(mesh.places[-1, :2] + 0.5, [round(n) - side / 512 for n in box[2:]], atol=1e-3)
    edges = mesh.vertices[mesh.triangles]
    assert (np.cross(edges[:, 1] - edges[:, 0], edges[:, 2] - edges[:, 0])[:, 2] > 0).all(), (
        "outside is where one looks"
    )
    np.savez(tmp_path / "uv.npz", face_ind=np.array([0, 1, 256]), triangles=np.array([[0, 2, 1]]))
    part = asked("prnet", photo, box=(100.0, 50.0, 80.0, 80.0), basis=tmp_path / "uv.npz").mesh(outputs)
    np.testing.assert_allclose(part.vertices, mesh.vertices[[0, 1, 256]])


def test_a_body_stands_where_the_camera_says(photo):
    question = asked("hmr_resnet50", photo)
    turn = np.diag([1.0, -1, -1])  # the network's y goes down
    outputs = {
        "rotations": np.tile(np.eye(3), (1, 24, 1, 1)),
        "betas": np.zeros((1, 10)),
        "camera": np.array([[0.8, 0.0, 0.0]]),
    }
    outputs["rotations"][0, 0] = turn
    outputs = {name: value.astype(np.float32) for name, value in outputs.items()}
    mesh = question.mesh(outputs)
    tensors, _, faces = smpl.synthetic_body()
    np.testing.assert_allclose(mesh.vertices, tensors["v_template"], atol=1e-6)
    assert faces.max() + 1 == len(mesh.vertices)
    pelvis = tensors["v_template"][: len(mesh.vertices) // 24].mean(0)
    np.testing.assert_allclose(pelvis, 0, atol=1e-6)
    np.testing.assert_allclose(mesh.places[: len(mesh.vertices) // 24, :2].mean(0), (200, 150), atol=0.5)
    head = mesh.vertices[:, 1].argmax()
    # 0.8 of half the image's longer side per metre, in the plane of the pelvis
    np.testing.assert_allclose(mesh.places[head, 1], 150 - 0.8 * 200 * mesh.vertices[head, 1], atol=1)


def test_a_mesh_is_drawn_where_it_is():
    picture = Image.new("RGB", (60, 40))
    square = np.array([[10, 10, 0.0], [30, 10, 0], [30, 30, 0], [10, 30, 0]])
    behind = square * (1, 1, 1) + (10, 0, -5)
    leaning = np.concatenate([square, behind * (1, 1, 1) + np.array([[0, 0, 0], [0, 0, -20], [0, 0, -20], [0, 0, 0]])])
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6], [4, 6, 7]])
    found = np.asarray(draw.mesh(picture, leaning, faces))
    assert found[20, 5].sum() == 0 and found[20, 15, 0] == 240 and found[20, 25, 0] == 240
    assert 60 < found[20, 37, 0] < 240, "what is turned away is darker"
    assert np.asarray(draw.mesh(picture, np.full((4, 3), np.nan), faces[:2])).sum() == 0


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tddfa_mobilenet_025", []),
        pytest.param("prnet", ["--option", "base=1"], marks=pytest.mark.slow),
        pytest.param("hmr_resnet50", ["--option", "layers=[1,1,1,1]", "--option", "hidden=16"], marks=pytest.mark.slow),
    ],
)
def test_four_engines_find_one_surface(name, options, photo):
    said = (name, photo, "--checkpoint", "seeded", *options, "--box", "100,50,80,80", "--json")
    result = predict(*said, "--mesh", photo.with_name("out.obj"), "--draw", photo.with_name("out.png"))
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["vertices"] < 0.01 and found["difference"] < 1e-5
    vertices, triangles = read_obj(photo.with_name("out.obj"))
    assert np.isfinite(vertices).all() and triangles.max() < len(vertices)
    low = next(row for row in found["engines"]["PyTorch"]["answers"] if row["row"].startswith("x of"))["low"]
    assert vertices[:, 0].min() == pytest.approx(low, abs=1e-5)
    assert Image.open(photo.with_name("out.png")).width == 5 * 400 + 6 * draw.MARGIN


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["tddfa_mobilenet_025", "photo.png", "--mesh", "out.stl"], "ends in .obj or .ply"),
        (["tddfa_mobilenet_025", "photo.png", "--box", "500,50,80,80"], "not in the picture, which is 400 x 300"),
        (["tddfa_mobilenet_025", "photo.png", "--box", "5,50,1,80"], "not in the picture"),
        (["tddfa_mobilenet_025", "photo.png", "--basis", "none.npz"], "none.npz"),
        (["tddfa_mobilenet_025", "photo.png", "--basis", "photo.png"], "give a .npz file"),
        (["tddfa_mobilenet_025", "photo.png", "--basis", "empty.npz"], "lacks u, w_shp"),
        (["tddfa_mobilenet_025", "photo.png", "--basis", "wrong.npz"], "w_exp (5, 10)"),
        (["prnet", "photo.png", "--basis", "empty.npz"], "face_ind"),
        (["prnet", "photo.png", "--basis", "points.npz"], "do not fit a map of 256 x 256"),
        (["hmr_resnet50", "photo.png", "--basis", "empty.npz"], "lacks v_template"),
        (["tddfa_mobilenet_025", "photo.png", "photo.png"], "takes one picture, and 2"),
        (["tddfa_mobilenet_025", "photo.png", "--seed", "1"], "--seed: tddfa_mobilenet_025 has no use for it"),
        (["squeezenet1_1", "photo.png", "--mesh", "out.obj"], "--basis and --mesh: squeezenet1_1 has no use"),
        (["siamfc_alexnet_v1", "photo.png", "--mesh", "out.obj"], "leave the other options out"),
        (["mtcnn", "photo.png", "--mesh", "out.obj"], "leave the other options out"),
    ],
)
def test_bad_use_is_refused_in_a_line(photo, monkeypatch, arguments, words):
    monkeypatch.chdir(photo.parent)
    face = tddfa.synthetic_face(5)
    bases = face.bases.reshape(-1, 50)
    wrong = {"u": face.mean.ravel(), "w_shp": bases[:, :40], "w_exp": bases[:5, 40:], "triangles": face.triangles}
    np.savez("empty.npz", other=np.zeros(3))
    np.savez("wrong.npz", **wrong, param_mean=face.param_mean, param_std=face.param_std)
    np.savez("points.npz", face_ind=np.array([0, 70_000]), triangles=np.array([[0, 1, 1]]))
    before = sorted(path.name for path in photo.parent.iterdir())
    result = predict(*arguments, "--checkpoint", "seeded")
    assert result.exit_code == 2 and words in result.stderr and result.stderr.count("\n") == 1, result.output
    assert sorted(path.name for path in photo.parent.iterdir()) == before


@pytest.mark.parametrize("suffix", ["obj", "ply"])
def test_a_mesh_is_written_whole_or_not_at_all(tmp_path, suffix):
    mesh = meshes.Mesh(np.eye(3), np.array([[0, 1, 2]]), np.eye(3))
    meshes.save(mesh, tmp_path / f"out.{suffix}")
    before = (tmp_path / f"out.{suffix}").read_bytes()
    assert before.startswith(b"v 1.0" if suffix == "obj" else b"ply")
    with pytest.raises(TypeError):
        meshes.save(meshes.Mesh(np.eye(3), np.zeros(()), np.eye(3)), tmp_path / f"out.{suffix}")
    assert (tmp_path / f"out.{suffix}").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
