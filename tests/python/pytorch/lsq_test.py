"""Learned scales: the gradients of PyTorch's kernels, and steps of several ranks through a server."""

from __future__ import annotations

import json
import math
import pathlib
import threading

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import calibd  # noqa: E402
import calibd.torch  # noqa: E402
from calibd.errors import FailedPreconditionError, InvalidArgumentError  # noqa: E402
from calibd.observer import Learned  # noqa: E402
from calibd.step import StepLayer  # noqa: E402
from calibd.torch import LearnableFakeQuantize, LearnedScales, kernels  # noqa: E402
from calibd.torch.fake_quantize import RULES, Quantizer  # noqa: E402
from calibd.torch.lsq import codes_of  # noqa: E402
from torch import nn  # noqa: E402

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "golden" / "learnable.json"
RANKS = 2
TIMEOUT = 60.0


def golden_cases():
    return json.loads(GOLDEN.read_text())


@pytest.mark.parametrize("index", range(len(golden_cases())))
def test_golden_cases(index):
    case = golden_cases()[index]
    x, dy = (torch.tensor(case[name]).reshape(case["shape"]) for name in ("X", "dY"))
    axis = case["ch_axis"] if case["per"] == "channel" else None
    scale, zero_point = torch.tensor(case["scale"]), torch.tensor(case["zero_point"])
    quantizer = Quantizer(scale, zero_point, case["qmin"], case["qmax"], axis, "pytorch_first")
    assert quantizer.quantize(x).flatten().tolist() == case["Y"]
    dx, dscale, dzero_point = quantizer.gradients(x, dy)
    assert dx.flatten().tolist() == case["dX"]
    factor = case["grad_factor"]
    np.testing.assert_allclose((factor * dscale).numpy(), case["dScale"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose((factor * dzero_point).numpy(), case["dZeroPoint"], rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not hasattr(torch, "_fake_quantize_learnable_per_channel_affine"), reason="no such kernel")
@pytest.mark.parametrize("qmin, qmax", [(-128, 127), (0, 15), (-2, 1)])
def test_equals_torch_s_kernel(qmin, qmax):
    generator = torch.Generator().manual_seed(qmax)
    x = (4 * torch.randn(3, 5, 40, generator=generator)).requires_grad_()
    scale = (torch.rand(5, generator=generator) + 0.1).requires_grad_()
    zero_point = (4 * torch.rand(5, generator=generator)).clamp(qmin, qmax).requires_grad_()
    dy = torch.randn(3, 5, 40, generator=generator)
    y = torch._fake_quantize_learnable_per_channel_affine(x, scale, zero_point, 1, qmin, qmax, 1.0)
    y.backward(dy)
    with torch.no_grad():
        quantizer = Quantizer(scale, zero_point, qmin, qmax, 1)
        assert torch.equal(quantizer.quantize(x), y)
        dx, dscale, dzero_point = quantizer.gradients(x, dy)
    assert torch.equal(dx, x.grad)
    torch.testing.assert_close(dscale.float(), scale.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dzero_point.float(), zero_point.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not hasattr(torch, "_fake_quantize_learnable_per_tensor_affine"), reason="no such kernel")
@pytest.mark.parametrize("zero", [0.0, -3.0, -2.5, 1.25])
def test_equals_torch_s_kernel_per_tensor(zero):
    generator = torch.Generator().manual_seed(7)
    x = (4 * torch.randn(200, generator=generator)).requires_grad_()
    dy = torch.randn(200, generator=generator)
    scale, zero_point = torch.tensor([0.7]).requires_grad_(), torch.tensor([zero]).requires_grad_()
    y = torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, -8, 7, 1.0)
    y.backward(dy)
    with torch.no_grad():
        quantizer = Quantizer(scale, zero_point, -8, 7, None, "pytorch_per_tensor")
        assert torch.equal(quantizer.quantize(x), y)
        dx, dscale, dzero_point = quantizer.gradients(x, dy)
    assert torch.equal(dx, x.grad)
    torch.testing.assert_close(dscale.float(), scale.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dzero_point.float(), zero_point.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
def test_values_that_are_no_numbers(rule):
    quantizer = Quantizer(torch.tensor([0.5]), torch.tensor([0.0]), -8, 7, None, rule)
    x = torch.tensor([math.inf, -math.inf, math.nan, 1.0])
    assert quantizer.quantize(x)[:2].tolist() == [3.5, -4.0]
    assert quantizer.quantize(x)[2].isnan()
    dx, dscale, dzero_point = quantizer.gradients(x, torch.ones(4))
    assert dx.tolist() == [0.0, 0.0, 0.0, 1.0]
    assert dscale.tolist() == [7.0 - 8.0] and dzero_point.tolist() == [-1.0]


def learned(scale, zero_point=0.0):
    empty = np.zeros(0, np.float32)
    scale = np.atleast_1d(np.float32(scale))
    codes = np.zeros(len(scale), np.int64)
    return StepLayer(empty, empty, empty, empty, scale, codes, np.full(len(scale), zero_point, np.float32))


def test_a_module_counts_then_quantizes():
    module = LearnableFakeQuantize(dtype="int4")
    x = torch.randn(50, requires_grad=True)
    assert module(x) is x
    assert module.take(1.0) == kernels.observe(x, module.observer())
    assert module.take(1.0) is None
    module.set_parameters(learned(0.25))
    for _ in range(2):
        module(x).sum().backward()
    quantizer = module.quantizer()
    dx, dscale, _ = quantizer.gradients(x.detach(), torch.ones(50))
    assert torch.equal(x.grad, 2 * dx)
    given = module.take(3.0)
    assert given.scale.tolist() == (2 * dscale).tolist()
    assert (given.zero_point, given.elements, given.weight) == (None, 100, 3.0)
    assert module.take(1.0) is None


def test_learns_from_an_input_without_gradient():
    """Such as the model's own."""
    gradients = []
    for requires_grad in (True, False):
        module = LearnableFakeQuantize(dtype="int4", scheme="affine")
        module.set_parameters(learned(0.25))
        x = torch.linspace(-3, 3, 50, requires_grad=requires_grad)
        assert module(x).requires_grad
        (module(x) * torch.linspace(0, 1, 50)).sum().backward()
        assert (x.grad is not None) == requires_grad
        given = module.take(1.0)
        gradients.append((given.scale.tolist(), given.zero_point.tolist(), given.elements))
    assert gradients[0] == gradients[1]
    assert gradients[0][0] != [0.0]


def test_nothing_is_learned_where_nothing_is_trained():
    module = LearnableFakeQuantize(dtype="int4")
    module.set_parameters(learned(0.25))
    with torch.no_grad():
        assert not module(torch.randn(50)).requires_grad
        assert not module(torch.randn(50, requires_grad=True)).requires_grad
    with torch.inference_mode():
        assert not module(torch.randn(50)).requires_grad
    assert not module.eval()(torch.randn(50)).requires_grad
    assert module(torch.randn(50, requires_grad=True)).requires_grad


@pytest.mark.parametrize("replicated, elements", [(False, 3 * 50), (True, 50)])
def test_elements_of_several_passes(replicated, elements):
    """A replicated tensor, such as a weight, is the same in each of them."""
    module = LearnableFakeQuantize(replicated=replicated)
    module.set_parameters(learned(0.25))
    x = torch.randn(50)
    (module(x.requires_grad_()) + module(x)).sum().backward()
    module(x).sum().backward()
    _, dscale, _ = module.quantizer().gradients(x.detach(), torch.ones(50))
    given = module.take(1.0)
    assert given.elements == elements
    np.testing.assert_allclose(given.scale, 3 * dscale.numpy())
    module(x).sum().backward()
    assert module.take(1.0).elements == 50  # a step begins anew


def test_halves_are_quantized_in_float32():
    module = LearnableFakeQuantize()
    module.set_parameters(learned(0.01))
    x = torch.randn(20).bfloat16().requires_grad_()
    y = module(x)
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, module.quantizer().quantize(x.detach().float()).bfloat16())
    y.sum().backward()
    assert x.grad.dtype is torch.bfloat16


def test_state_dict_has_the_scales():
    module = LearnableFakeQuantize(scheme="affine", channel_axis=1, channels=3)
    module.set_parameters(learned([1.0, 2.0, 3.0], 0.5))
    other = LearnableFakeQuantize(scheme="affine", channel_axis=1, channels=3)
    assert not other.has_initial_values()
    other.load_state_dict(module.state_dict())
    assert other.has_initial_values()
    assert other.scale.tolist() == [1.0, 2.0, 3.0] and other.zero_point.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    "dtype, narrow, codes",
    [("int8", False, (-128, 127)), ("int4", True, (-7, 7)), ("uint8", False, (0, 255)), ("uint1", False, (0, 1))],
)
def test_codes(dtype, narrow, codes):
    assert codes_of(dtype, narrow) == codes


@pytest.mark.parametrize("dtype", ["fp8_e4m3", "int17", "int1", "float32"])
def test_types_that_are_not_learned(dtype):
    with pytest.raises(InvalidArgumentError, match=dtype):
        LearnableFakeQuantize(dtype=dtype)


def test_models_without_modules_or_names():
    with pytest.raises(InvalidArgumentError, match="no LearnableFakeQuantize"):
        LearnedScales(nn.Linear(2, 2))
    with pytest.raises(InvalidArgumentError, match="'a'"):
        LearnedScales(nn.Sequential(LearnableFakeQuantize("a"), LearnableFakeQuantize("a")))


class QuantizedLinear(nn.Module):
    """A layer whose weight and output are quantized by learned scales."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.linear = nn.Linear(6, 4)
        self.of_weight = LearnableFakeQuantize(dtype="int4", channel_axis=0, channels=4, replicated=True)
        self.of_output = LearnableFakeQuantize(dtype="uint4", scheme="affine")

    def forward(self, x):
        return self.of_output(nn.functional.linear(x, self.of_weight(self.linear.weight), self.linear.bias))


def train(address, model, rank, batches, out):
    with calibd.connect(address) as client:
        with client.session("qat", rank=rank) as session:
            scales = LearnedScales(model, session)
            for batch in batches:
                model(batch).square().mean().backward()
                result = scales.step(timeout=TIMEOUT)
                assert result.ranks == RANKS
                out.append({name: value.clone() for name, value in model.state_dict().items() if "of_" in name})


def test_ranks_learn_together(server):
    rules = LearnedScales(QuantizedLinear()).rules(Learned("adam", learning_rate=0.01))
    with calibd.connect(server.address) as client:
        client.create_session("qat", rules=rules, world_size=RANKS)
    generator = torch.Generator().manual_seed(4)
    found = [[] for _ in range(RANKS)]
    threads = []
    for rank in range(RANKS):
        batches = [torch.randn(8, 6, generator=generator) for _ in range(5)]
        # Made here: making one seeds the generator that all threads share.
        arguments = server.address, QuantizedLinear(), rank, batches, found[rank]
        threads.append(threading.Thread(target=train, args=arguments))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * TIMEOUT)
    assert [len(steps) for steps in found] == [5] * RANKS
    for one, other in zip(*found):
        assert all(torch.equal(one[name], other[name]) for name in one)
    first, last = found[0][0], found[0][-1]
    assert first["of_weight.initialized"]
    weight = QuantizedLinear().linear.weight.detach()
    expected = 2 * weight.abs().mean(dim=1) / math.sqrt(7)  # LSQ's initial scale, up to the histogram's bins
    torch.testing.assert_close(first["of_weight.scale"], expected, rtol=1e-2, atol=0)
    for name in ("of_weight.scale", "of_output.scale", "of_output.zero_point"):
        assert not torch.equal(first[name], last[name]), name
    assert last["of_output.zero_point"].frac().any()


def test_the_scale_of_a_model_s_input_is_learned(server):
    torch.manual_seed(3)
    model = nn.Sequential(LearnableFakeQuantize(), nn.Linear(6, 1))
    scales, seen = LearnedScales(model), []
    with calibd.connect(server.address) as client:
        with client.create_session("input", rules=scales.rules(), world_size=1, rank=0) as scales.session:
            for _ in range(3):
                model(torch.randn(16, 6)).square().mean().backward()
                assert list(scales.step(timeout=TIMEOUT).layers) == ["0"]
                seen.append(float(model[0].scale))
    assert len(set(seen)) == 3


def test_a_new_session_takes_up_a_checkpoint(server):
    batch = torch.randn(8, 6, generator=torch.Generator().manual_seed(4))

    def step(model, scales):
        model(batch).square().mean().backward()
        return scales.step(timeout=TIMEOUT).layers["of_weight"].scale.tolist()

    def scales_in(client, session, model):
        scales = LearnedScales(model)
        scales.session = client.create_session(session, rules=scales.rules(), world_size=1, rank=0)
        return scales

    with calibd.connect(server.address) as client:
        trained, resumed = QuantizedLinear(), QuantizedLinear()
        scales = scales_in(client, "first", trained)
        with scales.session:
            assert step(trained, scales) != step(trained, scales)
        resumed.load_state_dict(trained.state_dict())
        scales = scales_in(client, "second", resumed)
        with scales.session:
            with pytest.raises(FailedPreconditionError) as refused:
                step(resumed, scales)
            assert refused.value.reason == "LEARNED_NOT_INITIALIZED"
            assert not resumed.of_weight.has_initial_values() and not resumed.of_output.has_initial_values()
            initial = step(resumed, scales)
            assert initial != step(resumed, scales) == resumed.of_weight.scale.tolist()
