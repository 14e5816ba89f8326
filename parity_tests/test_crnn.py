"""CRNN: heights and widths of images, training on drawn text, and the reader of Khmer."""

import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.ocr.crnn as tf_crnn
import tf_impl.state
import torch_impl.ocr.crnn as torch_crnn
import torch_impl.state
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch, TensorFlow
from parity_tests.text_pictures import draw
from weights import catalog, checkpoints, onnx_file
from weights.processing import decoding
from weights.processing.ocr import characters, decode_text, line_input


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
