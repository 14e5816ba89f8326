"""Files of weights as training scripts leave them: what is read, what is said, and what is refused in one line."""

import argparse
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import tf_impl.state
import torch_impl.state
from parity_tests.harness import panels
from scripts import cli
from torch_impl.classification import resnet
from torch_impl.nlp import bert, gpt
from weights import catalog, store


@pytest.fixture(scope="module")
def weights():
    torch.manual_seed(0)
    return resnet.resnet18().state_dict()


def convert(folder, source, model="resnet18", *more, target="out.safetensors"):
    return CliRunner().invoke(
        cli.main, ["convert", str(folder / source), str(folder / target), "--model", model, *more]
    )


def refused(result, *words):
    assert result.exit_code == 2, result.output
    assert result.stderr.count("\n") == 1 and result.stdout == ""
    for word in words:
        assert word in result.stderr, result.stderr


def wrapped(weights, prefix=""):
    return {prefix + name: value for name, value in weights.items()}


FILES = {
    "dataparallel.pth": lambda w: wrapped(w, "module."),
    "model_best.pth.tar": lambda w: {"epoch": 3, "state_dict": wrapped(w, "module.")},
    "last.ckpt": lambda w: {"state_dict": wrapped(w, "model."), "hyper_parameters": {"lr": 0.1}},
    "compiled.pth": lambda w: wrapped(w, "_orig_mod."),
    "both.pth": lambda w: wrapped(w, "module._orig_mod."),
    "UPPER.PTH": lambda w: w,
    "namespace.pth": lambda w: {"model": w, "args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs"))},
    "numpy.pth": lambda w: {"model": w, "best": np.float64(71.2), "losses": np.arange(5.0), "steps": np.int64(3)},
    "net.pth": lambda w: {"net": w, "epoch": 3},
    "nested.pth": lambda w: {"checkpoint": {"weights": w, "epoch": 3}},
    "resumed.pth": lambda w: {
        "model": w,
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}},
            "param_groups": [{"lr": 1.0}],
        },
        "rng": torch.get_rng_state(),
    },
    "without_counters.pth": lambda w: {k: v for k, v in w.items() if not k.endswith("num_batches_tracked")},
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_training_scripts(name, weights, tmp_path):
    torch.save(FILES[name](weights), tmp_path / name)
    result = convert(tmp_path, name)
    assert result.exit_code == 0, result.output
    found = load_file(tmp_path / "out.safetensors")
    assert found.keys() == weights.keys() and all(torch.equal(found[key], weights[key]) for key in weights)
    assert ("prefix" in result.stderr) == any(word in name for word in ("parallel", "best", "last", "compiled", "both"))


def test_a_moving_average_is_not_passed_over(weights, tmp_path):
    average = {key: value + 1 for key, value in weights.items()}
    torch.save({"state_dict": weights, "state_dict_ema": average, "epoch": 3}, tmp_path / "ema.pth")
    refused(convert(tmp_path, "ema.pth"), "state_dict, state_dict_ema", "--key")
    with pytest.raises(ValueError, match="state_dict_ema"):
        torch_impl.state.open_checkpoint(tmp_path / "ema.pth")
    for key, expected in (("state_dict", weights), ("state_dict_ema", average)):
        assert convert(tmp_path, "ema.pth", "resnet18", "--key", key).exit_code == 0
        assert torch.equal(load_file(tmp_path / "out.safetensors")["fc.bias"], expected["fc.bias"])
    refused(convert(tmp_path, "ema.pth", "resnet18", "--key", "ema"), "'ema'", "state_dict_ema")


class Config:
    """Of a user's program: to read it would be to run it."""


def test_other_objects_are_named(weights, tmp_path):
    torch.save({"model": weights, "config": Config()}, tmp_path / "config.pth")
    refused(convert(tmp_path, "config.pth"), "Config", "model.state_dict()")


def test_a_classifier_of_another_width(weights, tmp_path):
    torch.save(resnet.resnet18(num_classes=10).state_dict(), tmp_path / "ten.pth")
    refused(convert(tmp_path, "ten.pth"), "fc.weight (10, 512)", "--option num_classes=10")
    assert convert(tmp_path, "ten.pth", "resnet18", "--option", "num_classes=10").exit_code == 0
    refused(convert(tmp_path, "ten.pth", "resnet18", "--option", "num_clases=10"), "num_clases")
    refused(convert(tmp_path, "ten.pth", "resnet18", "--option", "num_classes"), "NAME=VALUE")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_weights_that_are_not_finite_are_refused(name, value, weights, tmp_path):
    broken = {key: tensor.clone() for key, tensor in weights.items()}
    broken["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    torch.save(broken, tmp_path / name) if name.endswith("pth") else save_file(broken, tmp_path / name)
    for target in ("o.pth", "o.safetensors", "o.weights.h5"):
        refused(convert(tmp_path, name, target=target), "NaN or infinity", "layer1.0.conv1.weight")
        assert not (tmp_path / target).exists()


def test_keras_weights_that_are_not_finite_are_refused(tmp_path):
    panel = panels.TensorFlow(catalog.get("pixelgan"), {}, precision="float32")
    panel.model.weights[0].assign(tf.fill(panel.model.weights[0].shape, float("nan")))
    panel.model.save_weights(tmp_path / "x.weights.h5")
    refused(convert(tmp_path, "x.weights.h5", "pixelgan"), "NaN or infinity", "x.weights.h5")


@pytest.mark.parametrize("panel", [panels.TensorFlow, panels.PyTorch])
def test_the_library_loads_without_counters_and_refuses_what_is_not_finite(panel):
    twin = panel(catalog.get("resnet18"), {}, precision="float32")
    load = (tf_impl if panel is panels.TensorFlow else torch_impl).state.load_state_dict
    state = {name: value for name, value in twin.state().items() if not name.endswith("num_batches_tracked")}
    state["fc.bias"] = state["fc.bias"] + 1
    load(twin.model, state)
    assert np.array_equal(twin.state()["fc.bias"], state["fc.bias"])
    del state["bn1.running_mean"]
    with pytest.raises(ValueError, match=r"1 missing: bn1\.running_mean$"):
        load(twin.model, state)
    state["bn1.running_mean"] = np.full(64, np.nan, np.float32)
    with pytest.raises(ValueError, match=r"NaN or infinity in bn1\.running_mean"):
        load(twin.model, state)


def test_bfloat16_is_read(tmp_path):
    values = torch.tensor([1.0, -2.5, 3.140625, 1e30, 0.0])
    save_file({"a": values.bfloat16(), "b": torch.tensor(2.0).bfloat16()}, tmp_path / "x.safetensors")
    found = store.load(tmp_path / "x.safetensors")
    assert found["a"].dtype == np.float32 and np.array_equal(found["a"], values.bfloat16().float().numpy())
    assert found["b"].shape == () and found["b"] == 2


def test_written_files_say_that_they_are_of_pytorch(tmp_path):
    torch.save(bert.bert_tiny().state_dict(), tmp_path / "x.pth")
    assert convert(tmp_path, "x.pth", "bert_tiny").exit_code == 0
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "model": "bert_tiny"}


def google(state):
    """The layout of Google's files; the decoder's weight is that of the embedding."""
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in state.items()
        if not name.startswith("cls.predictions.decoder")
    }
    return renamed | {"bert.embeddings.position_ids": torch.arange(512)[None]}


def openai(state):
    """The layout of OpenAI's files: no prefix, and a mask in every layer."""
    bare = {name.removeprefix("transformer."): value for name, value in state.items() if not name.startswith("lm_head")}
    return bare | {"h.0.attn.bias": torch.ones(1, 1, 4, 4)}


@pytest.mark.parametrize("more", [[], ["--checkpoint"]], ids=["found", "named"])
@pytest.mark.parametrize(
    "model, build, layout, name",
    [
        ("bert_tiny", bert.bert_tiny, google, "google"),
        ("bert_mini", bert.bert_mini, google, "google"),
        ("gpt2_medium", gpt.gpt2_medium, openai, "openai"),
    ],
)
def test_published_layouts_at_every_size(model, build, layout, name, more, tmp_path):
    options = {"layers": 1, "hidden": 64} if model == "gpt2_medium" else {}
    state = build(**options).state_dict()
    torch.save(layout(state), tmp_path / "x.pth")
    said = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    result = convert(tmp_path, "x.pth", model, *said, *more, *([name] if more else []))
    assert result.exit_code == 0, result.output
    found = load_file(tmp_path / "out.safetensors")
    assert all(torch.equal(found[key], state[key]) for key in state)
    assert more or f"checkpoint {name}" in result.stderr


def test_masked_lm_weights_have_models_of_their_own(tmp_path):
    """transformers' BertForMaskedLM has neither a pooler nor a sentence relation; files with both lose them."""
    state = bert.bert_tiny().state_dict()
    alone = {name: value for name, value in state.items() if not name.startswith(("bert.pooler", "cls.seq"))}
    for name, layout in {"alone.pth": alone, "google.pth": google(state)}.items():
        torch.save(layout, tmp_path / name)
        result = convert(tmp_path, name, "bert_tiny_masked_lm")
        assert result.exit_code == 0, result.output
        found = load_file(tmp_path / "out.safetensors")
        assert found.keys() == alone.keys() and all(torch.equal(found[key], alone[key]) for key in found)
