"""The three models, the rows that they are trained on, and the weights that every contender starts from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS = 60_000  # in an epoch
SIDE = 28
PIXELS = SIDE * SIDE
INK = 0.13  # the share of ones, about that of binarised MNIST
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Linear:
    inputs: int
    outputs: int

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.outputs, self.inputs)


@dataclass(frozen=True)
class Convolution:
    """4 × 4, stride 2, padding 1: halves the image of ``side``, or doubles it when ``transposed``."""

    inputs: int
    outputs: int
    side: int
    transposed: bool = False

    @property
    def weight_shape(self) -> tuple[int, ...]:
        channels = (self.inputs, self.outputs) if self.transposed else (self.outputs, self.inputs)
        return (*channels, 4, 4)


Layer = Linear | Convolution


@dataclass(frozen=True)
class Workload:
    """A model and how it is trained. ``rows``: those of one timed epoch."""

    name: str
    title: str
    encoder: tuple[Layer, ...]
    decoder: tuple[Layer, ...]
    latents: int
    batch: int
    draws: int = 1
    adam_eps: float = 1e-8
    rows: int = ROWS

    @property
    def layers(self) -> tuple[Layer, ...]:
        return (*self.encoder, *self.decoder)

    @property
    def convolutional(self) -> bool:
        return any(isinstance(layer, Convolution) for layer in self.layers)

    @property
    def importance_weighted(self) -> bool:
        return self.draws > 1


WORKLOADS = {
    "A": Workload(
        "A",
        "784-500-20-500-784, tanh, ELBO with the KL in closed form, one draw, batch 100",
        encoder=(Linear(PIXELS, 500), Linear(500, 40)),
        decoder=(Linear(20, 500), Linear(500, PIXELS)),
        latents=20,
        batch=100,
        rows=30_000,
    ),
    "B": Workload(
        "B",
        "784-200-200-50-200-200-784, tanh, IWAE bound with 50 draws, batch 20, Adam with eps 1e-4",
        encoder=(Linear(PIXELS, 200), Linear(200, 200), Linear(200, 100)),
        decoder=(Linear(50, 200), Linear(200, 200), Linear(200, PIXELS)),
        latents=50,
        batch=20,
        draws=50,
        adam_eps=1e-4,
        rows=2_000,
    ),
    "C": Workload(
        "C",
        "two convolutions and two transposed ones (32 and 64 channels, 4 × 4, stride 2), ReLU, 32 latents, batch 128",
        encoder=(Convolution(1, 32, 28), Convolution(32, 64, 14), Linear(64 * 49, 64)),
        decoder=(Linear(32, 64 * 49), Convolution(64, 32, 7, True), Convolution(32, 1, 14, True)),
        latents=32,
        batch=128,
        rows=10_240,
    ),
}


def rows_file(cache: Path) -> Path:
    return cache / "rows.npy"


def many_rows_file(cache: Path) -> Path:
    return cache / "many_rows.npy"


def weights_file(cache: Path, workload: Workload) -> Path:
    return cache / f"weights_{workload.name}.npz"


def load_rows(cache: Path, count: int) -> NDArray[np.uint8]:
    """The first ``count`` rows, in memory, ``[count, 784]`` of 0 and 1."""
    rows: NDArray[np.uint8] = np.load(rows_file(cache))
    return rows[:count]


def load_weights(cache: Path, workload: Workload) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
    """The encoder's and the decoder's initial parameters: weight, bias, weight, bias, …"""
    with np.load(weights_file(cache, workload)) as arrays:
        parameters = [arrays[f"{number:02}"] for number in range(2 * len(workload.layers))]
    encoders = 2 * len(workload.encoder)
    return parameters[:encoders], parameters[encoders:]


def prepare(cache: Path, seed: int, many_rows: int = 0) -> None:
    """Make the files of rows and weights that are not there yet; ``many_rows`` repeats the rows up to that number."""
    cache.mkdir(parents=True, exist_ok=True)
    if not rows_file(cache).exists():
        np.save(rows_file(cache), synthetic_rows(ROWS, seed=0))
    for workload in WORKLOADS.values():
        initial = initial_weights(workload, seed)
        named: dict[str, Any] = {f"{number:02}": each for number, each in enumerate(initial)}
        np.savez(weights_file(cache, workload), **named)
    if many_rows and (not many_rows_file(cache).exists() or len(np.load(many_rows_file(cache), "r")) < many_rows):
        _repeat(np.load(rows_file(cache)), many_rows, many_rows_file(cache))


def synthetic_rows(count: int, seed: int) -> NDArray[np.uint8]:
    """Binary 28 × 28 images ``[count, 784]`` of smooth blobs: where a random sum of 40 bumps is above a level."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    centres = rng.uniform(4, 24, (40, 2))
    bumps = np.stack([np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / 8).ravel() for at_y, at_x in centres])
    heights = rng.standard_normal((count, len(bumps)), np.float32) @ bumps.astype(np.float32)
    return (heights > np.quantile(heights[:3000], 1 - INK)).astype(np.uint8)


def initial_weights(workload: Workload, seed: int) -> list[NDArray[np.float32]]:
    """PyTorch's own initialisation of such layers: weights and biases uniform in ±1/√(fan-in)."""
    rng = np.random.default_rng([seed, ord(workload.name)])
    parameters = []
    for layer in workload.layers:
        bound = 1 / math.sqrt(math.prod(layer.weight_shape[1:]))  # of a transposed one, torch takes this for fan-in
        for shape in (layer.weight_shape, (layer.outputs,)):
            parameters.append(rng.uniform(-bound, bound, shape).astype(np.float32))
    return parameters


def _repeat(rows: NDArray[np.uint8], count: int, path: Path) -> None:
    many = np.lib.format.open_memmap(path, "w+", rows.dtype, (count, rows.shape[1]))
    for start in range(0, count, len(rows)):
        end = min(start + len(rows), count)
        many[start:end] = rows[: end - start]
    many.flush()
