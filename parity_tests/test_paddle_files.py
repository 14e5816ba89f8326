"""Tensors as PaddlePaddle writes them, and folders of them."""

import struct

import numpy as np
import pytest

from weights import checkpoints
from weights.processing import lac
from weights.processing.text import TextError


def paddle(values, shape=None, type_=5, version=0, levels=(), tail=b"", describe=None):
    """A tensor as PaddlePaddle writes it."""
    values = np.asarray(values, "<f4")
    dims = b"".join(b"\x10" + bytes([d & 127 | 128, d >> 7] if d > 127 else [d]) for d in shape or values.shape)
    description = describe or b"\x08" + bytes([type_]) + dims
    data = struct.pack("<IQ", version, len(levels)) + b"".join(struct.pack("<Q", len(x)) + x for x in levels)
    return data + struct.pack("<Ii", 0, len(description)) + description + values.tobytes() + tail


def test_paddles_tensors(tmp_path):
    path = tmp_path / "a"
    values = np.random.default_rng(0).standard_normal((3, 200)).astype(np.float32)
    for data in (paddle(values), paddle(values, levels=[b"\0" * 16, b""])):
        path.write_bytes(data)
        np.testing.assert_array_equal(lac.open_tensor(path), values)
    assert list(lac.open_tensors(tmp_path)) == ["a"]


VALUES = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the version of 4 bytes, but 0 are left"),
        (paddle(VALUES, version=1), "the version is 1, 0 was expected"),
        (paddle(VALUES)[:-1], "23 bytes of values, 24 were expected"),
        (paddle(VALUES, tail=b"x"), "25 bytes of values, 24 were expected"),
        (paddle(VALUES, shape=(2, 4)), "24 bytes of values, 32 were expected"),
        (paddle(VALUES, type_=6), r"values of type \[6\]; 5 \(float32\)"),
        (paddle(VALUES, shape=(0, 3)), r"the shape is \(0, 3\)"),
        (paddle(VALUES, describe=b"\x08\x05"), r"the shape is \(\)"),
        (paddle(VALUES, describe=b"\x08\x05" + b"\x10\x01" * 9), "1 to 8 positive lengths"),
        (paddle(VALUES, describe=b"\x08\x05\x10"), "the description breaks off"),
        (paddle(VALUES, describe=b"\x08\x05\x10" + b"\xff" * 12), "the description breaks off"),
        (paddle(VALUES, describe=b"\x08\x05\x10" + b"\xff" * 9 + b"\x01"), "positive lengths were expected"),
        (paddle(VALUES, describe=b"\x1a\x05"), "a field 3 of kind 2"),
        (paddle(VALUES, describe=b"\x10\x02\x10\x03"), r"values of type \[\]"),
        (paddle([[np.nan, 1]]), "some values are not finite"),
        (struct.pack("<IQQ", 0, 1, 2**63), "a level of 9223372036854775808 bytes"),
        (struct.pack("<IQ", 0, 2**63), "the length of a level of 8 bytes, but 0 are left"),
        (struct.pack("<IQIi", 0, 0, 0, -1), "the description of -1 bytes"),
        (struct.pack("<IQI", 0, 0, 7), "the version of the tensor is 7"),
    ],
)
def test_bad_tensors_are_refused(tmp_path, data, message):
    path = tmp_path / "crfw"
    path.write_bytes(data)
    with pytest.raises(TextError, match=message) as error:
        lac.open_tensor(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))


def test_every_cut_of_a_tensor_is_refused(tmp_path):
    path, data = tmp_path / "a", paddle(VALUES)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(TextError):
            lac.open_tensor(path)


def test_folders_that_hold_no_weights(tmp_path, monkeypatch):
    for folder, message in ((tmp_path / "none", "cannot be read"), (tmp_path, "no files in it")):
        with pytest.raises(TextError, match=message):
            lac.open_tensors(folder)
    (tmp_path / "a").write_bytes(paddle(VALUES))
    monkeypatch.setattr(lac, "MAX_FILE", 10)
    with pytest.raises(TextError, match="more than 10 bytes"):
        lac.open_tensors(tmp_path)


def test_a_changed_file_of_the_checkpoint_is_noticed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(paddle(VALUES))
    before = checkpoints.sha256(tmp_path)
    assert len(before) == 64 and checkpoints.sha256(tmp_path) == before
    (tmp_path / "b").write_bytes(paddle(VALUES + 1))
    changed = checkpoints.sha256(tmp_path)
    (tmp_path / "b").rename(tmp_path / "c")
    assert len({before, changed, checkpoints.sha256(tmp_path)}) == 3
