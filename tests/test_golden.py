"""Folders of format 2, kept as they were written by ``golden/format2/write.py``: they load, and answer as they did.

Figures are compared to the last digits of single precision, not bit by bit: other processors round otherwise.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import lowerbound as lb
from lowerbound.storage.contents import contents

GOLDEN = Path(__file__).parent / "golden" / "format2"


def numbers(name: str) -> np.ndarray:
    return np.loadtxt(GOLDEN / name, delimiter=",", skiprows=1)


def test_an_array_model_loads_and_its_fit_resumes(tmp_path):
    path = Path(shutil.copytree(GOLDEN / "run", tmp_path / "run"))
    assert json.loads((path / "config.json").read_bytes())["format"] == 2
    x, vae = lb.data.read(GOLDEN / "rows.csv").x, lb.load(path)
    np.testing.assert_allclose(vae.transform(x), numbers("latents.csv"), atol=1e-5)
    assert (vae.history_.stopped, len(vae.history_.records)) == ("epochs", 3)
    assert contents(path).problems == ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is another machine
        again = lb.VAE(**vae.get_params() | {"threads": 1, "epochs": 4}).fit(x, run_dir=path, checkpoint_every=2)
    assert [record["epoch"] for record in again.history_.records] == [1, 2, 3, 4]
    assert again.history_.records[:3] == vae.history_.records


def test_a_table_model_loads():
    vae, table = lb.load(GOLDEN / "table"), pd.read_csv(GOLDEN / "table.csv")
    np.testing.assert_allclose(vae.transform(table), numbers("table_latents.csv"), atol=1e-5)
    assert vae.missing == "self_masking"


def test_a_model_of_two_layers_loads():
    saved, x = lb.load(GOLDEN / "layers"), numbers("rows.csv").astype(np.float32)
    found = lb.log_likelihood(saved.model, saved.posterior, x, samples=10, seed=0).estimate
    np.testing.assert_allclose(found, numbers("layers_log_p.csv"), atol=1e-4)
