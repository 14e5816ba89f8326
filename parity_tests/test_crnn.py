"""CRNN: the recurrent layer, real weights that read real text in four engines, and training on drawn text."""

import base64
import zlib
from functools import cache

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch

import tf_impl.export
import tf_impl.layers.recurrent as tf_recurrent
import tf_impl.losses.ctc as tf_ctc
import tf_impl.ocr.crnn as tf_crnn
import tf_impl.state
import torch_impl.export
import torch_impl.layers.recurrent as torch_recurrent
import torch_impl.losses.ctc as torch_ctc
import torch_impl.ocr.crnn as torch_crnn
import torch_impl.state
from parity_tests.harness import fingerprints
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.harness.vocabulary import to_keras
from weights import catalog, checkpoints, onnx_file, store
from weights.processing import decoding
from weights.processing.images import PictureError
from weights.processing.ocr import characters, decode_text, line_input

# the recurrent layer

FORMS = {
    "plain": {},
    "both directions": {"bidirectional": True},
    "stacked": {"num_layers": 3, "bidirectional": True},
    "without biases": {"bias": False, "num_layers": 2},
    "batch first": {"batch_first": True, "bidirectional": True},
}


def keras_layer(form):
    """TensorFlow's layer of four units, built for inputs of width 5."""
    layer = tf_recurrent.LSTM(4, **to_keras(tf_recurrent.LSTM, form))
    return tf_impl.state.build(layer, {"x": ((3, 5), layer.compute_dtype)})


def recurrent_twins(form, with_state):
    """TensorFlow's and PyTorch's layer of the same weights, inputs, and what they return."""
    torch.manual_seed(0)
    theirs = torch.nn.LSTM(5, 4, **form).double()
    keras.config.set_dtype_policy("float64")
    try:
        ours = keras_layer(form)
    finally:
        keras.config.set_dtype_policy("float32")
    assert list(tf_impl.state.variables(ours)) == list(theirs.state_dict()), "names and their order"
    tf_impl.state.load_state_dict(ours, torch_impl.state.state_dict(theirs))
    rng = np.random.default_rng(0)
    count = form.get("num_layers", 1) * (1 + form.get("bidirectional", False))
    arrays = [rng.standard_normal((7, 3, 5))]
    if with_state:
        batch = 7 if form.get("batch_first") else 3
        arrays += [rng.standard_normal((count, batch, 4)) for _ in "hc"]
    return ours, theirs, arrays


@pytest.mark.parametrize("with_state", [False, True], ids=["from zero", "from a state"])
@pytest.mark.parametrize("name", FORMS)
def test_recurrent_layer_and_its_gradients(name, with_state):
    ours, theirs, arrays = recurrent_twins(FORMS[name], with_state)

    def total(y, h, c, cos, sum_):
        return sum_(y * cos(y)) + 2 * sum_(h) + 3 * sum_(c * c)

    given = [torch.from_numpy(a).requires_grad_() for a in arrays]
    y, (h, c) = theirs(given[0], tuple(given[1:]) or None)
    total(y, h, c, torch.cos, torch.sum).backward()
    tensors = [tf.constant(a) for a in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        found = ours(tensors[0], tuple(tensors[1:]) or None)
        value = total(found[0], *found[1], tf.cos, tf.reduce_sum)
    for a, b in zip((found[0], *found[1]), (y, h, c), strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=0, atol=1e-14)
    variables = [variable for variable, _ in tf_impl.state.variables(ours).values()]
    gradients = tape.gradient(value, tensors + [v.value for v in variables])
    for a, b in zip(gradients, [g.grad for g in given] + [p.grad for p in theirs.parameters()], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=1e-12)


def test_recurrent_layer_in_a_graph_of_any_length():
    ours, theirs, _ = recurrent_twins(FORMS["both directions"], False)
    graph = tf.function(lambda x: ours(x)[0], input_signature=[tf.TensorSpec((None, None, 5), tf.float64)])
    for length, batch in ((7, 3), (1, 1), (12, 2)):
        x = np.random.default_rng(1).standard_normal((length, batch, 5))
        expected = theirs(torch.from_numpy(x))[0].detach().numpy()
        np.testing.assert_allclose(graph(tf.constant(x)).numpy(), expected, rtol=0, atol=1e-14)


class KerasReader(keras.layers.Layer):
    """A recurrent layer as a model of tensors."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def call(self, x, h, c, lengths, training=False):
        y, (h, c) = self.lstm(x, (h, c), lengths)
        return {"y": y, "last_h": h, "last_c": c}


class TorchReader(torch.nn.Module):
    """The same."""

    def __init__(self, lstm):
        super().__init__()
        self.lstm = lstm

    def forward(self, x, h, c, lengths):
        y, (h, c) = self.lstm(x, (h, c), lengths)
        return {"y": y, "last_h": h, "last_c": c}


@pytest.mark.parametrize("name", FORMS)
def test_recurrent_layer_is_one_operator_per_layer_in_onnx(name, tmp_path):
    form, rng = FORMS[name], np.random.default_rng(0)
    theirs, ours = torch_recurrent.LSTM(5, 4, **form), keras_layer(form)
    tf_impl.state.load_state_dict(ours, torch_impl.state.state_dict(theirs))
    layers, batch_first = form.get("num_layers", 1), form.get("batch_first")
    states = (layers * (1 + form.get("bidirectional", False)), 3, 4)
    shapes = {"x": (3, 7, 5) if batch_first else (7, 3, 5), "h": states, "c": states}
    inputs = {key: rng.standard_normal(shape).astype(np.float32) for key, shape in shapes.items()}
    inputs["lengths"] = np.array([4, 7, 1])
    dynamic = {key: (None, "N") for key in ("x", "h", "c")} | ({"x": ("N",)} if batch_first else {})
    found = []
    for package, reader in ((tf_impl.export, KerasReader(ours)), (torch_impl.export, TorchReader(theirs))):
        path = package.export(reader, tmp_path / "lstm.onnx", inputs, dynamic=dynamic)
        assert onnx_file.histogram(onnx.load(path))["LSTM"] == layers
        found.append(onnx_file.run(onnx_file.session(path, threads=1), inputs))
    with torch.no_grad():
        expected = TorchReader(theirs)(*(torch.from_numpy(value) for value in inputs.values()))
    for key, value in expected.items():
        for file in found:
            np.testing.assert_allclose(file[key], value.numpy(), rtol=0, atol=1e-6)


# the network


def test_height_must_end_at_one():
    for model, picture in (
        (tf_crnn.crnn(base=1, nh=2), tf.zeros((1, 48, 40, 1))),
        (torch_crnn.crnn(base=1, nh=2), torch.zeros(1, 1, 48, 40)),
    ):
        with pytest.raises(ValueError, match="pictures must be 32 pixels high; 48 leave 2 rows"):
            model(picture)


@pytest.mark.parametrize("width, steps", [(100, 26), (128, 33), (37, 10)])
def test_steps_are_one_more_than_a_quarter_of_the_width(width, steps):
    assert tf_crnn.crnn(base=1, nh=2)(tf.zeros((2, 32, width, 1))).shape == (steps, 2, 37)
    assert torch_crnn.crnn(base=1, nh=2)(torch.zeros(2, 1, 32, width)).shape == (steps, 2, 37)


# real weights

FINGERPRINT = fingerprints.load("easyocr_english_g2_word")
CHARACTERS = characters("english_g2")
# (left, top, right, bottom) in scikit-image's photograph of a printed page
PAGE = {
    "Region-based segmentation": (3, 10, 296, 35),
    "Region-based": (3, 10, 146, 35),
    "Let us first": (3, 48, 84, 66),
    "determine": (88, 50, 161, 66),
    "coins and the": (281, 48, 380, 66),
    "These markers": (86, 68, 190, 84),
    "pixels that we can": (217, 68, 345, 86),
    "found at the": (113, 104, 204, 120),
    "the two extreme": (178, 104, 297, 122),
    "histogram of grey values:": (4, 116, 172, 138),
}
DRAWN = ("Hello42", "TensorFlow", "PyTorch", "The quick brown fox", "2026-11-24", "$1,234.56", "Keras 3")


@cache
def official():
    """The tensors of the official checkpoint; the test is skipped where its package is not installed."""
    with skip_without_package():
        entry, path = checkpoints.fetch(catalog.get("crnn_english_g2"))
    return store.rename(torch_impl.state.open_checkpoint(path), entry.rename)


@cache
def readers():
    """Both panels with the official weights."""
    tensors = official()
    found = []
    for panel in (TensorFlow, PyTorch):
        found.append(panel(catalog.get("crnn_english_g2"), {}, precision="float32"))
        found[-1].load(tensors)
    return found


def engines(height, width, pictures, folder):
    """Logits of the four engines by name."""
    found = {}
    for panel in readers():
        inputs = {"images": pictures}
        found[f"{panel.package} eager"] = panel.outputs(inputs)["logits"]
        example = {"images": np.random.default_rng(0).standard_normal((2, 1, height, width))}
        path = panel.export(folder / f"{panel.package}.onnx", example, None, {})
        session = onnx_file.session(path, threads=1)
        operators = onnx_file.histogram(onnx.load(path))
        assert operators["LSTM"] == 2
        assert not {"Gather", "GatherND", "Slice", "Split"} & set(operators), "the weights are not sorted in the graph"
        found[f"{panel.package} ONNX"] = onnx_file.run(session, {"images": pictures.astype(np.float32)})["logits"]
    return found


def read(logits) -> list[str]:
    ids, lengths = torch_ctc.greedy_decode(torch.from_numpy(np.array(logits)))
    again, _ = tf_ctc.greedy_decode(tf.constant(logits))
    np.testing.assert_array_equal(ids.numpy(), again.numpy())
    return [decode_text(row[:n], CHARACTERS) for row, n in zip(ids.numpy(), lengths.numpy())]


def fingerprint_picture():
    described = FINGERPRINT["inputs"]["image"]
    values = np.frombuffer(zlib.decompress(base64.b64decode(described["data"])), np.uint8).reshape(described["shape"])
    return ((values / 255 - 0.5) / 0.5)[None, None]


def test_names_and_size_are_the_checkpoints():
    assert {name: list(array.shape) for name, array in official().items()} == dict(FINGERPRINT["tensors"])
    assert torch_crnn.crnn_english_g2().state_dict().keys() == official().keys()
    assert FINGERPRINT["characters"] == CHARACTERS and len(CHARACTERS) == 96


@pytest.mark.parametrize("which", [0, 1], ids=["tensorflow", "pytorch"])
def test_every_stage_is_easyocrs(which):
    panel = readers()[which]
    calls = panel.record({"images": fingerprint_picture()})

    def output(name):
        return calls[name][-1][1][0]

    feature = output("FeatureExtraction")  # (B, C, 1, T)
    stages = {
        "feature": feature if feature.shape[1] == 256 else feature.transpose(0, 3, 1, 2),
        "sequence0": output("SequenceModeling.0").transpose(1, 0, 2),  # batch first there
        "sequence1": output("SequenceModeling.1").transpose(1, 0, 2),
        "logits": output("Prediction").transpose(1, 0, 2),
    }
    for name, found in stages.items():
        for figure in compare_with_fingerprint(name, found, FINGERPRINT["outputs"][name]):
            assert figure.relative <= 1e-5, figure
    assert stages["logits"][0].argmax(-1).tolist() == FINGERPRINT["argmax"]


def test_four_engines_read_the_fingerprints_word(tmp_path):
    found = engines(32, 100, fingerprint_picture(), tmp_path)
    for name, logits in found.items():
        assert read(logits) == ["Hello42"], name
        assert onnx_file.relative(logits, found["torch_impl eager"]) <= 1e-5


def test_four_engines_read_a_printed_page(tmp_path):
    """Crops of a photograph, one batch; the last is handwritten mathematics, of which all must read the same."""
    from skimage import data

    page, formula = data.page(), line_input(data.text(), box=(0, 40, 448, 120), width=800)
    pictures = np.concatenate([*(line_input(page, box=box, width=800) for box in PAGE.values()), formula])
    found = {name: read(logits) for name, logits in engines(64, 800, pictures, tmp_path).items()}
    for name, texts in found.items():
        assert texts[:-1] == list(PAGE), name
        assert texts[-1] == found["torch_impl eager"][-1], name


def draw(text: str, size: int = 24) -> np.ndarray:
    """Text in Pillow's own font."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    picture = Image.new("L", (int(font.getlength(text)) + 20, size * 3 // 2), 255)
    ImageDraw.Draw(picture).text((10, size // 8), text, font=font, fill=0)
    return np.asarray(picture)


@pytest.mark.parametrize("text", DRAWN)
def test_drawn_words_at_their_own_width(text):
    picture = line_input(draw(text))
    panels = readers()
    logits = [panel.outputs({"images": picture})["logits"] for panel in panels]
    assert read(logits[0]) == read(logits[1]) == [text]
    log_p = decoding.log_softmax(logits[1][:, 0])
    best, score = decoding.prefix_beam_search(log_p, beam_width=5)[0]
    assert decode_text(best, CHARACTERS) == text
    # the alignments that a narrow beam dropped are missing
    assert -0.2 < score - decoding.log_probability(log_p, best) <= 1e-6


@pytest.mark.parametrize(
    "word, box, stain",
    [("segmentation", (148, 10, 296, 35), 5 / 8), ("determine", (88, 50, 161, 66), 4 / 8)],
    ids=["segmentation", "determine"],
)
def test_a_lexicon_repairs_what_is_read_wrong(word, box, stain):
    """A printed word with a stain over one letter."""
    from skimage import data

    words = ["determine", "determined", "markers", "marked", "segment", "segmentation"]
    tree = decoding.BKTree([tuple(CHARACTERS.index(c) + 1 for c in known) for known in words])
    picture = line_input(data.page(), box=box)
    left = int(picture.shape[3] * stain)
    picture[..., 16:48, left : left + 20] = 0.2
    logits = readers()[1].outputs({"images": picture})["logits"]
    assert read(logits) != [word]
    found = decoding.lexicon_decode(decoding.log_softmax(logits[:, 0]), tree)
    assert decode_text(found, CHARACTERS) == word


# pictures


def test_line_input_keeps_the_ratio_and_pads_with_the_last_column():
    picture = np.tile(np.arange(40, dtype=np.uint8) * 5, (20, 1))
    found = line_input(picture, 64)
    assert found.shape == (1, 1, 64, 128) and found.dtype == np.float32
    assert found.min() >= -1 and found.max() <= 1
    padded = line_input(picture, 64, 160)
    np.testing.assert_array_equal(padded[..., :128], found)
    np.testing.assert_array_equal(padded[..., 128:], np.broadcast_to(found[..., -1:], (1, 1, 64, 32)))
    assert line_input(picture, 64, 90).shape == (1, 1, 64, 90)
    assert line_input(picture, 32, 100, keep_ratio=False, interpolation="bilinear").shape == (1, 1, 32, 100)
    assert line_input(picture[:, :2]).shape == (1, 1, 64, 16), "never too narrow for one step"


@pytest.mark.parametrize("box", [(0, 0, 0, 5), (0, 0, 41, 5), (-1, 0, 5, 5), (3, 9, 9, 3)])
def test_line_input_refuses_boxes_outside_the_picture(box):
    with pytest.raises(PictureError, match="must lie inside the picture of 40 x 20 pixels"):
        line_input(np.zeros((20, 40), np.uint8), box=box)


def test_line_input_needs_a_width_to_stretch_to():
    with pytest.raises(ValueError, match="width must be given"):
        line_input(np.zeros((20, 40), np.uint8), keep_ratio=False)


def test_decode_text_drops_blanks_and_padding():
    assert decode_text([18, 0, 15, -1, -1], CHARACTERS) == CHARACTERS[17] + CHARACTERS[14]


# training

WORDS = ("10", "7", "302", "44")


def test_training_on_drawn_digits_reads_them_in_the_end():
    """Trained in PyTorch, read in both panels."""
    pictures = np.concatenate([line_input(draw(word), 32, 48) for word in WORDS])
    labels = np.array([[int(c) + 1 for c in word.ljust(3, "0")] for word in WORDS])
    targets = {"labels": labels, "input_lengths": np.full(4, 13), "label_lengths": np.array([len(w) for w in WORDS])}
    torch.manual_seed(0)
    model = torch_crnn.crnn(base=8, nh=32, num_classes=11)
    criterion = torch_crnn.CTCCriterion()
    x, y = torch.from_numpy(pictures), {name: torch.from_numpy(value) for name, value in targets.items()}
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    model.train()
    losses = []
    for _ in range(500):  # after half as many the loss is small, but the running statistics read other digits
        optimiser.zero_grad()
        loss = criterion(model(x), y)["total"]
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.01 * losses[0], losses
    tensors = torch_impl.state.state_dict(model.eval())
    twin = tf_crnn.crnn(base=8, nh=32, num_classes=11)
    twin(tf.constant(pictures[:1].transpose(0, 2, 3, 1)))
    tf_impl.state.load_state_dict(twin, tensors)
    with torch.no_grad():
        by_torch = torch_crnn.CRNNPostProcess()(model(x))
    by_tf = tf_crnn.CRNNPostProcess()(twin(tf.constant(pictures.transpose(0, 2, 3, 1))))
    for results in (by_torch, by_tf):
        ids, lengths = (np.asarray(results[key]) for key in ("ids", "lengths"))
        assert [decode_text(row[:n], "0123456789") for row, n in zip(ids, lengths)] == list(WORDS)


# the Khmer reader

KHMER = ("សាលា", "១២៣៤៥", "ភាសាខ្មែរ", "កម្ពុជា", "រាជធានី")


def test_khmer_words_are_read_by_both_panels():
    """Words in a font that the checkpoint's package ships, with its subscripts; each at its own width."""
    from PIL import Image, ImageDraw, ImageFont

    model = catalog.get("crnn_khmer")
    with skip_without_package():
        entry, path = checkpoints.fetch(model)
    tensors, letters = torch_impl.state.open_checkpoint(path), characters(entry.classes)
    assert len(letters) == 983 and path.name == "model.pth"
    font = ImageFont.truetype(path.parent / "fonts/khmer/Angkor.ttf", 32)
    panels = [panel(model, {}, precision="float32") for panel in (TensorFlow, PyTorch)]
    for panel in panels:
        panel.load(tensors)
    for word in KHMER:
        drawn = Image.new("L", (int(font.getlength(word)) + 20, 64), 255)
        ImageDraw.Draw(drawn).text((10, 32), word, font=font, fill=0, anchor="lm")
        picture = line_input(np.asarray(drawn), 48, interpolation="bilinear")
        ours, theirs = (panel.outputs({"images": picture})["logits"] for panel in panels)
        assert onnx_file.relative(ours, theirs) <= 1e-5
        for logits in (ours, theirs):
            labels = decoding.greedy(decoding.log_softmax(logits[:, 0]))
            assert decode_text(labels, letters) == word
