"""Steps compiled or recorded give what autograd gives, in the precision that was asked for, or are said not to."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from oracles import rng
from torch import nn

import lowerbound as lb
from lowerbound.draw import Batch
from lowerbound.inference.aevb import AEVBProcedure
from lowerbound.likelihoods import Bernoulli, Categorical, DiscretizedLogistic, NegativeBinomial, Normal, Poisson
from lowerbound.model import draw
from lowerbound.nn import MLP, apply, products, seeded
from lowerbound.objectives import free_bits, iwae
from lowerbound.process import Draws
from lowerbound.training import Metrics
from lowerbound.training.captured import Captured
from lowerbound.training.compiled import Backward, Compiled

ROWS, VALUES, LATENTS = 12, 8, 3


def built(
    likelihood=None, decoder: nn.Module | None = None, encoder: nn.Module | None = None, **settings
) -> AEVBProcedure:
    """A small model under way, in single precision."""
    likelihood = likelihood or Bernoulli()
    out = (VALUES,) if likelihood.n_parameters == 1 else (likelihood.n_parameters, VALUES)
    with seeded(0):
        encoder = encoder or MLP((VALUES,), (2 * LATENTS,), (16,))
        decoder = decoder or MLP((LATENTS,), out, (16,))
    model = lb.LatentVariableModel(lb.priors.Normal(LATENTS), decoder, likelihood)
    return lb.AEVB(lb.posteriors.DiagonalNormal(LATENTS, encoder), **settings).start(model)


def batch(rows: int = ROWS, masked: bool = False) -> Batch:
    """Rows of zeros and ones, the last of no weight."""
    x = (torch.rand(rows, VALUES, generator=rng(1)) < 0.4).float()
    mask = torch.rand(rows, VALUES, generator=rng(2)) < 0.7 if masked else None
    weight = torch.full((rows,), 1 / (rows - 1)) * (torch.arange(rows) < rows - 1)
    return Batch(x, mask, torch.arange(rows), weight)


def scalars() -> dict[str, torch.Tensor]:
    return {"learning_rate": torch.tensor(1e-3), "beta": torch.tensor(0.5)}


def gradients(procedure: AEVBProcedure) -> list[torch.Tensor | None]:
    """The parameters' gradients, taken away from them."""
    parameters = list(nn.ModuleDict(procedure.state.modules).parameters())
    found = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


def untouched(graph, examples):
    """A backend that runs the traced graph as it is."""
    return graph


def by_autograd(procedure: AEVBProcedure) -> Backward:
    return Backward(procedure.state.modules, procedure.loss)


def of(procedure: AEVBProcedure, backend=untouched, tolerance: float = 1e-3) -> Compiled:
    return Compiled(procedure.state.modules, procedure.loss, tolerance, backend)


class Stubborn(nn.Module):
    """A network that reads a value back, which no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(LATENTS, VALUES)

    def forward(self, z):
        return self.layer(z) * (2.0 if z.sum().item() > 0 else 1.0)


class Forgetful(nn.Module):
    """A network whose second call, and each after it, is another function than the first: a trace freezes one."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(LATENTS, VALUES), 0

    def forward(self, z):
        self.calls += 1
        return self.layer(z) * (1.0 if self.calls == 1 else 1.1)


def with_batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(VALUES, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2 * LATENTS))


def with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(LATENTS, 16), nn.Dropout(0.4), nn.Tanh(), nn.Linear(16, VALUES))


CASES = {
    "elbo": lambda: built(),
    "iwae": lambda: built(objective=iwae, draws=5),
    "weighted": lambda: built(beta=lb.training.WarmUp(2), penalties=(partial(free_bits, floor=0.5),)),
    "normal": lambda: built(Normal("dimension", shape=(VALUES,))),
    "normal per entry": lambda: built(Normal("entry")),
    "categorical": lambda: built(Categorical(4)),
    "discretised logistic": lambda: built(DiscretizedLogistic(4)),
    "poisson": lambda: built(Poisson()),
    "negative binomial": lambda: built(NegativeBinomial(), objective=iwae, draws=3),
    "batch normalisation": lambda: built(encoder=with_batch_norm()),
    "dropout": lambda: built(decoder=with_dropout()),
    "a parameter that is not learned": lambda: frozen(built()),
    "bf16": lambda: built(precision="bf16"),
}


def frozen(procedure: AEVBProcedure) -> AEVBProcedure:
    next(procedure.model.decoder.parameters()).requires_grad_(False)
    return procedure


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_traced_step_is_that_of_autograd(case, masked):
    one = CASES[case]()
    other, compiled = copy.deepcopy(one), of(one)
    tolerance = 2e-2 if case == "bf16" else 1e-6
    for step in range(3):  # the first is checked against autograd itself, the next ones are not
        noise, rows = one.noise(ROWS, rng(step)), batch(masked=masked)
        found, true = [], []
        for procedure, run, result in ((one, compiled, found), (other, other._backward, true)):
            with Draws(step).lent(), products(procedure.settings.precision):
                result += [run(rows, noise, scalars()), gradients(procedure)]
        for name, value in true[0].items():
            torch.testing.assert_close(found[0][name], value, rtol=tolerance, atol=1e-6)
        for mine, its in zip(found[1], true[1], strict=True):
            assert (mine is None) == (its is None)
            if its is not None:
                torch.testing.assert_close(mine, its, rtol=tolerance, atol=tolerance * float(its.norm()) + 1e-7)
    for name, value in other.state.module_tensors().items():  # running means of batch normalisation too
        torch.testing.assert_close(one.state.module_tensors()[name], value, rtol=1e-6, atol=1e-6)


def test_gradients_of_parts_add_up_and_each_shape_has_its_graph():
    procedure, seen = built(), []
    compiled = of(procedure, lambda graph, examples: seen.append(1) or graph)
    noise = procedure.noise(ROWS, rng())
    for part in (slice(0, 5), slice(5, 10), slice(10, 12)):
        compiled(batch()[part], noise[:, part], scalars(), anew=False)
    added = gradients(procedure)
    by_autograd(procedure)(batch(), noise, scalars())
    for mine, its in zip(added, gradients(procedure), strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("backend", "why"),
    [
        (lambda graph, examples: lambda *a: [1.01 * g for g in graph(*a)], "differ from autograd's by 0.01"),
        (lambda graph, examples: lambda *a: [-g for g in graph(*a)], "differ from autograd's by 2"),
        (lambda graph, examples: lambda *a: [None, *graph(*a)[1:]], "not of the parameters"),
        (lambda graph, examples: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_a_wrong_graph_is_not_used_and_that_is_said(backend, why):
    procedure = built()
    noise, compiled = procedure.noise(ROWS, rng()), of(procedure, backend)
    with pytest.warns(RuntimeWarning, match=f"the step runs uncompiled.*{why}"):
        compiled(batch(), noise, scalars())
    found = gradients(procedure)
    by_autograd(procedure)(batch(), noise, scalars())
    assert all(torch.equal(mine, its) for mine, its in zip(found, gradients(procedure), strict=True))
    compiled(batch(), noise, scalars())  # and it is said once


@pytest.mark.parametrize(("network", "why"), [(Stubborn, "DataDependent"), (Forgetful, "differ from autograd's")])
def test_a_network_that_cannot_be_traced_is_run_as_it_is(network, why):
    with seeded(0):
        decoder = network()
    procedure = built(decoder=decoder)
    with pytest.warns(RuntimeWarning, match=f"the step runs uncompiled.*{why}"):
        of(procedure)(batch(), procedure.noise(ROWS, rng()), scalars())
    assert all(gradient is not None for gradient in gradients(procedure))


def digits() -> np.ndarray:
    """Whole batches of 100: each other shape would be compiled too."""
    return (lb.data.digits().train[:1400] > 8).astype(np.uint8)


def fitted(**settings) -> lb.VAE:
    settings = {"epochs": 3, "hidden": (32,), "validation": 0, "random_state": 0, "threads": 1} | settings
    return lb.VAE(4, **settings).fit(digits())


def test_a_compiled_fit_ends_where_the_other_does():
    """Real TorchInductor, through the public ``fit``; and dropout draws the same numbers."""
    decoder = nn.Sequential(nn.Linear(4, 32), nn.Dropout(0.2), nn.SiLU(), nn.Linear(32, 64), nn.Unflatten(1, (8, 8)))
    one, other = fitted(decoder=decoder), fitted(decoder=decoder, compile=True)
    ends = [vae.history_.records[-1]["train_objective"] for vae in (one, other)]
    assert ends[0] == pytest.approx(ends[1], abs=2e-3)
    assert ends[0] != fitted(decoder=decoder, random_state=1).history_.records[-1]["train_objective"]


def test_without_a_compiler_the_fit_goes_on():
    from torch._inductor import config

    without = config.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True})
    with without, pytest.warns(RuntimeWarning, match="the step runs uncompiled"):
        vae = fitted(compile=True, epochs=1)
    assert vae.history_.stopped == "epochs"
    assert not config.force_disable_caches  # and no other test meets it


# --- precision ---


def test_bf16_is_of_products_alone():
    procedure, one = built(precision="bf16"), built()
    noise = one.noise(ROWS, rng())
    with products("bf16"):
        kept = apply(procedure.model.decoder, noise[0])
        rounded = draw(procedure.model, procedure.settings.posterior, batch(), noise)
    exact = draw(one.model, one.settings.posterior, batch(), noise)
    assert kept.dtype == rounded.log_lik.dtype == rounded.nodes[0].z.dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in procedure.model.parameters())
    error = (rounded.log_lik - exact.log_lik).abs().max()
    assert 1e-5 < error < 0.05  # bf16 has 8 bits: ~0.4 % of a logit
    # the densities are computed in float32: those of the rounded latents are the rounded draw's to the last bits
    q = rounded.nodes[0]
    torch.testing.assert_close(q.log_p, lb.priors.Normal(LATENTS)().log_prob(q.z), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("compile", [False, True])
def test_bf16_gradients_are_those_of_float32_to_their_rounding(compile):
    exact, rounded = built(), built(precision="bf16", compile=compile)
    rounded._backward = of(rounded, tolerance=5e-2) if compile else rounded._backward
    noise = exact.noise(ROWS, rng())
    by_autograd(exact)(batch(), noise, scalars())
    with products("bf16"):
        rounded._backward(batch(), noise, scalars())
    true, found = (torch.cat([g.flatten() for g in gradients(procedure)]) for procedure in (exact, rounded))
    assert 1e-4 < (found - true).norm() / true.norm() < 2e-2


def test_bf16_learns_as_well():
    exact, rounded = fitted(epochs=30), fitted(epochs=30, precision="bf16")
    ends = [vae.history_.records[-1]["train_objective"] for vae in (exact, rounded)]
    assert ends[0] == pytest.approx(ends[1], abs=0.5)
    assert ends[0] != ends[1]
    assert all(p.dtype == torch.float32 for p in rounded.model_.parameters())


def test_a_precision_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="precision is 'half'"):
        fitted(precision="half")
    with pytest.raises(ValueError, match='precision="tf32" is for GPUs'):
        fitted(precision="tf32")
    with pytest.raises(ValueError, match="precision is 'bf8'"):
        built(precision="bf8")
    with pytest.raises(ValueError, match="compile is 'yes'"):
        fitted(compile="yes")


# --- recorded steps ---


def in_fixed_memory(function):
    """What a CUDA graph does, by running the function again: its result comes to lie in the same tensors each time."""
    held: Metrics = {name: torch.zeros(()) for name in ("objective", "log_lik", "kl")}

    def replay() -> None:
        for name, value in function().items():
            held[name].copy_(value)

    return replay, held


def steps(procedure: AEVBProcedure, update, count: int) -> list[float]:
    objectives = []
    for step in range(count):
        its = scalars() | {"learning_rate": torch.tensor(1e-2 / (1 + step))}
        rows = replace(batch(), x=batch().x.roll(step, 0))
        objectives.append(float(update(procedure.state, rows, procedure.noise(ROWS, rng(step)), its)["objective"]))
    return objectives


def test_a_recorded_step_reads_each_batch_and_each_scalar_anew():
    one, other, records = built(beta=lb.training.WarmUp(2)), built(beta=lb.training.WarmUp(2)), []
    recorded = Captured(one._plain_update, lambda function: records.append(1) or in_fixed_memory(function))
    assert steps(one, recorded, 8) == steps(other, other._plain_update, 8)
    assert len(records) == 1
    for name, value in other.state.tensors().items():
        assert torch.equal(one.state.tensors()[name], value), name


def test_a_step_is_recorded_anew_where_the_state_moved():
    procedure, records = built(), []
    recorded = Captured(procedure._plain_update, lambda function: records.append(1) or in_fixed_memory(function))
    steps(procedure, recorded, 5)
    start = {name: value.clone() for name, value in procedure.state.tensors().items()}
    steps(procedure, recorded, 2)
    procedure.state.load(start)  # fills the same tensors: the recording still holds
    steps(procedure, recorded, 2)
    assert len(records) == 1
    procedure.state.load({name: value for name, value in start.items() if not name.startswith("optimizer.")})
    steps(procedure, recorded, 5)
    assert len(records) == 2


def test_what_cannot_be_recorded_runs_as_it_is():
    one, other = built(), built()

    def refuse(function):
        raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.warns(RuntimeWarning, match="the step is not recorded.*stream is capturing"):
        assert steps(one, Captured(one._plain_update, refuse), 6) == steps(other, other._plain_update, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_a_cuda_graph_gives_the_steps_of_the_same_card(precision):
    one, other = (fitted(device="cuda", compile=compile, precision=precision, epochs=5) for compile in (True, False))
    ends = [vae.history_.records[-1]["train_objective"] for vae in (one, other)]
    assert ends[0] == pytest.approx(ends[1], abs=0.05)


# --- memory ---

TURNOVER = """
import resource, sys, torch
from lowerbound.training.allocator import keep_memory
assert keep_memory() is (sys.argv[1] == "keep")
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3): torch.ones(20_000_000)
before = faults()
for _ in range(10): torch.ones(20_000_000)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's malloc")
def test_freed_memory_is_kept_for_the_next_step_unless_told_not_to():
    def faults(kind: str, **environment: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", TURNOVER, kind], capture_output=True, text=True, env=os.environ | environment
        )
        assert done.returncode == 0, done.stderr
        return int(done.stdout)

    assert faults("keep") < 1000 < 100_000 < faults("return", LOWERBOUND_MALLOPT="0")  # 10 × 80 MB, in pages of 4 kB
