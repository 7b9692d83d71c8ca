"""Our own: the public ``fit``, validation off."""

from __future__ import annotations

import time
import warnings
from functools import partial
from typing import Any

import torch
from torch import nn

import lowerbound as lb
from contenders import networks
from contenders.job import Job, Laps
from contenders.workloads import PIXELS, load_rows


def train(job: Job, laps: Laps, **settings: Any) -> dict[str, Any]:
    laps.start()
    looks: list[float] = []

    def watch(event: Any) -> None:
        looks.append(time.perf_counter())
        if event.record is not None:
            laps.end_epoch(-event.record["train_objective"])

    model, posterior = build(job)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        lb.fit(
            model,
            load_rows(job.cache, job.rows),
            inference(job, posterior, **settings),
            epochs=job.epochs,
            batch_size=job.workload.batch,
            validation=0,
            seed=job.seed,
            threads=job.threads,
            callbacks=[watch],
        )
    own = [str(each.message) for each in told if issubclass(each.category, RuntimeWarning)]
    return {"first_look_s": looks[0] - laps.moments[0], "warnings": own}


def build(job: Job) -> tuple[lb.LatentVariableModel, lb.posteriors.DiagonalNormal]:
    """The model and the posterior, with the common initial weights."""
    workload = job.workload
    encoder: nn.Module
    decoder: nn.Module
    if workload.convolutional:
        encoder, decoder = networks.empty_pair(workload)
    else:
        hidden = [layer.outputs for layer in workload.encoder[:-1]]
        encoder = lb.nn.MLP((PIXELS,), (2 * workload.latents,), hidden, nn.Tanh)
        decoder = lb.nn.MLP((workload.latents,), (PIXELS,), hidden[::-1], nn.Tanh)
    networks.load(job, encoder, decoder)
    model = lb.LatentVariableModel(lb.priors.Normal(workload.latents), decoder, lb.likelihoods.Bernoulli())
    return model, lb.posteriors.DiagonalNormal(workload.latents, encoder)


def inference(job: Job, posterior: lb.posteriors.DiagonalNormal, **settings: Any) -> lb.AEVB:
    """How the workload is learnt, with more ``settings`` of ``AEVB`` where they are not its defaults."""
    common = {"optimizer": partial(torch.optim.Adam, fused=True, eps=job.workload.adam_eps)}
    objective = lb.objectives.iwae if job.workload.importance_weighted else lb.objectives.elbo
    return lb.AEVB(posterior, objective=objective, draws=job.workload.draws, **(common | settings))
