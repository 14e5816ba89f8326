"""The U-Net of volumes with the weights that platelet-unet-watershed ships, and stacks of slices as its input."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch, TensorFlow
from scripts import answer, draw, questions, volumes
from scripts.cli import main
from weights import catalog, checkpoints
from weights.processing.images import PictureError
from weights.processing.volumes import open_volume, padded

MODEL = catalog.get("unet_platelets")

# What the package's own network makes of the clot below (``plateseg/unet.py`` of version 0.0.3 with torch 2.14.1): of
# each map the share of voxels above one half, the mean, and the values at two voxels.
SHARES = [0.01858724, 0.00296224, 0.00045573, 0.07213542, 0.01389974]
MEANS = [0.03425734, 0.0215474, 0.01650921, 0.07776128, 0.0241945]
VALUES = {
    (3, 20, 30): [0.002803, 0.002316, 0.002512, 0.001257, 0.002515],
    (5, 40, 10): [0.021253, 0.020188, 0.016546, 0.021531, 0.010717],
}


def clot(depth: int = 6, height: int = 64, width: int = 80, count: int = 14) -> np.ndarray:
    """Bright platelets, flat across the slices, in the dark noise of a fluorescence microscope: (D, H, W) float32."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:depth, :height, :width]
    volume = np.zeros((depth, height, width))
    for _ in range(count):
        centre, radius = rng.uniform((0, 6, 6), (depth, height - 6, width - 6)), rng.uniform(3, 5)
        away = ((z - centre[0]) * 2) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2
        volume = np.maximum(volume, np.exp(-((away / radius**2) ** 2)))
    volume = volume * 0.8 + rng.gamma(2, 0.03, volume.shape)
    return (volume / volume.max()).astype(np.float32)


def save_stack(path, volume: np.ndarray):
    """As a TIFF of 16 bits a voxel."""
    first, *others = (Image.fromarray(np.round(65535 * one).astype(np.uint16)) for one in volume)
    first.save(path, save_all=True, append_images=others)


def test_trained_maps_are_those_of_the_package():
    import torch_impl.state

    with skip_without_package():
        _, path = checkpoints.fetch(MODEL)
    tensors, volume = torch_impl.state.open_checkpoint(path), clot()
    for kind in (TensorFlow, PyTorch):
        panel = kind(MODEL, {}, precision="float32", example={"volumes": volume[None, None]})
        panel.load(tensors)
        (found,) = panel.outputs({"volumes": volume[None, None]})["probabilities"]
        np.testing.assert_allclose((found > 0.5).mean((1, 2, 3)), SHARES, atol=5e-5)  # a voxel or two
        np.testing.assert_allclose(found.mean((1, 2, 3)), MEANS, rtol=1e-4)
        for place, values in VALUES.items():
            np.testing.assert_allclose(found[(slice(None), *place)], values, rtol=1e-3, atol=1e-6)
        mask = found[volumes.MASK]
        assert mask[volume > 0.5].mean() > 0.99 and mask[volume < 0.1].mean() < 0.01, "the platelets, and no more"


def test_the_command_finds_platelets_in_four_engines(tmp_path):
    with skip_without_package():
        checkpoints.fetch(MODEL)
    save_stack(tmp_path / "clot.tif", clot()[:5, :60])  # dark voxels are added to an odd depth
    arguments = ["predict", "unet_platelets", str(tmp_path / "clot.tif"), "--draw", str(tmp_path / "out.png"), "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    for engine in json.loads(result.stdout)["engines"].values():
        rows = {row["row"]: row for row in engine["answers"]}
        assert rows["mask"]["share"] == pytest.approx(SHARES[3], abs=0.02)
        assert rows["all four agree on the mask"]["agreement"] > 0.999
    assert Image.open(tmp_path / "out.png").width == 5 * 80 + 6 * draw.MARGIN


def test_maps_are_read_and_drawn(tmp_path):
    """By hand: a mask of one corner, of which one engine lacks a voxel."""
    save_stack(tmp_path / "a.tif", np.tile(np.linspace(0.5, 1, 8), (3, 6, 1)))
    entry = catalog.Checkpoint("seeded", "")
    question = volumes.volume_maps(MODEL, entry, questions.Request([str(tmp_path / "a.tif")]))
    assert question.feed["volumes"].shape == (1, 1, 4, 16, 16)
    maps = np.zeros((1, 5, 4, 16, 16))
    maps[0, 3, 0, :3, :4] = 0.9
    maps[0, 3, :, 6:] = 0.9  # of the voxels that were added
    found = {engine: {"probabilities": maps.copy()} for engine in answer.ENGINES}
    found["PyTorch"]["probabilities"][0, 3, 0, 0, 0] = 0.1
    rows = {row["row"]: row["text"] for row in question.read(found["TensorFlow"])}
    assert rows["mask"] == f"{12 / 144:.2%}" and rows["centres"] == "0.00%"
    assert question.common(found)[0]["text"] == f"{143 / 144:.2%}"
    sheet, top = np.asarray(question.draw(found)), draw.MARGIN + draw.LINE
    grey, own = sheet[top + 2, draw.MARGIN + 3], sheet[top + 2, 2 * draw.MARGIN + 8 + 3]
    np.testing.assert_allclose(own, (grey.astype(float) + draw.colour(1)) / 2, atol=1)
    assert (sheet[top + 5, 2 * draw.MARGIN + 8] == sheet[top + 5, draw.MARGIN]).all(), "outside of the mask"


def test_stacks_are_read_slice_by_slice(tmp_path):
    volume = clot(3, 20, 24)
    save_stack(tmp_path / "a.tif", volume / 2)
    found = open_volume(tmp_path / "a.tif")
    assert found.dtype == np.float32 and found.max() == 1
    np.testing.assert_allclose(found, volume, atol=1e-4)
    grown = padded(found)
    assert grown.shape == (4, 32, 32) and (grown[:3, :20, :24] == found).all() and grown.sum() == found.sum()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("text", "cannot be read"), ("colours", "in grey"), ("dark", "some of them brighter"), ("sizes", "of one size")],
)
def test_other_files_are_refused_in_a_line(tmp_path, kind, words):
    path = tmp_path / "a.tif"
    if kind == "text":
        path.write_text("no picture")
    elif kind == "colours":
        Image.new("RGB", (8, 8), "red").save(path)
    elif kind == "dark":
        save_stack(path, np.zeros((2, 8, 8)))
    else:
        Image.new("L", (8, 8), 9).save(path, save_all=True, append_images=[Image.new("L", (9, 8), 9)])
    with pytest.raises(PictureError, match=words):
        open_volume(path)
    result = CliRunner().invoke(main, ["predict", "unet_platelets", str(path), "--checkpoint", "seeded"])
    assert result.exit_code == 2 and words in result.output and result.output.count("\n") == 1


def test_sizes_that_do_not_halve_are_refused():
    for kind in (TensorFlow, PyTorch):
        panel = kind(MODEL, {"width": 2}, precision="float32", example={"volumes": np.zeros((1, 1, 2, 16, 16))})
        for shape in ((1, 1, 3, 16, 16), (1, 1, 2, 24, 16)):
            with pytest.raises(ValueError, match="an even depth, and multiples of 16"):
                panel.outputs({"volumes": np.zeros(shape, np.float32)})
