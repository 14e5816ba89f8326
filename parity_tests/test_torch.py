"""What a PyTorch user does with a model works: exported programs, one graph, copies, traces, memory formats."""

import copy
import inspect

import keras
import numpy as np
import pytest
import torch

from parity_tests.harness.panels import PyTorch
from parity_tests.test_keras import CLASSIFIERS, KINDS, over
from weights.seeded import seeded

each, every_kind = over(CLASSIFIERS), over(KINDS)
BY_SIZE = {"efficientnet", "hrnet", "mobilenet_v1"}  # how much is padded, or to which size a map grows
pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")


def made(name):
    """A small model with seeded weights in evaluation mode, and what two samples are given as."""
    case = KINDS[name]
    inputs = case.inputs(np.random.default_rng(0), 2)
    panel = PyTorch(case.entry, case.options, precision="float32", example=inputs)
    panel.load(seeded(panel.shapes()), strict=False)
    return panel.model.eval(), tuple(panel.tensors(inputs).values())


def flat(outputs):
    return [x for x in keras.tree.flatten(outputs) if isinstance(x, torch.Tensor)]


def near(found, expected, bound=1e-4):
    for x, y in zip(flat(found), flat(expected), strict=True):
        torch.testing.assert_close(x.float(), y.float(), rtol=bound, atol=bound)


@over(sorted(set(KINDS) - {"ocr"}))  # PyTorch compiles no LSTM
@torch.no_grad()
def test_one_graph_compiles(name):
    model, given = made(name)
    near(torch.compile(model, fullgraph=True, backend="eager")(*given), model(*given), 1e-6)


@each
@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@torch.no_grad()
def test_an_exported_program_takes_other_sizes(name, strict):
    model, auto = made(name)[0], torch.export.Dim.AUTO
    more = 240 if name == "inception_v3" else 0  # so that its auxiliary map is more than one place
    torch.manual_seed(0)
    images, other = torch.randn(2, 3, 160 + more, 192 + more), torch.randn(3, 3, 224 + more, 288 + more)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: auto, 2: auto, 3: auto},), strict=strict)
    near(program.module()(other), model(other))


@every_kind
@torch.no_grad()
def test_copies_and_functional_calls_give_the_same_numbers(name):
    model, given = made(name)
    expected = model(*given)
    twin = copy.deepcopy(model)
    state = {key: value.clone() for key, value in [*model.named_parameters(), *model.named_buffers()]}  # each once
    for parameter in twin.parameters():
        parameter.zero_()
    near(model(*given), expected, 0)
    near(torch.func.functional_call(twin, state, given), expected, 0)


@over(sorted(set(KINDS) - {"two_stage"}))  # whose anchors are numpy's, of sizes that a trace takes for tensors
@torch.no_grad()
def test_a_trace_gives_the_same_numbers(name):
    model, given = made(name)
    near(torch.jit.trace(model, given, strict=False, check_trace=False)(*given), model(*given))


@over(sorted(set(CLASSIFIERS) - BY_SIZE))
@torch.no_grad()
def test_a_symbolic_trace_gives_the_same_numbers(name):
    model, given = made(name)
    near(torch.fx.symbolic_trace(model)(*given), model(*given))


@each
@torch.no_grad()
def test_channels_last_gives_the_same_numbers(name):
    model, (images,) = made(name)
    expected = model(images)
    near(model.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last)), expected)


@over(sorted(set(KINDS) - {"two_stage"}))  # which ranks proposals otherwise, see test_mixed_precision_detectors
@torch.no_grad()
def test_autocast_is_near_single_precision(name):
    model, given = made(name)
    expected = model(*given)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(*given)
    for x, y in zip(flat(found), flat(expected), strict=True):
        if y.is_floating_point():
            assert torch.linalg.vector_norm(x.float() - y) < 8e-2 * torch.linalg.vector_norm(y)


@every_kind
@torch.no_grad()
def test_shapes_are_known_without_numbers(name):
    model, given = made(name)
    expected = model(*given)
    found = model.to("meta")(*(x.to("meta") for x in given))
    assert [x.shape for x in flat(found)] == [x.shape for x in flat(expected)]


@over([name for name, case in KINDS.items() if case.entry.postprocess])
@torch.no_grad()
def test_one_graph_of_results_compiles(name):
    case = KINDS[name]
    inputs = case.inputs(np.random.default_rng(0), 2)
    panel = PyTorch(case.entry, case.options, postprocess=case.postprocess, precision="float32", example=inputs)
    panel.load(seeded(panel.shapes()), strict=False)
    given = tuple(panel.tensors(inputs).values())
    outputs, shape = panel.model.eval()(*given), tuple(given[0].shape[2:])
    sizes = {"input_size": shape, "image_size": torch.tensor([shape, shape])}
    sizes = {key: size for key, size in sizes.items() if key in inspect.signature(panel.postprocess.forward).parameters}
    compiled = torch.compile(panel.postprocess, fullgraph=True, backend="eager")
    near(compiled(outputs, **sizes), panel.postprocess(outputs, **sizes), 0)
