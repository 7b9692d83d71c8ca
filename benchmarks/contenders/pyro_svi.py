"""Pyro: stochastic variational inference with ``Trace_ELBO``, whose KL is sampled."""

from __future__ import annotations

import pyro
import torch
from pyro import distributions
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

from contenders import networks
from contenders.job import Job, Laps
from contenders.workloads import LEARNING_RATE


def train(job: Job, laps: Laps) -> dict[str, float]:
    laps.start()
    torch.set_num_threads(job.threads)
    pyro.set_rng_seed(job.seed)
    pyro.enable_validation(False)
    rows, inference = networks.resident_rows(job), prepare(job)
    for _ in range(job.epochs):
        batches = torch.randperm(job.rows).split(job.workload.batch)
        total = sum(inference.step(rows.index_select(0, index)) for index in batches)
        laps.end_epoch(total / job.rows)
    return {}


def prepare(job: Job) -> SVI:
    encoder, decoder = networks.pair(job)
    latents = job.workload.latents

    def model(x: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(x)):
            zeros = x.new_zeros(len(x), latents)
            z = pyro.sample("z", distributions.Normal(zeros, torch.ones_like(zeros)).to_event(1))
            pyro.sample("x", distributions.Bernoulli(logits=decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(x)):
            mean, log_variance = encoder(x).chunk(2, -1)
            pyro.sample("z", distributions.Normal(mean, torch.exp(0.5 * log_variance)).to_event(1))

    optimizer = pyro.optim.Adam({"lr": LEARNING_RATE, "eps": job.workload.adam_eps})
    return SVI(model, guide, optimizer, loss=Trace_ELBO())
