"""Write the golden folders of format 2 beside this file; run once, and never again for this format.

python tests/golden/format2/write.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

import lowerbound as lb
from lowerbound import likelihoods, posteriors, priors
from lowerbound.nn import MLP

HERE = Path(__file__).parent
QUICK = {"hidden": (4,), "batch_size": 10, "epochs": 3, "threads": 1, "random_state": 0}


def main() -> None:
    random = np.random.default_rng(0)
    x = (random.normal(size=(30, 2)) @ random.normal(size=(2, 3)) + 0.1 * random.normal(size=(30, 3))).round(3)
    np.savetxt(HERE / "rows.csv", x, fmt="%.3f", delimiter=",", header="a,b,c", comments="")
    x = lb.data.read(HERE / "rows.csv").x
    schedule = lb.training.Cosine(1e-2, epochs=3)
    vae = lb.VAE(2, learning_rate=schedule, **QUICK).fit(x, run_dir=HERE / "run", checkpoint_every=2)
    np.savetxt(HERE / "latents.csv", vae.transform(x), fmt="%.7f", delimiter=",", header="z0,z1", comments="")

    table = pd.DataFrame(
        {"size": x[:, 0], "count": random.poisson(3, 30), "colour": random.choice(["red", "blue"], 30)}
    )
    table.loc[[1, 5, 9], "size"] = None
    table.to_csv(HERE / "table.csv", index=False)
    table = pd.read_csv(HERE / "table.csv")
    lb.VAE(2, missing="self_masking", **QUICK).fit(table).save(HERE / "table")
    means = lb.load(HERE / "table").transform(table)
    np.savetxt(HERE / "table_latents.csv", means, fmt="%.7f", delimiter=",", header="z0,z1", comments="")

    torch.manual_seed(0)
    below = priors.ConditionalNormal(2, MLP((1,), (4,), (3,)))
    prior = priors.Latents({"z2": priors.Normal(1), "z1": below}, parents={"z1": ["z2"]})
    first, second = (
        posteriors.DiagonalNormal(2, MLP((4,), (4,), ())),
        posteriors.DiagonalNormal(1, MLP((4,), (2,), (), context=2)),
    )
    posterior = posteriors.Latents({"z1": first, "z2": second}, encoder=MLP((3,), (4,), ()), parents={"z2": ["z1"]})
    model = lb.LatentVariableModel(prior, MLP((2,), (3,), (4,)), likelihoods.Normal("dimension", (3,)), parents=["z1"])
    model.initialise(torch.tensor(x, dtype=torch.float32))
    fitted = lb.fit(model, x.astype(np.float32), lb.AEVB(posterior), epochs=2, batch_size=10, threads=1)
    lb.save(HERE / "layers", fitted.model, fitted.posterior, history=fitted.history)
    log_p = lb.log_likelihood(fitted.model, fitted.posterior, x.astype(np.float32), samples=10, seed=0).estimate
    np.savetxt(HERE / "layers_log_p.csv", log_p, fmt="%.6f", header="log_p", comments="")


if __name__ == "__main__":
    main()
