"""Fourier transforms of every form, and what is done between two of them, are products of real matrices."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, fft, nn

from edgevit.export.legalise import calls_of, fourier
from edgevit.export.legalise.complexes import in_real_numbers


class Calls(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.filters, self.weights = nn.Parameter(torch.randn(3, 6, 4, 2)), nn.Parameter(torch.randn(3, 6, 4) * 1j)
        self.register_buffer("mixed", torch.complex(torch.randn(3, 3).double(), torch.randn(3, 3).double()))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def written_into(x: Tensor) -> Tensor:
    """As Fourier operators of a few frequencies are written."""
    found = torch.zeros(x.shape[0], 3, 6, 4, dtype=torch.complex128)
    found[:, :, :3, :2] = fft.rfft2(x)[:, :, :3, :2] * 2
    return found


CASES = {
    "a global filter": lambda m, x: fft.irfft2(
        fft.rfft2(x, norm="ortho") * torch.view_as_complex(m.filters), s=x.shape[-2:], norm="ortho"
    ),
    "complex weights": lambda m, x: fft.irfft2(fft.rfft2(x) * m.weights - (1 - 2j), s=(6, 7)),
    "along one axis": lambda m, x: fft.fft(x, dim=1).real - fft.fft(x, dim=2, norm="forward").imag,
    "size and turn": lambda m, x: fft.fft2(x).abs() + fft.fft2(x).angle().cos(),
    "shifted": lambda m, x: fft.ifftshift(fft.fftshift(fft.fft2(x), dim=(-2, -1)) * 1j, dim=-1).real,
    "there and back": lambda m, x: fft.ifft2(fft.fft2(x)).real + fft.ifftn(fft.fftn(x, dim=(1, 2, 3)).conj()).imag,
    "of a hermitian": lambda m, x: fft.hfft(fft.rfft(x), n=8) + fft.ihfft(x, n=15).imag,
    "filled up": lambda m, x: fft.rfft(x, n=11).real + fft.rfft(x, n=11).imag,
    "cut off": lambda m, x: fft.fft(x, n=4).real + fft.irfft(fft.rfft(x), n=4) + fft.irfft(fft.rfft(x))[..., :4],
    "parts side by side": lambda m, x: torch.cat([fft.rfft2(x).real, fft.rfft2(x).imag], 1),
    "parts as an axis": lambda m, x: fft.irfft2(
        torch.view_as_complex(torch.relu(torch.view_as_real(fft.rfft2(x)))), s=(6, 7)
    ),
    "channels mixed": lambda m, x: torch.einsum("bchw,cd->bdhw", fft.fft2(x), m.mixed).abs(),
    "a product of matrices": lambda m, x: (fft.fft2(x).transpose(1, 3) @ m.mixed).real,
    "in blocks": lambda m, x: fft.irfft2(torch.cat([a * 2 for a in fft.rfft2(x).split(1, 1)], 1), s=(6, 7)),
    "of complex numbers": lambda m, x: fft.ifft(torch.complex(x, x.flip(1))).imag,
    "a quotient": lambda m, x: (fft.fft2(x) / (fft.fft2(x.flip(1)) + 100)).real + (1 / (fft.fft2(x) + 100)).imag,
    "from size and turn": lambda m, x: torch.polar(fft.fft2(x).abs(), fft.fft2(x).angle()).imag,
    "few frequencies": lambda m, x: fft.rfft2(x)[:, :, 1:4, :2].flatten(1).imag,
    "few frequencies written": lambda m, x: fft.irfft2(written_into(x), s=(6, 7)),
    "powers": lambda m, x: (fft.fft2(x) ** 2).real + fft.fft2(x).abs() ** 2,
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_no_complex_tensor_is_left_and_every_value_is_as_it_was(name: str) -> None:
    module, x = Calls(CASES[name]).double().eval(), torch.randn(2, 3, 6, 7, dtype=torch.float64)
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    program = torch.export.export(module, (x,), dynamic_shapes=(batch,), strict=False)
    found = in_real_numbers(program)
    assert not any(node.meta["val"].is_complex() for node in calls_of(found) if isinstance(node.meta["val"], Tensor))
    for rows in (x, torch.randn(5, 3, 6, 7, dtype=torch.float64)):
        with torch.no_grad():
            torch.testing.assert_close(found.module()(rows), module(rows), rtol=1e-12, atol=1e-12)
    assert program.state_dict["weights"].is_complex(), "the program that was given is as it was"


def test_a_program_of_real_numbers_is_left_as_it_is() -> None:
    program = torch.export.export(nn.Linear(3, 4), (torch.randn(2, 3),), strict=False)
    assert in_real_numbers(program) is program


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("dim", [(1,), (2,), (1, 2), (2, 1)], ids=str)
def test_transforms_of_all_norms_are_those_of_pytorch(dim: tuple[int, ...], size: int) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 3, size, 5, dtype=torch.float64), torch.randn(2, 3, size, 5, dtype=torch.float64)
    both, axes = torch.complex(x, y), list(dim)
    for norm, way in itertools.product((0, 1, 2), (True, False)):
        assert_same(fourier.of_real(x, axes, norm, way), torch.ops.aten._fft_r2c(x, axes, norm, way))
        assert_same(
            fourier.of_complex(fourier.Pair(x, y), axes, norm, way), torch.ops.aten._fft_c2c(both, axes, norm, way)
        )
        whole = 2 * (x.shape[axes[-1]] - 1) + way
        if whole:
            found = fourier.to_real(fourier.Pair(x, y), axes, norm, whole)
            torch.testing.assert_close(found, torch.ops.aten._fft_c2r(both, axes, norm, whole), rtol=0, atol=1e-12)


def assert_same(found: tuple[Tensor, Tensor], expected: Tensor) -> None:
    torch.testing.assert_close(torch.complex(*found), expected, rtol=0, atol=1e-12)
