"""Mixed precision in both panels: the loss scale step by step, skipped steps, clipping, a small model that trains."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

import tf_impl.state
import tf_impl.training.mixed_precision as tf_mixed
import torch_impl.state
import torch_impl.training.mixed_precision as torch_mixed
from parity_tests.harness.case import get
from parity_tests.harness.measure import Proof
from tf_impl.layers.convolution import Conv2D
from weights.seeded import seeded

PANELS = ("tensorflow", "pytorch")
MIXED = {"tensorflow": tf_mixed, "pytorch": torch_mixed}


def trajectory(scaler, flags):
    found = []
    for flag in flags:
        scaler.update(flag)
        found.append((float(scaler.scale), scaler.growth_tracker))
    return found


@pytest.mark.parametrize("panel", PANELS)
def test_scale_follows_the_published_steps(panel):
    scaler = MIXED[panel].DynamicLossScaler(8.0, growth_interval=2)
    found = trajectory(scaler, map(bool, (0, 0, 0, 1, 1, 0, 0)))
    assert found == list(zip((8, 16, 16, 8, 4, 4, 8), (1, 0, 1, 0, 0, 1, 0)))


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("seed", range(4))
def test_scale_follows_pytorchs_own_scaler(panel, seed):
    flags = np.random.default_rng(seed).random(200) < 0.2
    start, interval = (2.0**127, 3) if seed == 0 else (8.0, 2 + seed)  # the first one meets the largest float
    theirs = torch.amp.GradScaler("cpu", init_scale=start, growth_interval=interval)
    ours = MIXED[panel].DynamicLossScaler(start, growth_interval=interval)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 0.0)
    for flag in flags:
        parameter.grad = None
        theirs.scale(parameter * 0.0).sum().backward()
        parameter.grad.fill_(np.inf if flag else 0.0)
        theirs.step(optimizer)
        theirs.update()
        ours.update(bool(flag))
        assert ours.state_dict() == theirs.state_dict()


@pytest.mark.parametrize("panel", PANELS)
def test_scale_is_bounded_saved_and_restored(panel):
    module = MIXED[panel]
    scaler = module.DynamicLossScaler(4.0, min_scale=1.0)
    assert trajectory(scaler, [True] * 3 + [False]) == [(2, 0), (1, 0), (1, 0), (1, 1)]
    other = module.DynamicLossScaler()
    other.load_state_dict(scaler.state_dict())
    assert other.state_dict() == scaler.state_dict()
    assert trajectory(module.StaticLossScaler(512.0), [True, False]) == [(512, 0), (512, 0)]


@pytest.mark.parametrize("panel", PANELS)
def test_unscaling_finds_what_is_not_finite_and_is_exact(panel):
    scaler = MIXED[panel].DynamicLossScaler(2.0**15)
    tensor = tf.constant if panel == "tensorflow" else torch.tensor
    value = np.float32(1.2345e-8)
    (gradient, nothing), overflow = scaler.unscale([tensor(value * np.float32(2.0**15)), None])
    assert (np.float32(gradient), nothing, overflow) == (value, None, False)
    for bad in (np.inf, -np.inf, np.nan):
        assert scaler.unscale([tensor([1.0]), tensor([0.0, bad])])[1]


@pytest.mark.parametrize("panel", PANELS)
def test_small_gradient_survives_with_scaling_only(panel):
    """A gradient of 1e-8 is below the smallest number of half precision."""
    found = {}
    for scale in (1.0, 65536.0):
        scaler = MIXED[panel].DynamicLossScaler(scale)
        if panel == "pytorch":
            x = torch.ones(1, requires_grad=True)
            scaler.scale_loss((x.half().float() * 1e-8).sum()).backward()
            gradient = x.grad
        else:
            x = tf.ones(1)
            with tf.GradientTape() as tape:
                tape.watch(x)
                loss = scaler.scale_loss(tf.reduce_sum(tf.cast(tf.cast(x, tf.float16), tf.float32) * 1e-8))
            gradient = tape.gradient(loss, x)
        found[scale] = np.asarray(scaler.unscale([gradient])[0][0]).item()
    assert found[1.0] == 0.0
    assert found[65536.0] == pytest.approx(1e-8, rel=1e-3)


class Setup:
    """A small ResNet of one panel with seeded weights, its data, and a trainer."""

    def __init__(self, panel: str, dtype: str, scaler=None, max_norm=None):
        proof = Proof(get("resnet18")[0])
        twins = dict(zip(PANELS, proof.twins("float32"), strict=True))
        self.twin, self.module = twins[panel], MIXED[panel]
        inputs, targets = proof.arrays()
        self.batch = (tuple(self.twin.tensors(inputs).values()), self.twin.tensors(targets))
        if panel == "pytorch":
            optimizer = torch.optim.SGD(self.twin.model.parameters(), 2.0**-7, momentum=0.5)
        else:
            optimizer = keras.optimizers.SGD(2.0**-7, momentum=0.5)
        self.scaler = scaler or self.module.DynamicLossScaler(1024.0, growth_interval=2)
        self.trainer = self.module.MixedPrecisionTrainer(
            self.twin.model, self.twin.criterion, optimizer, self.scaler, dtype, max_norm
        )

    def state(self) -> dict:
        return {name: np.array(value) for name, value in self.twin.state().items()}


def changes(before, after) -> np.ndarray:
    """All changes of the trained tensors in one vector."""
    names = [name for name in before if "running" not in name and "tracked" not in name]
    return np.concatenate([(after[name] - before[name]).ravel() for name in names])


def distance(a, b) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def smooth_step(panel: str, dtype: str, scale: float) -> np.ndarray:
    """What one step changes in two convolutions with a sigmoid between, in one vector."""
    module, rng = MIXED[panel], np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 16, 16)).astype(np.float32)
    values = seeded({"0.weight": (8, 3, 3, 3), "0.bias": (8,), "2.weight": (4, 8, 3, 3), "2.bias": (4,)})
    if panel == "pytorch":
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Sigmoid(), torch.nn.Conv2d(8, 4, 3))
        state, x = torch_impl.state, torch.from_numpy(x)
        optimizer = torch.optim.SGD(model.parameters(), 0.125, momentum=0.5)
    else:
        model = keras.Sequential(
            [keras.Input((None, None, 3)), Conv2D(8, 3), keras.layers.Activation("sigmoid"), Conv2D(4, 3)]
        )
        state, x = tf_impl.state, tf.constant(x.transpose(0, 2, 3, 1))
        state.build(model)
        optimizer = keras.optimizers.SGD(0.125, momentum=0.5)
    state.load_state_dict(model, values)

    def criterion(outputs, targets):
        square = (outputs - targets) ** 2
        return {"total": square.mean() if panel == "pytorch" else tf.reduce_mean(square)}

    trainer = module.MixedPrecisionTrainer(model, criterion, optimizer, module.StaticLossScaler(scale), dtype)
    assert trainer.step(((x,), 1.0))[1]
    return changes(values, {name: np.array(value) for name, value in state.state_dict(model).items()})


@pytest.mark.parametrize(
    "panel, dtype, bound",
    [
        ("pytorch", "float16", 1e-3),
        ("pytorch", "bfloat16", 8e-3),  # eight times as coarse
        ("tensorflow", "float32", 1e-5),
        # TensorFlow sums a kernel's gradient in half precision on the CPU: measured are 3.0e-3 and 0.16
        ("tensorflow", "float16", 5e-3),
        ("tensorflow", "bfloat16", 0.25),
    ],
)
def test_one_step_is_that_of_single_precision(panel, dtype, bound):
    """To the rounding of the precision; nothing has a kink here."""
    found = distance(smooth_step(panel, dtype, 1024.0), smooth_step("pytorch", "float32", 1.0))
    assert found < bound
    assert dtype == "float32" or found > 1e-5, "half precision was not used"


@pytest.mark.parametrize("panel", PANELS)
def test_powers_of_two_scale_exactly(panel):
    np.testing.assert_array_equal(smooth_step(panel, "bfloat16", 256.0), smooth_step(panel, "bfloat16", 16384.0))


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-4), ("float16", 4e-3), ("bfloat16", 1e-2)])
def test_parameters_of_a_small_resnet_after_one_step(dtype, bound):
    """Rounding switches single ReLUs on or off, which moves a gradient: measured are 2e-3 and 6e-3 in the stem."""
    states = {}
    for panel, precision in (("tensorflow", dtype), ("pytorch", dtype), ("pytorch", "float32")):
        setup = Setup(panel, precision)
        assert setup.trainer.step(setup.batch)[1]
        states[panel, precision] = setup.state()
    for panel in PANELS:
        for name, value in states["pytorch", "float32"].items():
            found = states[panel, dtype][name]
            assert found.dtype == value.dtype
            assert np.linalg.norm(found - value) <= bound * np.linalg.norm(value), f"{panel}: {name}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("panel", PANELS)
def test_small_model_learns(panel, dtype):
    setup = Setup(panel, dtype)
    losses = [float(setup.trainer.step(setup.batch)[0][0]["total"]) for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]
    assert float(setup.scaler.scale) == 1024.0 * 2**4


@pytest.mark.parametrize("panel", PANELS)
def test_step_that_overflows_changes_running_statistics_only(panel):
    setup = Setup(panel, "float16", MIXED[panel].DynamicLossScaler(2.0**127))
    before = setup.state()
    _, updated = setup.trainer.step(setup.batch)
    after = setup.state()
    assert not updated
    assert float(setup.scaler.scale) == 2.0**126
    for name, value in before.items():
        same = np.array_equal(value, after[name])
        assert same != ("running" in name or "tracked" in name), name


@pytest.mark.parametrize("panel", PANELS)
def test_clipping_sees_gradients_without_the_scale_and_batches_are_averaged(panel):
    found = {}
    for scale in (1.0, 4096.0):
        setup = Setup(panel, "float32", MIXED[panel].StaticLossScaler(scale), max_norm=0.125)
        before = setup.state()
        setup.trainer.step(setup.batch, setup.batch)
        found[scale] = changes(before, setup.state())
    assert np.linalg.norm(found[1.0]) == pytest.approx(0.125 * 2.0**-7, rel=1e-3)
    assert distance(found[4096.0], found[1.0]) < 1e-4  # a power of two is exact, the parameters round


@pytest.mark.parametrize("panel", PANELS)
def test_unknown_precision_is_named(panel):
    setup = Setup(panel, "float8")
    with pytest.raises(ValueError, match="dtype='float8'"):
        setup.trainer.step(setup.batch)
