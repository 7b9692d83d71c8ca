"""JAX: an epoch is one compiled ``lax.scan`` over its batches, with optax's Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from contenders.job import Job, Laps
from contenders.workloads import LEARNING_RATE, Workload, load_rows, load_weights

Network = list[tuple[Array, Array]]


def train(job: Job, laps: Laps) -> dict[str, float]:
    laps.start()
    optimizer = optax.adam(LEARNING_RATE, eps=job.workload.adam_eps)
    networks = tuple(as_network(parameters) for parameters in load_weights(job.cache, job.workload))
    state = (networks, optimizer.init(networks), jax.random.key(job.seed))
    rows = jnp.asarray(load_rows(job.cache, job.rows), jnp.float32)
    epoch = jax.jit(epoch_of(job, optimizer), donate_argnums=0)
    for _ in range(job.epochs):
        state, loss = epoch(state, rows)
        laps.end_epoch(float(loss))
    return {}


def epoch_of(job: Job, optimizer: optax.GradientTransformation) -> Any:
    def step(state: Any, batch: Array) -> Any:
        networks, moments, key = state
        key, of_step = jax.random.split(key)
        loss, gradient = jax.value_and_grad(loss_of)(networks, batch, of_step, job.workload)
        updates, moments = optimizer.update(gradient, moments)
        return (optax.apply_updates(networks, updates), moments, key), loss

    def epoch(state: Any, rows: Array) -> Any:
        networks, moments, key = state
        key, of_order = jax.random.split(key)
        order = jax.random.permutation(of_order, job.rows).reshape(job.steps, job.workload.batch)
        state, losses = jax.lax.scan(lambda state, index: step(state, rows[index]), (networks, moments, key), order)
        return state, losses.mean()

    return epoch


def as_network(parameters: Sequence[Any]) -> Network:
    """Weights ``[in, out]`` and biases of each layer."""
    return [
        (jnp.asarray(weight.T), jnp.asarray(bias))
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True)
    ]


def apply(network: Network, x: Array) -> Array:
    for weight, bias in network[:-1]:
        x = jnp.tanh(x @ weight + bias)
    weight, bias = network[-1]
    return x @ weight + bias


def loss_of(networks: tuple[Network, Network], x: Array, key: Array, workload: Workload) -> Array:
    """−bound, the mean over the batch."""
    encoder, decoder = networks
    mean, log_variance = jnp.split(apply(encoder, x), 2, -1)
    draws = (workload.draws,) if workload.importance_weighted else ()
    noise = jax.random.normal(key, (*draws, *mean.shape))
    z = mean + jnp.exp(0.5 * log_variance) * noise
    logits = apply(decoder, z)
    log_lik = (logits * x - jax.nn.softplus(logits)).sum(-1)
    if workload.importance_weighted:
        log_ratio = 0.5 * (noise**2 - z**2 + log_variance).sum(-1)
        return -(jax.nn.logsumexp(log_lik + log_ratio, 0) - jnp.log(workload.draws)).mean()
    kl = -0.5 * (1 + log_variance - mean**2 - jnp.exp(log_variance)).sum(-1)
    return (kl - log_lik).mean()
