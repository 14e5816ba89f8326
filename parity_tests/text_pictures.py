"""Pictures of text, and both panels with the official weights that read it."""

from functools import cache

import numpy as np
import tensorflow as tf
import torch

import tf_impl.losses.ctc as tf_ctc
import torch_impl.losses.ctc as torch_ctc
import torch_impl.state
from parity_tests.harness import fingerprints
from parity_tests.harness.packages import skip_without_package
from parity_tests.harness.panels import PyTorch, TensorFlow
from weights import catalog, checkpoints, store
from weights.processing.ocr import characters, decode_text

FINGERPRINT = fingerprints.load("easyocr_english_g2_word")
CHARACTERS = characters("english_g2")


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


def read(logits) -> list[str]:
    ids, lengths = torch_ctc.greedy_decode(torch.from_numpy(np.array(logits)))
    again, _ = tf_ctc.greedy_decode(tf.constant(logits))
    np.testing.assert_array_equal(ids.numpy(), again.numpy())
    return [decode_text(row[:n], CHARACTERS) for row, n in zip(ids.numpy(), lengths.numpy())]


def draw(text: str, size: int = 24) -> np.ndarray:
    """Text in Pillow's own font."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size)
    picture = Image.new("L", (int(font.getlength(text)) + 20, size * 3 // 2), 255)
    ImageDraw.Draw(picture).text((10, size // 8), text, font=font, fill=0)
    return np.asarray(picture)
