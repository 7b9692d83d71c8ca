"""pythae: ``BaseTrainer`` with its ``VAE`` around the common networks."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from pythae.trainers.training_callbacks import TrainingCallback
from torch import Tensor, nn

from contenders import networks
from contenders.job import Job, Laps
from contenders.workloads import LEARNING_RATE, PIXELS


class Encoder(BaseEncoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> ModelOutput:
        mean, log_variance = self.network(x).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> ModelOutput:
        return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))


class Watch(TrainingCallback):
    def __init__(self, laps: Laps) -> None:
        self.laps = laps

    def on_log(self, training_config: BaseTrainerConfig, logs: dict[str, float], **_: Any) -> None:
        self.laps.end_epoch(logs["train_epoch_loss"])


def train(job: Job, laps: Laps) -> dict[str, float]:
    laps.start()
    torch.set_num_threads(job.threads)
    encoder, decoder = networks.pair(job)
    about = VAEConfig(input_dim=(PIXELS,), latent_dim=job.workload.latents, reconstruction_loss="bce")
    rows = BaseDataset(networks.resident_rows(job), torch.zeros(job.rows))
    with tempfile.TemporaryDirectory(dir=job.cache) as folder:
        config = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=job.epochs,
            per_device_train_batch_size=job.workload.batch,
            learning_rate=LEARNING_RATE,
            optimizer_params={"eps": job.workload.adam_eps},
            seed=job.seed,
            no_cuda=True,
        )
        model = VAE(about, Encoder(encoder), Decoder(decoder))
        BaseTrainer(model, rows, training_config=config, callbacks=[Watch(laps)]).train()
    return {}
