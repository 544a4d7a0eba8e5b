"""Dropout from bulk random bits: which elements, how many, what is left, and the gradient."""

import math

import pytest
import torch
from scipy.stats import binomtest, kstest
from torch import nn
from torch.nn import functional as F

from recsys_collapse.dropout import Dropout, ReLUDropout, keep_mask

every_kind = pytest.mark.parametrize("make", [Dropout, ReLUDropout])


def left(make: type[nn.Module], p: float, x: torch.Tensor, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    return make(p).train()(x)


@pytest.mark.parametrize("p", [0.01, 0.2, 0.5, 0.9])
def test_as_many_are_dropped_as_was_asked_for(p: float) -> None:
    y = left(Dropout, p, torch.ones(1_000_003))
    dropped = int((y == 0).sum())
    assert binomtest(dropped, len(y), round(p * 2**16) / 2**16).pvalue > 1e-3
    kept = y[y != 0]
    assert kept.unique().numel() == 1 and kept[0].item() == pytest.approx(1 / (1 - p), rel=1e-3)
    assert y.double().mean().item() == pytest.approx(1, abs=5 * math.sqrt(p / (1 - p) / len(y)))


def test_rounding_leaves_the_expected_value_as_it_is() -> None:
    """Of 0.2 with 16 bits: 13,107 of 65,536 are dropped, and the rest is divided by the share that is kept."""
    kept = left(Dropout, 0.2, torch.ones(1000, dtype=torch.float64))
    assert kept.max().item() == 65_536 / (65_536 - 13_107)


def test_elements_are_independent() -> None:
    """Gaps between dropped elements are geometric, and four that share a random word go together by chance only."""
    torch.manual_seed(0)
    mask = keep_mask(torch.Size([400_000]), round(0.25 * 2**16))
    longer = 0.75 ** ((~mask).nonzero().flatten().diff().double() - 1)  # probability of a gap at least so long
    uniform = 1 - longer * (1 - 0.25 * torch.rand(len(longer), dtype=torch.float64))  # a discrete law, smoothed
    assert kstest(uniform.numpy(), "uniform").pvalue > 1e-3
    together = int((~mask.view(-1, 4)).all(dim=1).sum())
    assert binomtest(together, 100_000, 0.25**4).pvalue > 1e-3


@every_kind
def test_a_seed_repeats_it_and_another_does_not(make: type[nn.Module]) -> None:
    x = torch.ones(50, 20)
    assert torch.equal(left(make, 0.5, x), left(make, 0.5, x))
    assert not torch.equal(left(make, 0.5, x), left(make, 0.5, x, seed=1))
    torch.manual_seed(0)
    twice = make(0.5).train()
    assert not torch.equal(twice(x), twice(x))


@every_kind
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5, 7), (2, 4, 6)])
def test_shapes_and_layouts(make: type[nn.Module], shape: tuple[int, ...]) -> None:
    x = torch.rand(shape).transpose(0, -1) + 0.1
    y = left(make, 0.5, x)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert ((y == 0) | ((y - 2 * x).abs() < 1e-6)).all()


@every_kind
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_the_gradient_is_that_of_what_was_kept(make: type[nn.Module], p: float) -> None:
    x = torch.randn(40, 30, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    keep = keep_mask(x.shape, round(p * 2**16)).double() / (1 - round(p * 2**16) / 2**16) if p < 1 else x.detach() * 0
    expected = (F.relu(x) if make is ReLUDropout else x) * keep
    grad = torch.randn_like(expected)
    (wanted,) = torch.autograd.grad(expected, x, grad)
    y = left(make, p, x, seed=3)
    (found,) = torch.autograd.grad(y, x, grad)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(found, wanted)


@every_kind
def test_evaluation_drops_nothing_and_draws_nothing(make: type[nn.Module]) -> None:
    x, state = torch.randn(20, 30), torch.get_rng_state()
    y = make(0.5).eval()(x)
    assert torch.equal(y, F.relu(x) if make is ReLUDropout else x)
    assert torch.equal(state, torch.get_rng_state())


@every_kind
@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_no_probability(make: type[nn.Module], p: float) -> None:
    with pytest.raises(ValueError, match="probability"):
        make(p)


@every_kind
def test_an_outline_takes_no_numbers(make: type[nn.Module]) -> None:
    assert make(0.5).train()(torch.empty(3, 4, device="meta")).shape == (3, 4)


@every_kind
def test_in_bfloat16(make: type[nn.Module]) -> None:
    x = torch.ones(1000, dtype=torch.bfloat16)
    y = left(make, 0.5, x)
    assert y.dtype == torch.bfloat16 and set(y.tolist()) == {0.0, 2.0}
