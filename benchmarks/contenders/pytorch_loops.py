"""PyTorch's own: the loop of pytorch/examples/vae, and a loop with the usual advice taken."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from contenders import networks
from contenders.job import Job, Laps
from contenders.workloads import LEARNING_RATE, Workload


def train(job: Job, laps: Laps, style: str) -> dict[str, float]:
    laps.start()
    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    one_epoch = {"examples": examples, "tuned": tuned}[style](job)
    for _ in range(job.epochs):
        laps.end_epoch(one_epoch())
    return {}


def examples(job: Job) -> Callable[[], float]:
    encoder, decoder = networks.pair(job)
    rows = TensorDataset(networks.resident_rows(job), torch.zeros(job.rows, dtype=torch.long))
    loader = DataLoader(rows, batch_size=job.workload.batch, shuffle=True)
    optimizer = torch.optim.Adam(_parameters(encoder, decoder), lr=LEARNING_RATE, eps=job.workload.adam_eps)

    def one_epoch() -> float:
        total = 0.0
        for x, _ in loader:
            optimizer.zero_grad()
            loss = loss_of_sigmoid(encoder, decoder, x, job.workload)
            loss.backward()
            total += loss.item()
            optimizer.step()
        return total / len(loader)

    return one_epoch


def tuned(job: Job) -> Callable[[], float]:
    torch.set_flush_denormal(True)  # before the first parallel product: threads born later have it too
    encoder, decoder = networks.pair(job)
    rows = networks.resident_rows(job)
    parameters = _parameters(encoder, decoder)
    optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE, eps=job.workload.adam_eps, fused=True)

    def one_epoch() -> float:
        total = torch.zeros(())
        for index in torch.randperm(job.rows).split(job.workload.batch):
            optimizer.zero_grad(set_to_none=True)
            loss = networks.loss(encoder, decoder, rows.index_select(0, index), job.workload)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / job.steps

    return one_epoch


def loss_of_sigmoid(encoder: nn.Module, decoder: nn.Module, x: Tensor, workload: Workload) -> Tensor:
    """−bound, the mean over the batch, from probabilities, as the examples have it."""
    if workload.importance_weighted:
        _, log_variance, noise, z = networks.latents(encoder, x, (workload.draws,))
        reconstruction = torch.sigmoid(decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2]))
        error = functional.binary_cross_entropy(reconstruction, x.expand_as(reconstruction), reduction="none")
        return -networks.iwae_bound(-error.sum(-1), log_variance, noise, z).mean()
    mean, log_variance, _, z = networks.latents(encoder, x)
    error = functional.binary_cross_entropy(torch.sigmoid(decoder(z)), x, reduction="sum")
    return (error + networks.gaussian_kl(mean, log_variance)) / len(x)


def _parameters(encoder: nn.Module, decoder: nn.Module) -> list[nn.Parameter]:
    return [*encoder.parameters(), *decoder.parameters()]
