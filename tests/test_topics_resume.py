"""Fits of topic models through ``lb.fit``: sparse batches, and the same bytes after a SIGKILL, also from files."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import topic_fits
import torch
import warm
from folders import tree
from scipy import sparse
from topic_fits import BATCH, LEARNERS, ROWS, Frequencies, Noisy, V, corpus

import lowerbound as lb
from lowerbound.data import Counts
from lowerbound.errors import DataError, FormatError
from lowerbound.storage.model import load
from lowerbound.topics import Csr, LDAModel, OnlineVB


@pytest.mark.parametrize("name", LEARNERS)
def test_killed_and_resumed_from_files_gives_the_same_bytes(name, tmp_path):
    topic_fits.fit(name, tmp_path / "whole", None)
    run, files = tmp_path / "cut", tmp_path / "files"
    for step in (9, 22) if name == "noisy" else (18,):
        done = warm.run(topic_fits.fit, name, run, files, step)
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (run / "config.json").exists()
    topic_fits.fit(name, run, files)
    assert tree(run) == tree(tmp_path / "whole")


@pytest.mark.parametrize("name", [name for name in LEARNERS if name not in ("noisy", "prod_lda")])
def test_a_loaded_model_gives_the_same_topics_to_each_document_alone(name, tmp_path):
    model, again = topic_fits.fit(name, tmp_path, None).model, load(tmp_path).model
    csr, some = corpus().csr, np.array([7, 0, 30])
    shares = model.transform(csr, 3)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-5)
    assert np.array_equal(again.transform(csr, 3), shares)
    assert np.array_equal(again.transform(csr.take(some), 3), shares[some])
    torch.testing.assert_close(again.topics().sum(1), torch.ones(len(again.topics())))
    assert torch.equal(again.topics(), model.topics())


def test_the_bytes_do_tell_seeds_of_kernels_apart(tmp_path, monkeypatch):
    first = topic_fits.fit("noisy", None, None).model.total
    noise = topic_fits.NoisyProcedure.noise
    monkeypatch.setattr(topic_fits.NoisyProcedure, "noise", lambda *given: noise(*given) + 1)
    assert not torch.equal(topic_fits.fit("noisy", None, None).model.total, first)


def steps_of(data, model=None, **options):
    """The batches that a learner of topics is given."""
    model, seen = Frequencies(V, 2) if model is None else model, []

    class Watched(Noisy):
        def start(self, model, rows):
            seen.append(super().start(model, rows))
            return seen[0]

    lb.fit(model, data, Watched(), **{"epochs": 1, "batch_size": BATCH, "validation": 0} | options)
    return model, seen[0].seen


FORMS = {
    "counts": lambda x: Counts.from_sparse(x),
    "scipy": sparse.csr_matrix,
    "array": lambda x: x.astype(np.float32),
    "tensor": torch.from_numpy,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_topic_model_is_given_sparse_batches_of_all_documents(form, dtype):
    x = sparse.csr_array((corpus().csr.counts, corpus().csr.indices, corpus().csr.indptr), (ROWS, V)).toarray()
    model, seen = steps_of(FORMS[form](x), Frequencies(V, 2).to(dtype))
    assert len(seen) == 6
    assert {(batch.x.layout, batch.x.dtype) for batch in seen} == {(torch.sparse_csr, dtype)}
    assert sum(Csr.from_batch(batch).rows for batch in seen) == ROWS
    assert torch.equal(model.total.sum(0) - 2, torch.from_numpy(x.sum(0)).to(dtype))


def test_a_sparse_batch_of_rows_is_not_asked_of_other_sources():
    x = torch.ones(4, V)
    _, seen = steps_of(lb.data.Rows(x))
    assert seen[0].x.layout == torch.strided


def test_fractions_need_a_learner_that_takes_them():
    data = Counts.from_sparse(np.array([[0.5, 1.0] + [0] * (V - 2)] * 3))
    with pytest.raises(DataError, match=r"document 0, word 0 is 0\.5, which Multinomial cannot produce"):
        steps_of(data)
    lb.fit(LDAModel(V, 2), data, OnlineVB(), epochs=1, validation=Counts.from_sparse([[0.5] + [0] * (V - 1)]))


def test_another_run_of_other_documents_is_refused(tmp_path):
    options = {"run_dir": tmp_path, "epochs": 2}
    steps_of(corpus(), **options)
    with pytest.raises(ValueError, match="data"):
        steps_of(corpus().subset(torch.arange(ROWS - 1)), **options)


def test_a_topic_model_is_saved_and_loaded(tmp_path):
    fitted = topic_fits.fit("noisy", tmp_path, None)
    with pytest.raises(FormatError, match="the model is your own Frequencies: pass it back"):
        load(tmp_path)
    again = load(tmp_path, model=Frequencies(V, 2))
    assert torch.equal(again.model.total, fitted.model.total)
    assert again.posterior is None
    assert lb.load(tmp_path, model=Frequencies(V, 2)).history.records == fitted.history.records
