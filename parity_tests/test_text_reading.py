"""Pictures of text that official weights read: EasyOCR's stages, and four engines."""

import base64
import zlib

import numpy as np
import onnx
import pytest

import torch_impl.ocr.crnn as torch_crnn
from parity_tests.harness.measure import compare_with_fingerprint
from parity_tests.text_pictures import CHARACTERS, FINGERPRINT, draw, official, read, readers
from weights import onnx_file
from weights.processing import decoding
from weights.processing.ocr import decode_text, line_input

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


DRAWN = ("Hello42", "TensorFlow", "PyTorch", "The quick brown fox", "2026-11-24", "$1,234.56", "Keras 3")


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
