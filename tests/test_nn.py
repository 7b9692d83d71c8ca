"""Networks: shapes, and starting where they are told to."""

from __future__ import annotations

import pytest
import torch
from oracles import rng

from lowerbound.nn import MLP, ConvDecoder, ConvEncoder, Standardise, seeded
from lowerbound.nn.dense import Tanh


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (3, 7, 5), (28, 28), (3, 3)])
@pytest.mark.parametrize("parameters", [1, 2])
def test_convolutional_networks_fit_any_image(shape, parameters):
    out_shape = shape if parameters == 1 else (parameters, *shape)
    encoder, decoder = ConvEncoder(shape, 6, (4, 8)), ConvDecoder(3, out_shape, (8, 4))
    x = torch.rand(5, *shape, generator=rng())
    assert encoder(x).shape == (5, 6)
    assert decoder(torch.randn(5, 3, generator=rng())).shape == (5, *out_shape)


def test_the_encoder_sees_every_pixel_and_the_decoder_reaches_each():
    x = torch.rand(1, 9, 9, generator=rng(), requires_grad=True)
    ConvEncoder((9, 9), 2)(x).sum().backward()
    assert (x.grad != 0).all()
    z = torch.zeros(1, 3, requires_grad=True)
    jacobian = torch.autograd.functional.jacobian(ConvDecoder(3, (9, 9)), z)
    assert (jacobian.abs().sum(-1) > 0).all()


@pytest.mark.parametrize("decoder", [MLP((3,), (2, 4, 4)), ConvDecoder(3, (2, 4, 4))])
def test_a_bias_shifts_the_output_and_nothing_else(decoder):
    z, values = torch.randn(6, 3, generator=rng()), torch.randn(2, 4, 4, generator=rng(1))
    decoder.init_bias(torch.zeros(2, 4, 4))
    centred = decoder(z)
    decoder.init_bias(values)
    assert torch.allclose(decoder(z) - centred, values.expand(6, 2, 4, 4), atol=1e-5)


def test_a_table_is_no_image():
    with pytest.raises(ValueError, match="rows of shape"):
        ConvEncoder((7,), 3)


def test_standardise():
    x = torch.randn(500, 3, generator=rng()) * torch.tensor([1.0, 10, 0]) + torch.tensor([5.0, -2, 7])
    per_value, one = Standardise((3,)), Standardise(())
    per_value.fit(x)
    one.fit(x)
    out = per_value(x)
    assert torch.allclose(out.mean(0), torch.zeros(3), atol=1e-5)
    assert torch.allclose(out.std(0, correction=0), torch.tensor([1.0, 1, 0]), atol=1e-5)
    assert float(one(x).std(correction=0)) == pytest.approx(1, abs=1e-5)
    counts = Standardise((3,), log1p=True)
    counts.fit(x.abs())
    assert torch.allclose(counts(x.abs()), (x.abs().log1p() - x.abs().log1p().mean(0)) / counts.spread, atol=1e-5)


def test_seeded_leaves_the_global_generator_as_it_was():
    before = torch.random.get_rng_state()
    with seeded(7):
        first = MLP((3,), (2,)).layers[0].weight
    with seeded(7):
        second = MLP((3,), (2,)).layers[0].weight
    assert torch.equal(first, second)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 2**-22), (torch.float64, 2**-51)])
def test_tanh_without_gradients_is_tanh(dtype, error):
    far = torch.tensor([torch.inf, -torch.inf, 1e4], dtype=dtype)
    x = torch.cat([torch.linspace(-20, 20, 40_001, dtype=dtype), far])
    kept = x.clone()
    with torch.no_grad():
        found = Tanh()(x)
    assert float((found - x.double().tanh()).abs().max()) <= error
    assert torch.equal(x, kept)
    assert torch.equal(Tanh()(x), x.tanh())  # where gradients may be asked for, torch's own
