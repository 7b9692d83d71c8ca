"""Lightning: its ``Trainer`` with a DataLoader, without logger, checkpoints and progress bar."""

from __future__ import annotations

import tempfile
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from contenders import networks
from contenders.job import Job, Laps
from contenders.workloads import LEARNING_RATE


class Module(lightning.LightningModule):
    def __init__(self, job: Job, laps: Laps) -> None:
        super().__init__()
        self.job, self.laps = job, laps
        self.encoder, self.decoder = networks.pair(job)
        self.total = torch.zeros(())

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        loss = networks.loss(self.encoder, self.decoder, batch[0], self.job.workload)
        self.total += loss.detach()
        return loss

    def on_train_epoch_end(self) -> None:
        self.laps.end_epoch(float(self.total) / self.job.steps)
        self.total = torch.zeros(())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE, eps=self.job.workload.adam_eps)


def train(job: Job, laps: Laps) -> dict[str, float]:
    laps.start()
    torch.set_num_threads(job.threads)
    lightning.seed_everything(job.seed, verbose=False)
    loader = DataLoader(TensorDataset(networks.resident_rows(job)), batch_size=job.workload.batch, shuffle=True)
    with tempfile.TemporaryDirectory(dir=job.cache) as folder:
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=job.epochs,
            default_root_dir=folder,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(Module(job, laps), loader)
    return {}
