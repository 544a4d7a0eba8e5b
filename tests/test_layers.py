"""Grouped layers against loops over ordinary ones, in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from recsys_collapse.layers import CrossNet, GroupedBatchNorm, GroupedLinear, Projection

every_count = pytest.mark.parametrize("num_sets", [1, 3])
# As the layer gets it: sets beside each other, or set-major in memory as from FieldEmbedding and GroupedLinear.
every_memory = pytest.mark.parametrize("set_major", [False, True])


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def given(num_sets: int, size: int, set_major: bool = False, batch: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(num_sets)
    x_BMH = torch.randn(batch, num_sets, size, dtype=torch.float64, generator=generator)
    return x_BMH.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_() if set_major else x_BMH.requires_grad_()


def assert_equal_with_gradients(fast: Tensor, slow: Tensor, inputs: list[Tensor]) -> None:
    """Values and the gradients of both at `inputs`, which must be leaves of both."""
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    pull = torch.randn(fast.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    found = torch.autograd.grad(fast, inputs, pull)
    expected = torch.autograd.grad(slow, inputs, pull)
    for ours, theirs in zip(found, expected, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


@every_count
@every_memory
def test_grouped_linear(num_sets: int, set_major: bool) -> None:
    grouped, x_BMI = GroupedLinear(num_sets, 5, 4).double(), given(num_sets, 5, set_major)
    plain = nn.Linear(5, 4).double()
    slow = [
        functional_call(plain, {"weight": grouped.weight[m], "bias": grouped.bias[m]}, x_BMI[:, m])
        for m in range(num_sets)
    ]
    assert_equal_with_gradients(grouped(x_BMI), torch.stack(slow, dim=1), [x_BMI, grouped.weight, grouped.bias])


def test_grouped_linear_starts_as_linear_does() -> None:
    layer = GroupedLinear(3, 100, 200)
    for values in (*layer.weight.detach(), *layer.bias.detach()):
        assert values.abs().max() <= 1 / math.sqrt(100)
        assert values.std() == pytest.approx(nn.Linear(100, 20_000).weight.std().item(), rel=0.15)
    assert not torch.equal(layer.weight[0], layer.weight[1])


@every_count
@every_memory
@pytest.mark.parametrize("training", [True, False])
def test_grouped_batch_norm(num_sets: int, set_major: bool, training: bool) -> None:
    grouped, x_BMH = GroupedBatchNorm(num_sets, 4).double(), given(num_sets, 4, set_major)
    weight, bias = grouped.norm.weight, grouped.norm.bias
    with torch.no_grad():
        for tensor in (weight, bias, grouped.norm.running_mean, grouped.norm.running_var):
            tensor.uniform_(0.5, 1.5)
    plain = [nn.BatchNorm1d(4).double().train(training) for _ in range(num_sets)]
    slow = []
    for m, norm in enumerate(plain):
        columns = slice(4 * m, 4 * m + 4)
        norm.running_mean.copy_(grouped.norm.running_mean[columns])
        norm.running_var.copy_(grouped.norm.running_var[columns])
        slow.append(functional_call(norm, {"weight": weight[columns], "bias": bias[columns]}, x_BMH[:, m]))
    fast = grouped.train(training)(x_BMH)
    assert_equal_with_gradients(fast, torch.stack(slow, dim=1), [x_BMH, weight, bias])
    for key in ("running_mean", "running_var"):
        torch.testing.assert_close(getattr(grouped.norm, key), torch.cat([getattr(norm, key) for norm in plain]))


def cross_by_loops(x0_BMH: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """x_{l+1} = x_0 * (W_l x_l + b_l) + x_l, one number at a time."""
    batch, num_sets, size = x0_BMH.shape
    out = []
    for b in range(batch):
        for m in range(num_sets):
            x = [x0_BMH[b, m, o] for o in range(size)]
            for w_MHH, b_MH in zip(weights, biases, strict=True):
                wx = [sum(w_MHH[m, o, i] * x[i] for i in range(size)) for o in range(size)]
                x = [x0_BMH[b, m, o] * (wx[o] + b_MH[m, o]) + x[o] for o in range(size)]
            out += x
    return torch.stack(out).view(batch, num_sets, size)


@every_count
@every_memory
def test_cross_net(num_sets: int, set_major: bool) -> None:
    cross, x_BMH = CrossNet(num_sets, 3, num_layers=2).double(), given(num_sets, 3, set_major, batch=2)
    for layer in cross.layers:
        nn.init.uniform_(layer.bias)
    weights, biases = ([getattr(layer, key) for layer in cross.layers] for key in ("weight", "bias"))
    assert_equal_with_gradients(cross(x_BMH), cross_by_loops(x_BMH, weights, biases), [x_BMH, *weights, *biases])


def test_cross_net_starts_xavier_with_zero_bias() -> None:
    bound = math.sqrt(6 / (60 + 60))
    for layer in CrossNet(3, 60, num_layers=2).layers:
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        assert (layer.bias == 0).all()


@every_count
def test_projection(num_sets: int) -> None:
    """Linear, batch norm, ReLU, dropout: each set as an ordinary hidden layer."""
    projection, x_BMI = Projection(num_sets, 5, 4, dropout=0.0).double(), given(num_sets, 5)
    linear, norm = projection[0], nn.BatchNorm1d(4).double()
    slow = [norm(x_BMI[:, m] @ linear.weight[m].T + linear.bias[m]).relu() for m in range(num_sets)]
    fast = projection(x_BMI)
    assert (fast == 0).any() and (fast > 0).any()
    assert_equal_with_gradients(fast, torch.stack(slow, dim=1), [x_BMI, linear.weight])


def test_projection_drops_out() -> None:
    projection, x_BMI = Projection(2, 5, 100, dropout=0.5).double(), given(2, 5, batch=50)
    dropped, kept = projection(x_BMI), projection.eval()(x_BMI)
    assert (dropped == 0).double().mean() == pytest.approx(0.75, abs=0.03)  # half by ReLU, half of the rest
    assert (kept == 0).double().mean() < 0.6


@pytest.mark.parametrize(
    ("make", "size"),
    [
        (lambda: GroupedLinear(2, 3, 2), 3),
        (lambda: GroupedBatchNorm(2, 3), 3),
        (lambda: CrossNet(2, 3, num_layers=2), 3),
        (lambda: Projection(2, 3, 2, dropout=0.0), 3),
    ],
    ids=["linear", "batch_norm", "cross_net", "projection"],
)
def test_gradients_are_derivatives(make: Callable[[], nn.Module], size: int) -> None:
    layer = make().double()
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def apply(x_BMI: Tensor, *values: Tensor) -> Tensor:
        return functional_call(layer, dict(zip(names, values, strict=True)), x_BMI)

    assert torch.autograd.gradcheck(apply, (given(2, size, batch=4), *parameters))
