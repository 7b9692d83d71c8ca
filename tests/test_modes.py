"""Whatever only uses a model runs in evaluation mode, and leaves every submodule in the mode it was in."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import lowerbound as lb
from lowerbound import distributions, evidence, queries
from lowerbound.data import Rows, Sequences
from lowerbound.distributions import generator
from lowerbound.model import LatentVariableModel
from lowerbound.modes import eval_mode, in_eval_mode, modules_in
from lowerbound.nn import seeded
from lowerbound.posteriors import Posterior
from lowerbound.queries.denoising import Flips, denoise

D, N = 2, 8
X = (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
MASK = torch.rand(N, 6, generator=torch.Generator().manual_seed(1)) < 0.7
FEW = evidence.Settings(temperatures=4, chains=3, leapfrogs=2)


def network(n_in: int, n_out: int) -> nn.Sequential:
    """With dropout, and a batch normalisation whose buffers are far from any batch."""
    layers = nn.Sequential(nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, n_out))
    assert isinstance(layers[1], nn.BatchNorm1d)
    layers[1].running_mean += 0.7
    layers[1].running_var *= 3
    return layers


class Parts:
    """A model, its posterior, and the same as plain functions."""

    def __init__(self) -> None:
        with seeded(1):
            decoder, encoder = network(D, 6), network(6, 2 * D)
        self.model = LatentVariableModel(lb.priors.Normal(D), decoder, lb.likelihoods.Bernoulli())
        self.posterior: Posterior = lb.posteriors.DiagonalNormal(D, encoder)
        self.vae = lb.VAE(latent_dim=D, hidden=(4,), epochs=1, random_state=0).fit(X.numpy())
        self.vae.model_, self.vae.posterior_ = self.model, self.posterior
        with seeded(2):
            prior, decoder = lb.priors.Markov(D, 4, network(D, 2 * D)), lb.nn.EachStep(network(D, 6))
            self.smoother = lb.posteriors.Markov(D, lb.nn.Recurrent((6,), 2 * D, 4), 4)
        bits = lb.likelihoods.EachStep(lb.likelihoods.Bernoulli())
        self.chain = LatentVariableModel(prior, decoder, bits)

    @property
    def targets(self) -> evidence.Targets:
        return evidence.of_model(self.model, self.posterior)

    @property
    def functions(self) -> evidence.Targets:
        decoder, encoder = self.model.decoder, self.posterior.encoder

        def log_joint(z: Tensor, x: Tensor) -> Tensor:
            return self.model.likelihood.log_prob(
                decoder(z.flatten(0, 1)).view(*z.shape[:2], 1, -1), x
            ) - z.square().sum(2)

        def posterior(x: Tensor) -> distributions.Distribution:
            loc, scale = encoder(x).chunk(2, 1)
            return distributions.Normal(loc, scale.exp())

        return evidence.of_functions(log_joint, posterior, (D,), distributions.Normal(torch.zeros(D), torch.ones(D), 0))

    def modules(self) -> list[nn.Module]:
        return [each for part in self.parts() for each in part.modules()]

    def buffers(self) -> list[Tensor]:
        return [each for part in self.parts() for each in part.state_dict().values()]

    def parts(self) -> tuple[nn.Module, ...]:
        return self.model, self.posterior, self.chain, self.smoother


def rng() -> torch.Generator:
    return generator(3, "use")


ROWS = Rows(X)
BATCH = ROWS.batch(torch.arange(N), torch.ones(N))
HOLES = Rows(torch.where(MASK, X, 0), MASK)
CHAINS = Sequences([X[:4], X[4:7], X[7:]])

USES: dict[str, Callable[[Parts], Any]] = {
    "log_likelihood": lambda p: evidence.log_likelihood(p.model, p.posterior, X, samples=20),
    "importance_sampling": lambda p: evidence.importance_sampling(p.targets, ROWS, rng(), 20, 3),
    "importance_sampling of functions": lambda p: evidence.importance_sampling(p.functions, ROWS, rng(), 20),
    "to_precision": lambda p: evidence.to_precision(p.targets, ROWS, rng(), 0.5, 300),
    "to_precision of functions": lambda p: evidence.to_precision(p.functions, ROWS, rng(), 0.5, 300),
    "score_rows": lambda p: evidence.score_rows(p.model, p.posterior, BATCH, 9, rng()),
    "annealed": lambda p: evidence.annealed(p.targets, ROWS, rng(), FEW),
    "annealed of functions": lambda p: evidence.annealed(p.functions, ROWS, rng(), FEW),
    "steadiness": lambda p: evidence.steadiness(p.targets, ROWS, rng(), FEW),
    "sandwich": lambda p: evidence.sandwich(p.targets, evidence.simulator(p.model, p.posterior), rng(), 5, FEW),
    "simulator": lambda p: evidence.simulator(p.model, p.posterior)(5, rng())[1].x,
    "appendix_d": lambda p: evidence.appendix_d(
        p.targets, ROWS, rng(), draws=5, chains=evidence.early_estimators.Chains(5, 5, 2)
    ),
    "gap_report": lambda p: evidence.gap_report(p.model, p.posterior, X, steps=3, samples=10),
    "calibrate": lambda p: evidence.calibrate(p.model, p.posterior, simulations=20, draws=9),
    "collapse": lambda p: evidence.collapse(p.model, p.posterior, X),
    "terms": lambda p: evidence.terms(p.model, p.posterior, X, samples=9),
    "predictive_check": lambda p: evidence.predictive_check(p.model, p.posterior, X, replications=4, given="posterior"),
    "judge_model": lambda p: evidence.judge_model(
        p.model, p.posterior, X, budget=300, anneal=2, simulate=2, settings=FEW, gaps=0, simulations=20
    ),
    "complete": lambda p: queries.complete(p.model, p.posterior, HOLES, rng(), draws=2, samples=50, refine="gibbs"),
    "condition": lambda p: queries.condition(p.model, p.posterior, X[0], MASK[0], 5, rng(), samples=50).rows,
    "conditional": lambda p: queries.conditional(p.model, p.posterior, X[0], MASK[0], 5, rng(), samples=50),
    "anomaly": lambda p: queries.anomaly(p.model, p.posterior, HOLES, rng(), 50),
    "posterior_chains": lambda p: queries.posterior_chains(p.model, p.posterior, HOLES, rng(), draws=12),
    "posterior_draws": lambda p: queries.posterior_draws(p.model, p.posterior, HOLES, rng(), draws=3, samples=50),
    "denoise": lambda p: denoise(p.model, p.posterior, X, Flips(0.1), rng(), samples=50, refine=False),
    "filtered": lambda p: queries.filtered(p.chain, CHAINS, rng(), particles=20),
    "smoothed": lambda p: queries.smoothed(p.chain, p.smoother, CHAINS, rng(), samples=20),
    "forecast": lambda p: queries.forecast(p.chain, p.smoother, CHAINS, 2, rng(), draws=5, samples=20),
    "model.sample": lambda p: p.model.sample(5, rng()),
    "prior.sample": lambda p: p.model.prior.sample(5, rng()),
    "encode": lambda p: p.vae.encode(X.numpy()),
    "transform": lambda p: p.vae.transform(X.numpy()),
    "kl": lambda p: p.vae.kl(X.numpy()),
    "inverse_transform": lambda p: p.vae.inverse_transform(np.ones((3, D), np.float32)),
    "reconstruct": lambda p: p.vae.reconstruct(X.numpy()),
    "sample": lambda p: p.vae.sample(5),
    "score_samples": lambda p: p.vae.score_samples(X.numpy(), samples=9),
    "score": lambda p: p.vae.score(X.numpy()),
    "VAE.log_likelihood": lambda p: p.vae.log_likelihood(X.numpy(), budget=300),
    "VAE.log_likelihood(samples)": lambda p: p.vae.log_likelihood(X.numpy(), samples=20),
    "evidence": lambda p: p.vae.evidence(
        X.numpy(), budget=300, anneal=2, simulate=2, settings=FEW, gaps=0, simulations=20
    ),
}


@pytest.fixture(autouse=True)
def _quiet(recwarn: pytest.WarningsRecorder) -> Iterator[None]:
    """Few draws of a model that fits nothing are warned of, and that is not what is tested."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)
        yield


def numbers(found: Any) -> list[np.ndarray]:
    """All numbers that an answer holds."""
    if isinstance(found, Tensor):
        return [found.detach().numpy()]
    if isinstance(found, np.ndarray | float | int):
        return [np.asarray(found)]
    if isinstance(found, pd.DataFrame):
        return [found.to_numpy()]
    if isinstance(found, dict):
        return [each for value in found.values() for each in numbers(value)]
    if isinstance(found, tuple | list):
        return [each for value in found for each in numbers(value)]
    return [each for value in vars(found).values() for each in numbers(value)] if hasattr(found, "__dict__") else []


def assert_same(a: Any, b: Any) -> None:
    pairs = list(zip(numbers(a), numbers(b), strict=True))
    assert pairs
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", USES)
def test_uses_are_in_evaluation_mode_and_leave_modes_and_buffers_alone(name):
    use = USES[name]
    still = Parts()
    for module in still.modules():
        module.eval()
    due = use(still)
    parts = Parts()
    for number, module in enumerate(parts.modules()):
        module.training = number % 5 != 3  # as a user might freeze some
    modes, before = [module.training for module in parts.modules()], [buffer.clone() for buffer in parts.buffers()]
    assert_same(use(parts), due)
    assert_same(use(parts), due)
    assert [module.training for module in parts.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(parts.buffers(), before, strict=True))


def test_every_public_function_that_takes_a_model_is_in_the_table():
    makers = {"of_model", "of_functions"}
    for package in (evidence, queries):
        for name in set(package.__all__) - makers:
            function = getattr(package, name)
            takes = inspect.signature(function).parameters if inspect.isfunction(function) else {}
            assert not takes.keys() & {"model", "targets", "posterior"} or name in USES, name


def test_tables_are_asked_in_evaluation_mode():
    frame = pd.DataFrame({"a": np.arange(40.0) % 7, "b": ["x", "y"] * 20}).mask(MASK.repeat(5, 1)[:, :2].numpy() < 1)
    vae = lb.VAE(latent_dim=D, hidden=(4,), epochs=1, random_state=0).fit(frame)
    last = vae.posterior_.encoder.second
    vae.posterior_.encoder.second = nn.Sequential(nn.Dropout(0.9), last)
    vae.posterior_.eval()
    asked = [lambda: vae.impute(frame), lambda: vae.anomaly(frame).score, lambda: vae.sample(3, given={"b": "x"})]
    due = [ask() for ask in asked]
    vae.posterior_.train()
    for ask, answer in zip(asked, due, strict=True):
        assert_same(ask(), answer) if not isinstance(answer, pd.DataFrame) else pd.testing.assert_frame_equal(
            ask(), answer
        )
    assert all(module.training for module in vae.posterior_.modules())


def test_modes_are_restored_after_an_error():
    parts = Parts()
    parts.model.decoder[3].eval()
    modes = [module.training for module in parts.modules()]
    with pytest.raises((RuntimeError, ValueError)):
        evidence.log_likelihood(parts.model, parts.posterior, torch.zeros(4, 5))
    assert [module.training for module in parts.modules()] == modes


def test_uses_at_once_leave_no_wrong_mode():
    parts = Parts()
    module, entered, leave = parts.model.decoder, threading.Event(), threading.Event()
    seen = []

    def first() -> None:
        with eval_mode(module):
            entered.set()
            leave.wait(600)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(600)
    with eval_mode(module):
        leave.set()
        thread.join()  # the first to come is the first to go
        seen.append([each.training for each in module.modules()])
    assert seen == [[False] * 6]
    assert all(each.training for each in module.modules())


def test_two_threads_score_one_model_alike():
    parts = Parts()
    due = evidence.log_likelihood(parts.model, parts.posterior, X, samples=50).estimate
    found: list[np.ndarray] = []

    def ask() -> None:
        found.extend(evidence.log_likelihood(parts.model, parts.posterior, X, samples=50).estimate for _ in range(20))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80
    assert all(np.array_equal(each, due) for each in found)
    assert all(module.training for module in parts.modules())


class Frozen(nn.BatchNorm1d):
    """A module with a mode of its own: it is never in training mode, and counts how often it is asked."""

    asked = 0

    def train(self, mode: bool = True) -> Frozen:
        self.asked += 1
        super().train(False)
        return self


class Merged(nn.Linear):
    """One that does something when it changes mode, as adapters that are merged for use do."""

    merged = False

    def train(self, mode: bool = True) -> Merged:
        self.merged = not mode
        super().train(mode)
        return self


def test_the_own_train_of_a_module_is_called():
    frozen, merged = Frozen(2).train(), Merged(2, 2)
    whole = nn.Sequential(frozen, nn.Sequential(merged, nn.Dropout()))
    before = frozen.asked
    with eval_mode(whole):
        assert merged.merged
        assert not any(each.training for each in whole.modules())
    assert not merged.merged
    assert [each.training for each in whole.modules()] == [True, False, True, True, True]
    assert frozen.asked == before


NET = nn.Linear(1, 1)


def by_global(z: Tensor) -> Tensor:
    return next(NET(each) for each in z)


class Holder:
    def __init__(self) -> None:
        self.net = nn.Linear(1, 1)

    def method(self, z: Tensor) -> Tensor:
        return self.net(z)


def test_modules_are_found_where_functions_refer_to_them():
    net, holder = nn.Linear(1, 1), Holder()
    nested = nn.Sequential(net, nn.Dropout())
    flow = distributions.Flow(torch.zeros(1, 2), torch.ones(1, 2), None, distributions.flow.Transforms(2))
    table = [
        (nested, [nested, net, nested[1]]),
        (lambda z: net(z), [net]),
        (partial(lambda f, z: f(z), net), [net]),
        (partial(len, {"a": [net]}), [net]),
        (holder.method, [holder.net]),
        (lambda z: holder.net(z), [holder.net]),
        (by_global, [NET]),
        (flow, list(flow.transforms.modules())),
        (in_eval_mode(lambda z: net(z)), [net]),
        (lambda z, f=net: f(z), [net]),
        (3.0, []),
        (X, []),
        (evidence.to_precision, []),
    ]
    for thing, due in table:
        assert list(modules_in(thing)) == due, thing
