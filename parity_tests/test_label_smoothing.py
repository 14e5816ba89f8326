"""Label smoothing of fairseq, PyTorch and Tensor2Tensor."""

import numpy as np
import pytest
import torch

import tf_impl.nlp.transformer as tf_transformer
import torch_impl.nlp.transformer as torch_transformer
from parity_tests.text_models import BOTH, TENSOR

pytestmark = pytest.mark.usefixtures("double_precision")
MODULES = (tf_transformer, torch_transformer)
PAD = 1
LOGITS = np.sin(1.1 * np.arange(20) + 0.11).reshape(1, 4, 5)


def loss(which, logits, labels, **options):
    criterion = MODULES[which].TransformerCriterion(**options)
    return {k: float(v) for k, v in criterion(TENSOR[which](logits), {"labels": TENSOR[which](labels)}).items()}


@BOTH
def test_label_smoothing_is_fairseqs_by_default(which):
    found = loss(which, LOGITS, np.arange(4)[None], padding=-1)
    assert 4 * found["total"] == pytest.approx(5.8187091720, abs=1e-9)
    # the second label is fairseq's padding
    counted = loss(which, LOGITS[:, [0, 2, 3]], np.array([[0, 2, 3]]))
    assert loss(which, LOGITS, np.arange(4)[None]) == pytest.approx(counted, rel=1e-12)


@BOTH
@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_label_smoothing_of_pytorch(which, eps):
    labels = np.array([[0, 2, 1, 4]])
    found = loss(which, LOGITS, labels, label_smoothing=eps, form="torch")
    given = torch.tensor(LOGITS[0]), torch.tensor(labels[0])
    expected = torch.nn.functional.cross_entropy(*given, ignore_index=PAD, label_smoothing=eps)
    plain = torch.nn.functional.cross_entropy(*given, ignore_index=PAD)
    assert found == pytest.approx({"nll": float(plain), "label_smoothed": float(expected), "total": float(expected)})


@BOTH
def test_tensor2tensors_loss_is_a_divergence_from_the_smoothed_target(which):
    target = np.full((1, 1, 5), 0.1 / 4)
    target[..., 3] = 0.9
    assert loss(which, np.log(target), np.array([[3]]), form="t2t")["total"] == pytest.approx(0, abs=1e-12)
    log_p = LOGITS[0, 0] - np.log(np.exp(LOGITS[0, 0]).sum())
    expected = (target[0, 0] * (np.log(target[0, 0]) - log_p)).sum()
    found = loss(which, LOGITS[:, :1], np.array([[3]]), form="t2t")["total"]
    assert found == pytest.approx(expected, rel=1e-12)
    assert loss(which, LOGITS, np.arange(4)[None], form="t2t", label_smoothing=0.0)["total"] > 0
