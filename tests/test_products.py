"""Sums of products over pairs against einsum, for one block and for many."""

import pytest
import torch
from torch import Tensor

from recsys_collapse import products
from recsys_collapse.products import sum_products

M, B, N, K, EARLIER, O = 2, 7, 4, 3, 5, 6  # noqa: E741 - as in the shapes


def slow(x0_BMNK: Tensor, x_BMIK: Tensor | None, weight_MONI: Tensor) -> Tensor:
    return torch.einsum("moni,bmnk,bmik->bmok", weight_MONI, x0_BMNK, x0_BMNK if x_BMIK is None else x_BMIK)


def given(first: bool, dtype: torch.dtype = torch.float64) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()

    x0, x = draw(B, M, N, K), None if first else draw(B, M, EARLIER, K)
    return [x0, x, draw(M, O, N, N if first else EARLIER)]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("block", [1, 2 * O * N * K, 10**6])
def test_values_and_gradients_whatever_the_block(first: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of one sample, of two (and a last one of one), of all."""
    monkeypatch.setitem(products.BLOCK, "cpu", block)
    inputs = given(first)
    tensors = [tensor for tensor in inputs if tensor is not None]
    expected, found = slow(*inputs), sum_products(*inputs)
    torch.testing.assert_close(found, expected)
    grad = torch.randn_like(expected)
    for own, wanted in zip(
        torch.autograd.grad(found, tensors, grad), torch.autograd.grad(expected, tensors, grad), strict=True
    ):
        torch.testing.assert_close(own, wanted)


@pytest.mark.parametrize("first", [True, False])
def test_what_is_exported_is_the_same(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = given(first)
    expected = sum_products(*inputs)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr(products, "_block_by_block", None)
    torch.testing.assert_close(sum_products(*inputs), expected)


@pytest.mark.parametrize("first", [True, False])
def test_gradients_by_differences(first: bool) -> None:
    assert torch.autograd.gradcheck(sum_products, given(first))


@pytest.mark.parametrize("first", [True, False])
def test_mixed_precision_works_in_bfloat16(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Block by block, sample by sample; what the blocks have in common is added up in float32."""
    monkeypatch.setitem(products.BLOCK, "cpu", 1)
    inputs = given(first, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = sum_products(*inputs)
    assert found.dtype == torch.bfloat16
    expected = slow(*inputs)
    assert (found - expected).abs().max() < 0.05 * expected.abs().max()
    tensors = [tensor for tensor in inputs if tensor is not None]
    grad = torch.randn_like(expected)
    wanted, ours = (torch.autograd.grad(y, tensors, grad.to(y.dtype)) for y in (expected, found))
    for one, other in zip(ours, wanted, strict=True):
        assert one.dtype == torch.float32 and (one - other).abs().max() < 0.02 * other.abs().max()


def test_an_outline_takes_no_numbers() -> None:
    inputs = [None if tensor is None else tensor.detach().to("meta") for tensor in given(False)]
    assert sum_products(*inputs).shape == (B, M, O, K)
