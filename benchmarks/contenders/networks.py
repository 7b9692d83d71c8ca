"""The networks in PyTorch, with the common initial weights, and their losses as a PyTorch user writes them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from contenders.job import Job
from contenders.workloads import Layer, Linear, Workload, load_rows, load_weights


def pair(job: Job) -> tuple[nn.Sequential, nn.Sequential]:
    """Encoder, rows → means and log-variances, and decoder, latents → logits; rows are flat."""
    encoder, decoder = empty_pair(job.workload)
    load(job, encoder, decoder)
    return encoder, decoder


def empty_pair(workload: Workload) -> tuple[nn.Sequential, nn.Sequential]:
    activation = nn.ReLU if workload.convolutional else nn.Tanh
    encoder, decoder = _stack(workload.encoder, activation), _stack(workload.decoder, activation)
    if workload.convolutional:
        encoder.insert(0, nn.Unflatten(1, (1, 28, 28)))
        encoder.insert(len(encoder) - 1, nn.Flatten())
        decoder.insert(2, nn.Unflatten(1, (64, 7, 7)))
        decoder.append(nn.Flatten())
    return encoder, decoder


def load(job: Job, encoder: nn.Module, decoder: nn.Module) -> None:
    """Give both networks the common initial weights."""
    for network, parameters in zip((encoder, decoder), load_weights(job.cache, job.workload), strict=True):
        _copy(network, parameters)


def resident_rows(job: Job) -> Tensor:
    """All rows as float32, ``[N, 784]``."""
    return torch.from_numpy(load_rows(job.cache, job.rows)).float()


def latents(encoder: nn.Module, x: Tensor, draws: Sequence[int] = ()) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Means, log-variances, noise and z of a batch."""
    mean, log_variance = encoder(x).chunk(2, -1)
    noise = torch.randn(*draws, *mean.shape)
    return mean, log_variance, noise, mean + torch.exp(0.5 * log_variance) * noise


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL of the posteriors to N(0, I), summed over the batch."""
    return -0.5 * torch.sum(1 + log_variance - mean.pow(2) - log_variance.exp())


def loss(encoder: nn.Module, decoder: nn.Module, x: Tensor, workload: Workload) -> Tensor:
    """−bound, the mean over the batch, from logits."""
    if workload.importance_weighted:
        mean, log_variance, noise, z = latents(encoder, x, (workload.draws,))
        logits = decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
        log_lik = -functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return -iwae_bound(log_lik, log_variance, noise, z).mean()
    mean, log_variance, _, z = latents(encoder, x)
    error = functional.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
    return (error + gaussian_kl(mean, log_variance)) / len(x)


def iwae_bound(log_lik: Tensor, log_variance: Tensor, noise: Tensor, z: Tensor) -> Tensor:
    """log mean_K p(x, z)/q(z|x), ``[B]``, of K draws ``[K, B, …]``."""
    log_ratio = 0.5 * (noise.pow(2) - z.pow(2) + log_variance).sum(-1)
    return torch.logsumexp(log_lik + log_ratio, 0) - math.log(len(z))


def _stack(layers: Sequence[Layer], activation: type[nn.Module]) -> nn.Sequential:
    """The layers with an activation between each two."""
    modules: list[nn.Module] = []
    for layer in layers:
        modules += [_module(layer), activation()]
    return nn.Sequential(*modules[:-1])


def _module(layer: Layer) -> nn.Module:
    if isinstance(layer, Linear):
        return nn.Linear(layer.inputs, layer.outputs)
    kind = nn.ConvTranspose2d if layer.transposed else nn.Conv2d
    return kind(layer.inputs, layer.outputs, 4, stride=2, padding=1)


@torch.no_grad()
def _copy(network: nn.Module, parameters: list[NDArray[np.float32]]) -> None:
    for parameter, initial in zip(network.parameters(), parameters, strict=True):
        parameter.copy_(torch.from_numpy(initial))
