"""Make the fingerprints of torchvision and timm models: what the reference code computes with seeded weights.

Runs in a separate environment, so that the project never depends on the packages it is measured against:

    python -m venv reference
    reference/bin/pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31
    reference/bin/python parity_tests/fingerprints/make.py --all

Every model is built without pretrained weights, filled by `weights.seeded`, and run on the seeded image on the CPU in
float32. An additional float64 run measures the rounding noise, which is printed and never stored. The format of the
files is described in README.md.
"""

import argparse
import contextlib
import copy
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
LABELS = (3, 7)
SAMPLES = 64  # values kept of every tensor
GRADIENTS = 12  # parameters whose gradient is kept
NOISE_BOUND = 2e-5  # float32 against float64; the files are compared with a bound of 1e-4
REPOSITORIES = {
    "torchvision": "pytorch/vision",
    "timm": "huggingface/pytorch-image-models",
    "megvii": "megvii-model/ShuffleNet-Series",
}
MEGVII = "commit aa91feb"  # no package: its folder ShuffleNetV1 must be on PYTHONPATH

RESNET = ("layer1", "layer2", "layer3", "layer4")
HRNET = ("incre_modules.0", "incre_modules.1", "incre_modules.2", "incre_modules.3")
RESNETV2 = ("stages.0", "stages.1", "stages.2", "stages.3")
MOBILENET = ("features.3", "features.6", "features.13", "features.17")
EFFICIENTNET = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")
SHUFFLENET_V1 = ("features.3", "features.11", "features.15")
SHUFFLENET = ("stage2", "stage3", "stage4")
XCEPTION = ("block1", "block2", "block11", "block12")
INCEPTION_V4 = ("features.3", "features.9", "features.17", "features.21")
INCEPTION_RESNET_V2 = ("conv2d_4a", "repeat", "repeat_1", "conv2d_7b")
INCEPTION_V3 = ("Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c")
GOOGLENET = ("conv3", "inception3b", "inception4e", "inception5b")


@dataclass(frozen=True)
class Model:
    """One line of the table: a builder of a package, its options, and the modules that give C2 to C5."""

    package: str
    builder: str
    levels: tuple[str, ...]
    options: dict = field(default_factory=dict)
    size: tuple[int, int] = (97, 131)  # odd and not square: symmetric sizes hide swaps and one-sided padding
    train: bool = False  # also the logits in training mode (batch statistics, no dropout)
    loss: bool = False  # also the cross-entropy and its gradients


# Where gradients are kept, the size was chosen among some 300 so that no input of a ReLU (evaluation mode) lies within
# rounding of its kink: elsewhere single activations switch on or off, which moves a gradient by up to 5e-3.
MODELS = {
    "torchvision_mobilenet_v2": Model("torchvision", "mobilenet_v2", MOBILENET, size=(69, 91), train=True, loss=True),
    "torchvision_mobilenet_v2_w035": Model("torchvision", "mobilenet_v2", MOBILENET, {"width_mult": 0.35}),
    "torchvision_mobilenet_v2_w140": Model("torchvision", "mobilenet_v2", MOBILENET, {"width_mult": 1.4}),
    "torchvision_resnet18": Model("torchvision", "resnet18", RESNET, size=(67, 77), train=True, loss=True),
    "torchvision_resnet34": Model("torchvision", "resnet34", RESNET),
    "torchvision_resnet50": Model("torchvision", "resnet50", RESNET, size=(69, 125), train=True, loss=True),
    "torchvision_resnet101": Model("torchvision", "resnet101", RESNET),
    "torchvision_resnet152": Model("torchvision", "resnet152", RESNET),
    "torchvision_wide_resnet50_2": Model("torchvision", "wide_resnet50_2", RESNET),
    "torchvision_wide_resnet101_2": Model("torchvision", "wide_resnet101_2", RESNET),
    "torchvision_resnext50_32x4d": Model("torchvision", "resnext50_32x4d", RESNET),
    "timm_resnet18d": Model("timm", "resnet18d", RESNET),
    "timm_resnet50c": Model("timm", "resnet50c", RESNET),
    "timm_resnet50d": Model("timm", "resnet50d", RESNET, size=(67, 85), loss=True),
    "timm_resnet50s": Model("timm", "resnet50s", RESNET),
    "timm_resnet101d": Model("timm", "resnet101d", RESNET),
    "timm_resnet152d": Model("timm", "resnet152d", RESNET),
    "timm_resnet50_gn": Model("timm", "resnet50_gn", RESNET),
    "timm_resnet50_os16": Model("timm", "resnet50", RESNET, {"output_stride": 16}),
    "timm_resnet50_os8": Model("timm", "resnet50", RESNET, {"output_stride": 8}),
    "timm_resnetv2_18": Model("timm", "resnetv2_18", RESNETV2),
    "timm_resnetv2_34": Model("timm", "resnetv2_34", RESNETV2),
    "timm_resnetv2_50": Model("timm", "resnetv2_50", RESNETV2, size=(63, 71), loss=True),
    "timm_resnetv2_101": Model("timm", "resnetv2_101", RESNETV2),
    "timm_resnetv2_50d": Model("timm", "resnetv2_50d", RESNETV2),
    "torchvision_squeezenet1_0": Model(
        "torchvision", "squeezenet1_0", ("features.1", "features.5", "features.10", "features.12")
    ),
    "torchvision_squeezenet1_1": Model(
        "torchvision", "squeezenet1_1", ("features.1", "features.4", "features.7", "features.12"), loss=True
    ),
    "torchvision_shufflenet_v2_x0_5": Model("torchvision", "shufflenet_v2_x0_5", SHUFFLENET, train=True, loss=True),
    "torchvision_shufflenet_v2_x1_0": Model("torchvision", "shufflenet_v2_x1_0", SHUFFLENET),
    "torchvision_mobilenet_v3_large": Model(
        "torchvision", "mobilenet_v3_large", ("features.1", "features.6", "features.12", "features.15"), loss=True
    ),
    "torchvision_mobilenet_v3_small": Model(
        "torchvision", "mobilenet_v3_small", ("features.1", "features.3", "features.8", "features.11"), train=True
    ),
    "torchvision_mobilenet_v3_small_dilated": Model(
        "torchvision",
        "mobilenet_v3_small",
        ("features.1", "features.3", "features.8", "features.11"),
        {"reduced_tail": True, "dilated": True},
    ),
    "timm_tf_efficientnet_b0": Model("timm", "tf_efficientnet_b0", EFFICIENTNET, train=True, loss=True),
    "timm_tf_efficientnet_b1": Model("timm", "tf_efficientnet_b1", EFFICIENTNET, size=(96, 131)),
    "timm_tf_efficientnet_lite0": Model("timm", "tf_efficientnet_lite0", EFFICIENTNET),
    "torchvision_googlenet": Model("torchvision", "googlenet", GOOGLENET, {"init_weights": False}, train=True),
    "torchvision_googlenet_transform_input": Model(
        "torchvision",
        "googlenet",
        GOOGLENET,
        {"aux_logits": False, "transform_input": True, "init_weights": False},
        loss=True,
    ),
    "megvii_shufflenet_v1_g3_x0_5": Model(
        "megvii", "0.5x", SHUFFLENET_V1, {"group": 3}, size=(197, 221), train=True, loss=True
    ),
    "megvii_shufflenet_v1_g8_x0_5": Model("megvii", "0.5x", SHUFFLENET_V1, {"group": 8}, size=(197, 221)),
    "torchvision_inception_v3": Model(
        "torchvision", "inception_v3", INCEPTION_V3, {"init_weights": False}, size=(395, 397), train=True
    ),
    "torchvision_inception_v3_transform_input": Model(
        "torchvision",
        "inception_v3",
        INCEPTION_V3,
        {"aux_logits": False, "transform_input": True, "init_weights": False},
        loss=True,
    ),
    "timm_legacy_xception": Model("timm", "legacy_xception", XCEPTION, train=True),
    "timm_legacy_xception_10": Model(
        "timm", "legacy_xception", XCEPTION, {"num_classes": 10}, size=(71, 82), loss=True
    ),
    "timm_inception_v4": Model("timm", "inception_v4", INCEPTION_V4, size=(139, 122)),
    "timm_inception_v4_10": Model("timm", "inception_v4", INCEPTION_V4, {"num_classes": 10}, loss=True),
    "timm_inception_resnet_v2": Model("timm", "inception_resnet_v2", INCEPTION_RESNET_V2, size=(139, 122), train=True),
    "timm_inception_resnet_v2_10": Model(
        "timm", "inception_resnet_v2", INCEPTION_RESNET_V2, {"num_classes": 10}, size=(99, 123), loss=True
    ),
    "timm_resnetv2_50x1_bit": Model("timm", "resnetv2_50x1_bit", RESNETV2, {"in_chans": 3, "num_classes": 1000}),
    "timm_legacy_seresnet18": Model(
        "timm", "legacy_seresnet18", RESNET, {"drop_rate": 0.0}, size=(65, 66), train=True, loss=True
    ),
    "timm_legacy_seresnet50": Model("timm", "legacy_seresnet50", RESNET),
    "timm_legacy_seresnext26_32x4d": Model("timm", "legacy_seresnext26_32x4d", RESNET, size=(65, 66), loss=True),
    "timm_legacy_senet154": Model("timm", "legacy_senet154", RESNET, {"layers": (1, 2, 1, 1)}),
    "timm_res2net50_26w_4s": Model("timm", "res2net50_26w_4s", RESNET, size=(65, 66), loss=True),
    "timm_res2net50_26w_4s_1211": Model("timm", "res2net50_26w_4s", RESNET, {"layers": (1, 2, 1, 1)}, train=True),
    "timm_res2net50_14w_8s": Model("timm", "res2net50_14w_8s", RESNET),
    "timm_res2net50d": Model("timm", "res2net50d", RESNET),
    "timm_res2next50": Model("timm", "res2next50", RESNET),
    "timm_resnest14d": Model("timm", "resnest14d", RESNET, size=(65, 66), train=True, loss=True),
    "timm_resnest50d_1s4x24d": Model("timm", "resnest50d_1s4x24d", RESNET),
    "timm_resnest50d_4s2x40d": Model("timm", "resnest50d_4s2x40d", RESNET),
    "timm_hrnet_w18_small_v2": Model("timm", "hrnet_w18_small_v2", HRNET, size=(64, 96), train=True, loss=True),
    "timm_hrnet_w18": Model("timm", "hrnet_w18", HRNET, size=(64, 96)),
}


def build(model):
    """Build the reference network with its own initial weights."""
    if model.package == "torchvision":
        import torchvision

        return getattr(torchvision.models, model.builder)(weights=None, **model.options)
    if model.package == "megvii":
        from network import ShuffleNetV1

        return ShuffleNetV1(model_size=model.builder, **model.options)
    import timm

    return timm.create_model(model.builder, pretrained=False, **model.options)


def fill(network):
    """Fill every entry of the state_dict by the seeded rule; return the names that the rule leaves as built."""
    from weights.seeded import seeded

    state = network.state_dict()
    values = seeded({name: tuple(tensor.shape) for name, tensor in state.items()})
    first, filled, left = {}, {}, []
    for name, tensor in state.items():
        owner = first.setdefault((tensor.data_ptr(), tensor.shape) if tensor.numel() else name, name)
        if owner in values:  # a tensor under several names takes the value of the first
            filled[name] = tensor.new_tensor(values[owner])  # keeps the dtype
        else:
            filled[name] = tensor
            left.append(name)
    network.load_state_dict(filled, strict=True)
    return left


def run(network, model, image):
    """Run the network.  Returns the outputs, the loss terms and the gradients as float64 numpy arrays."""
    import torch
    import torch.nn.functional as F

    outputs, features = {}, {}

    def keep(name):
        # cloned, because a later in-place activation may write into the same memory
        return lambda module, args, result: features.__setitem__(name, result.detach().clone())

    network.eval()
    hooks = [network.get_submodule(level).register_forward_hook(keep(level)) for level in model.levels]
    with torch.set_grad_enabled(model.loss):
        logits = network(image)
    for hook in hooks:
        hook.remove()
    for index, level in enumerate(model.levels):
        outputs[f"features.{index}"] = features[level]
    outputs["logits"] = logits.detach()

    terms, gradients = {}, {}
    if model.loss:
        loss = F.cross_entropy(logits, torch.tensor(LABELS))
        loss.backward()
        terms["cross_entropy"] = loss.item()
        named = [(name, parameter) for name, parameter in network.named_parameters() if parameter.requires_grad]
        for index in np.unique(np.round(np.linspace(0, len(named) - 1, GRADIENTS))).astype(int):
            name, parameter = named[index]
            gradients[name] = parameter.grad.detach()

    if model.train:
        training = copy.deepcopy(network).train()
        for module in training.modules():
            if isinstance(module, torch.nn.modules.dropout._DropoutNd):
                module.eval()
        with torch.no_grad():
            result = training(image)
        # a named tuple where there are auxiliary heads
        results = result._asdict() if isinstance(result, tuple) else {"logits": result}
        outputs |= {f"train.{key}": tensor for key, tensor in results.items()}

    def to_numpy(tensors):
        return {name: tensor.double().numpy() for name, tensor in tensors.items()}

    return to_numpy(outputs), terms, to_numpy(gradients)


def digits(number):
    """Seven significant digits, as float32 carries."""
    return float(f"{float(number):.7g}")


def sample(array):
    """The flat positions that a file keeps of a tensor."""
    return np.unique(np.round(np.linspace(0, array.size - 1, min(SAMPLES, array.size)))).astype(int)


def summary(array):
    """Shape, moments and sampled values of one output tensor."""
    return {
        "shape": list(array.shape),
        "mean": digits(array.mean()),
        "std": digits(array.std()),
        "absmax": digits(np.abs(array).max()),
        "values": [digits(value) for value in array.ravel()[sample(array)]],
    }


def relative(value, exact):
    """Relative L2 distance."""
    return float(np.linalg.norm(np.subtract(value, exact)) / max(np.linalg.norm(exact), 1e-30))


def notes(model):
    """What the outputs and the loss are, in words."""
    parts = [f"features.0 to features.{len(model.levels) - 1} are the outputs of {', '.join(model.levels)}."]
    if model.levels is RESNETV2:
        parts.append("They are taken before the final norm.")
    if model.train:
        parts.append("train.logits: training mode, batch statistics, no dropout.")
    if model.loss:
        parts.append(
            "loss: mean cross-entropy of the logits with the labels, evaluation mode. The gradient of the classifier "
            "sums to 0 over the classes, so its mean is rounding only."
        )
    return " ".join(parts)


def fingerprint(name):
    """Build, fill and run one model.

    Returns:
        The content of its file, and the largest relative L2 distance between the float32 and the float64 run over the
        outputs, the loss terms and the gradients.
    """
    import torch

    from weights.seeded import seeded_image

    model = MODELS[name]
    network = build(model)
    left = fill(network)
    arguments = ", ".join(f"{key}={value!r}" for key, value in model.options.items())
    version = MEGVII if model.package == "megvii" else metadata.version(model.package).split("+")[0]
    image = seeded_image(2, *model.size)

    outputs, terms, gradients = run(network, model, torch.from_numpy(image))
    network.zero_grad()
    exact = run(network.double(), model, torch.from_numpy(image).double())
    noise = max(
        relative(kind[key], other[key]) for kind, other in zip((outputs, terms, gradients), exact) for key in kind
    )
    for key, array in outputs.items():
        if not np.isfinite(array).all():
            raise ArithmeticError(f"{name}: {key} is not finite")

    data = {
        "reference": {
            "repository": REPOSITORIES[model.package],
            "version": version,
            "model": f"{model.builder}({arguments})",
        },
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "weights": "seeded",
        "mode": "eval",
        "left_as_built": left,
        "inputs": {
            "image": {
                "shape": list(image.shape),
                "rule": "in this order from one numpy.random.default_rng(0): standard_normal(shape), float32",
            }
        },
        "outputs": {key: summary(array) for key, array in outputs.items()},
        "notes": notes(model),
        "tensors": [[key, list(tensor.shape)] for key, tensor in network.state_dict().items()],
    }
    if model.loss:
        data["inputs"]["labels"] = {"shape": [len(LABELS)], "data": [float(label) for label in LABELS]}
        data["loss"] = {
            "mode": "eval",
            "terms": {key: digits(value) for key, value in terms.items()},
            "gradients": {key: [digits(np.linalg.norm(g)), digits(g.mean())] for key, g in gradients.items()},
        }
    return data, noise


def write(path, data):
    """Write compact JSON to a temporary file and move it into place."""
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            json.dump(data, stream, separators=(",", ":"), allow_nan=False)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def difference(stored, made):
    """Compare two fingerprints.  Returns the largest relative L2 distance, or infinity where they differ in kind."""
    for key in ("parameters", "tensors", "left_as_built", "inputs"):
        if stored.get(key) != made[key]:
            return float("inf")
    if list(stored["outputs"]) != list(made["outputs"]) or ("loss" in stored) != ("loss" in made):
        return float("inf")
    worst = 0.0
    for key, output in made["outputs"].items():
        if stored["outputs"][key]["shape"] != output["shape"]:
            return float("inf")
        worst = max(worst, relative(stored["outputs"][key]["values"], output["values"]))
    if "loss" in made:
        for kind in ("terms", "gradients"):
            if list(stored["loss"][kind]) != list(made["loss"][kind]):
                return float("inf")
        terms = made["loss"]["terms"]
        worst = max(worst, relative(list(stored["loss"]["terms"].values()), list(terms.values())))
        for key, (norm, _) in made["loss"]["gradients"].items():
            worst = max(worst, relative(stored["loss"]["gradients"][key][0], norm))
    return worst


def main(arguments=None):
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="make.py",
        description="Make fingerprints of torchvision and timm models under seeded weights.",
        epilog="Needs an environment with torch==2.14.1 torchvision==0.29.1 timm==1.0.31.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="models to make, see --list")
    parser.add_argument("--all", action="store_true", help="every model of the table")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    parser.add_argument("--output", type=Path, default=HERE, metavar="DIR", help="folder of the files (default: here)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads of PyTorch (default: its own)")
    options = parser.parse_args(arguments)

    if options.list:
        print("\n".join(MODELS))
        return 0
    if options.all == bool(options.names):
        parser.error("give either names or --all")
    unknown = [name for name in options.names if name not in MODELS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; --list shows the names")
    if not options.output.is_dir():
        parser.error(f"--output: {options.output} is not a folder")

    import torch

    if options.threads:
        torch.set_num_threads(options.threads)

    failed = 0
    print(f"{'model':32}{'parameters':>12}{'tensors':>9}{'noise':>10}{'bytes':>8}{'seconds':>9}")
    for name in MODELS if options.all else options.names:
        start = time.perf_counter()
        data, noise = fingerprint(name)
        path = options.output / f"{name}.json"
        remark = "" if noise < NOISE_BOUND else f"  noise above {NOISE_BOUND:g}"
        if options.check:
            worst = difference(json.loads(path.read_text(encoding="utf-8")), data) if path.exists() else float("inf")
            failed += not worst < 1e-4
            remark += f"  differs from the file by {worst:.1e}"
        else:
            write(path, data)
        size = path.stat().st_size if path.exists() else 0
        seconds = time.perf_counter() - start
        print(
            f"{name:32}{data['parameters']:12}{len(data['tensors']):9}{noise:10.1e}{size:8}{seconds:9.1f}{remark}",
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parents[1]))  # the project's root, for `weights`
    sys.exit(main())
