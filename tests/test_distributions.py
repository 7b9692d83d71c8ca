"""Families of distributions and the posteriors that use them, held to torch, scipy, mpmath and closed forms.

One table, one contract. Seeds are fixed; were they not, the statistical tests of this file together would raise a
false alarm less than once in a thousand runs: some 400 z-tests at 5 standard errors, some 80 Kolmogorov–Smirnov
tests at p = 1e-6.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor, nn
from torch import distributions as oracle
from torch.nn import functional

from lowerbound import distributions, posteriors, priors
from lowerbound.distributions import (
    Beta,
    Dirichlet,
    Distribution,
    Flow,
    FullNormal,
    Gamma,
    HypersphericalUniform,
    LogisticNormal,
    LowRankNormal,
    Normal,
    NormalMixture,
    Transforms,
    VonMisesFisher,
    Weibull,
)
from lowerbound.distributions.bessel import log_bessel
from lowerbound.distributions.gamma import EULER, digamma_remainder
from lowerbound.distributions.sphere import _slope
from lowerbound.nn import MLP, seeded

STANDARD_ERRORS = 5
SMALLEST_P = 1e-6
ROWS = 2
Arrays = list[np.ndarray]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A family at some parameters.

    ``build``: raw parameters ``[…, B, *P]`` → the distribution. ``truth``: log-density ``[K, B]`` by another library.
    ``f``, ``expected``: a function of z and its mean in closed form, differentiable in the parameters.
    ``transform``: probability integral transforms of a row's draws, each uniform. ``mutant``: a parameter that is wrong
    by 10 %. ``base``: the density of noise from which z comes by a function that has an inverse.
    """

    build: Callable[..., Distribution]
    raw: dict[str, Tensor]
    event: tuple[int, ...]
    truth: Callable[[Any, Tensor], Tensor] | None
    f: Callable[[Tensor], Tensor]
    expected: Callable[[Any], Tensor] | None
    transform: Callable[[Any, np.ndarray], Arrays]
    mutant: str
    base: str | None = None
    draws: int = 100_000
    tested: int = 40_000
    far: list[dict[str, float]] = field(default_factory=list)

    @property
    def q(self) -> Any:
        return self.build(**self.raw)

    def noise(self, draws: int, rows: int = ROWS, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
        return self.q.noise((draws, rows), self.event, rng(seed), dtype)


# -- normals --------------------------------------------------------------------------------------------------------

SHIFT, TILT = tensor(1.0, -0.5, 0.7), tensor(0.3, 1.0, -0.6)


def quadratic(z: Tensor) -> Tensor:
    """(aᵀz)² + bᵀz, whose mean under any distribution is aᵀΣa + (aᵀμ)² + bᵀμ."""
    dim = z.shape[-1]
    return (z @ SHIFT[:dim]).square() + z @ TILT[:dim]


def quadratic_mean(mean: Tensor, covariance: Tensor) -> Tensor:
    dim = mean.shape[-1]
    return torch.einsum("i,...ij,j->...", SHIFT[:dim], covariance, SHIFT[:dim]) + quadratic(mean)


def covariance_of(q: Any) -> Tensor:
    root = q.root()
    return root @ root.mT


def full_normal(loc: Tensor, matrix: Tensor) -> FullNormal:
    diagonal = torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1).abs() + 0.3)
    return FullNormal(loc, matrix.tril(-1) + diagonal)


def projected(q: Any, z: np.ndarray) -> Arrays:
    """Two directions, one of them a coordinate."""
    directions = np.stack([[1.0, 0, 0], SHIFT.numpy()])
    mean, covariance = q.loc.numpy(), covariance_of(q).numpy()
    return [scipy.stats.norm.cdf(z @ a, mean @ a, math.sqrt(a @ covariance @ a)) for a in directions]


def correlated_log_prob(q: Any, z: Tensor) -> Tensor:
    return oracle.MultivariateNormal(q.loc, covariance_of(q)).log_prob(z)


FULL = Case(
    full_normal,
    {"loc": normals(ROWS, 3), "matrix": normals(ROWS, 3, 3, seed=1)},
    (3,),
    correlated_log_prob,
    quadratic,
    lambda q: quadratic_mean(q.loc, covariance_of(q)),
    projected,
    "scale_tril",
    base="normal",
    far=[{"loc": 1e6, "matrix": 1e-8}, {"loc": 1e6, "matrix": 1e6}, {"matrix": 1e-8}],
)
LOW_RANK = Case(
    LowRankNormal,
    {
        "loc": normals(ROWS, 3),
        "factor": normals(ROWS, 3, 2, seed=1),
        "scale": tensor([0.5, 0.8, 1.2], [1.0, 0.3, 0.6]),
    },
    (3,),
    lambda q, z: oracle.LowRankMultivariateNormal(q.loc, q.factor, q.scale.square()).log_prob(z),
    quadratic,
    lambda q: quadratic_mean(q.loc, covariance_of(q)),
    projected,
    "factor",
    far=[{"factor": 1e4, "scale": 1e-3}, {"scale": 1e6}, {"factor": 0, "scale": 1e-6}],
)


# -- mixture --------------------------------------------------------------------------------------------------------


def mixture_moments(q: NormalMixture) -> Tensor:
    shares = q.logits.softmax(-1)
    own = quadratic_mean(q.loc, torch.diag_embed(q.scale.square()))
    return (shares * own).sum(-1)


def mixture_log_prob(q: NormalMixture, z: Tensor) -> Tensor:
    each = oracle.Independent(oracle.Normal(q.loc, q.scale), 1)
    return oracle.MixtureSameFamily(oracle.Categorical(logits=q.logits), each).log_prob(z)


def mixture_projected(q: NormalMixture, z: np.ndarray) -> Arrays:
    shares, loc, scale = (each.numpy() for each in (q.logits.softmax(-1), q.loc, q.scale))
    directions = np.stack([[1.0, 0], SHIFT[:2].numpy()])
    return [
        (shares * scipy.stats.norm.cdf((z @ a)[:, None], loc @ a, np.sqrt(scale**2 @ a**2))).sum(-1) for a in directions
    ]


MIXTURE = Case(
    NormalMixture,
    {
        "logits": tensor([0.3, -0.4, 0.1], [0.0, 0.5, -0.5]),
        "loc": normals(ROWS, 3, 2),
        "scale": tensor(*[[[0.8, 1.1], [1.0, 0.7], [0.9, 1.2]]] * 2),
    },
    (2,),
    mixture_log_prob,
    quadratic,
    mixture_moments,
    mixture_projected,
    "scale",
    draws=200_000,
    tested=100_000,
    far=[{"logits": 200.0, "loc": 1e4}, {"scale": 1e-6}, {"scale": 1e6}],
)


# -- positive numbers -----------------------------------------------------------------------------------------------

GAMMA = Case(
    Gamma,
    {"concentration": tensor([0.3, 1.0, 6.0], [40.0, 0.7, 2.0]), "rate": tensor([1.0, 2.0, 0.5], [3.0, 0.4, 1.0])},
    (3,),
    lambda q, z: oracle.Gamma(q.concentration, q.rate).log_prob(z).sum(-1),
    lambda z: (z.square() + z.log()).sum(-1),
    lambda q: (
        q.concentration * (q.concentration + 1) / q.rate.square() + q.concentration.digamma() - q.rate.log()
    ).sum(-1),
    lambda q, z: list(scipy.stats.gamma.cdf(z, q.concentration.numpy(), scale=1 / q.rate.numpy()).T),
    "concentration",
    far=[
        {"concentration": 1e-3},
        {"concentration": 1e6},
        {"concentration": 1e6, "rate": 1e-6},
        {"rate": 1e6},
        {"concentration": 1e-2, "rate": 1e-6},
    ],
)
WEIBULL = Case(
    Weibull,
    {"concentration": tensor([0.7, 1.5, 4.0], [1.0, 2.0, 3.0]), "scale": tensor([1.0, 0.5, 2.0], [0.3, 1.5, 1.0])},
    (3,),
    lambda q, z: oracle.Weibull(q.scale, q.concentration).log_prob(z).sum(-1),
    lambda z: z.log().square().sum(-1),
    lambda q: ((q.scale.log() - EULER / q.concentration).square() + (math.pi / q.concentration).square() / 6).sum(-1),
    lambda q, z: list(scipy.stats.weibull_min.cdf(z, q.concentration.numpy(), scale=q.scale.numpy()).T),
    "scale",
    base="uniform",
    far=[{"concentration": 0.1}, {"concentration": 1e4}, {"scale": 1e-6}, {"concentration": 0.1, "scale": 1e6}],
)


# -- proportions ----------------------------------------------------------------------------------------------------

BETA = Case(
    Beta,
    {"a": tensor([0.4, 1.0, 8.0], [2.0, 30.0, 0.8]), "b": tensor([0.6, 3.0, 2.0], [2.0, 20.0, 0.9])},
    (3,),
    lambda q, z: oracle.Beta(q.a, q.b).log_prob(z).sum(-1),
    lambda z: (z.square() + z.log()).sum(-1),
    lambda q: (q.a * (q.a + 1) / ((q.a + q.b) * (q.a + q.b + 1)) + q.a.digamma() - (q.a + q.b).digamma()).sum(-1),
    lambda q, z: list(scipy.stats.beta.cdf(z, q.a.numpy(), q.b.numpy()).T),
    "a",
    far=[{"a": 1e-3, "b": 1e-3}, {"a": 1e6, "b": 1e6}, {"a": 1e-3}, {"b": 1e6}],
)
WEIGHTS = tensor(1.0, -2.0, 0.5, 3.0)


def dirichlet_mean(q: Dirichlet) -> Tensor:
    alpha, total = q.concentration, q.concentration.sum(-1, keepdim=True)
    return ((WEIGHTS * alpha * (alpha + 1)) / (total * (total + 1)) + 0.3 * (alpha.digamma() - total.digamma())).sum(-1)


DIRICHLET = Case(
    Dirichlet,
    {"concentration": tensor([0.4, 1.0, 3.0, 0.7], [5.0, 2.0, 1.5, 10.0])},
    (4,),
    lambda q, z: oracle.Dirichlet(q.concentration, validate_args=False).log_prob(z),
    lambda z: (WEIGHTS * z.square() + 0.3 * z.log()).sum(-1),
    dirichlet_mean,
    lambda q, z: list(
        scipy.stats.beta.cdf(z, q.concentration.numpy(), (q.concentration.sum() - q.concentration).numpy()).T
    ),
    "concentration",
    far=[{"concentration": 1e-3}, {"concentration": 1e6}],
)


def logistic_normal_log_prob(q: LogisticNormal, z: Tensor) -> Tensor:
    """By torch's additive logistic transform, turned about: its own is of sticks, not of ratios."""
    ratios = (z[..., :-1] / z[..., -1:]).log()
    return oracle.Normal(q.loc, q.scale).log_prob(ratios).sum(-1) - z.log().sum(-1)


def log_ratios(z: Any) -> Any:
    return (z[..., :-1] / z[..., -1:]).log() if isinstance(z, Tensor) else np.log(z[..., :-1] / z[..., -1:])


LOGISTIC_NORMAL = Case(
    LogisticNormal,
    {"loc": normals(ROWS, 3), "scale": tensor([0.5, 0.8, 1.2], [1.0, 0.3, 0.6])},
    (4,),
    logistic_normal_log_prob,
    lambda z: quadratic(log_ratios(z)),
    lambda q: quadratic_mean(q.loc, torch.diag_embed(q.scale.square())),
    lambda q, z: list(scipy.stats.norm.cdf(log_ratios(z), q.loc.numpy(), q.scale.numpy()).T),
    "scale",
    base="normal",
    far=[{"loc": 500.0}, {"scale": 1e-6}, {"scale": 100.0}],
)


# -- directions -----------------------------------------------------------------------------------------------------


def von_mises_fisher(loc: Tensor, concentration: Tensor) -> VonMisesFisher:
    return VonMisesFisher(functional.normalize(loc, dim=-1), concentration)


def sphere_log_prob(q: VonMisesFisher, z: Tensor) -> Tensor:
    rows = [
        scipy.stats.vonmises_fisher(mu / np.linalg.norm(mu), kappa).logpdf(points)
        for mu, kappa, points in zip(q.loc.numpy(), q.concentration.numpy(), z.unbind(1), strict=True)
    ]
    return torch.tensor(np.stack(rows, -1))


def mean_length(kappa: Tensor, dim: int) -> Tensor:
    """A(κ) = I_{d/2}/I_{d/2−1}, elementary where d is odd and by torch where d is 2."""
    if dim == 2:
        return torch.special.i1e(kappa) / torch.special.i0e(kappa)
    ratio = 1 / torch.tanh(kappa) - 1 / kappa
    for order in range(3, dim, 2):
        ratio = 1 / ratio - order / kappa  # I_{ν+1}/I_ν = I_{ν−1}/I_ν − 2ν/κ
    return ratio


def sphere_mean(q: VonMisesFisher) -> Tensor:
    """With E[z] = Aμ and E[zzᵀ] = (A/κ) I + (1 − dA/κ) μμᵀ."""
    dim, kappa = q.loc.shape[-1], q.concentration
    length = mean_length(kappa, dim)
    a, b = SHIFT[:dim].new_zeros(dim), SHIFT[:dim].new_zeros(dim)
    a[: len(SHIFT)], b[: len(SHIFT)] = SHIFT[:dim], TILT[:dim]
    along = (q.loc @ a).square()
    return length / kappa * (a @ a) + (1 - dim * length / kappa) * along + length * (q.loc @ b)


def sphere_f(z: Tensor) -> Tensor:
    dim = min(z.shape[-1], len(SHIFT))
    return (z[..., :dim] @ SHIFT[:dim]).square() + z[..., :dim] @ TILT[:dim]


def sphere_transform(q: VonMisesFisher, z: np.ndarray) -> Arrays:
    """w = ⟨loc, z⟩ by a numerical CDF in its angle; one direction at right angles to loc by a beta."""
    dim, kappa, loc = q.loc.shape[-1], float(q.concentration), q.loc.numpy()
    w = z @ loc
    theta = np.linspace(0, np.pi, 200_001)
    density = np.exp(kappa * (np.cos(theta) - 1)) * np.sin(theta).clip(0) ** (dim - 2)
    density /= density.max()
    total = scipy.integrate.cumulative_trapezoid(density, theta, initial=0)
    found = [1 - np.interp(np.arccos(w.clip(-1, 1)), theta, total / total[-1])]
    if dim > 2:
        across = np.eye(dim)[0] - loc[0] * loc
        across /= np.linalg.norm(across)
        s = (z @ across) / np.sqrt(1 - w**2)
        found.append(scipy.stats.beta.cdf((1 + s) / 2, (dim - 2) / 2, (dim - 2) / 2))
    return found


def sphere(dim: int) -> Case:
    return Case(
        von_mises_fisher,
        {"loc": normals(ROWS, dim, seed=3), "concentration": tensor(2.0, 7.0)},
        (dim,),
        sphere_log_prob,
        sphere_f,
        sphere_mean,
        sphere_transform,
        "concentration",
        far=[{"concentration": 1e-6}, {"concentration": 1e6}, {"concentration": 0.1}],
    )


# -- flows ----------------------------------------------------------------------------------------------------------

AXIS = torch.linspace(-8, 8, 201, dtype=torch.float64)
GRID = torch.cartesian_prod(AXIS, AXIS)


def transforms(kind: Any, dim: int = 2, context: int = 2) -> Transforms:
    """Far from the identity, where it would start."""
    with seeded(0):
        module = Transforms(dim, kind, 2, (8,), context).double()
    generator = rng(5)
    for parameter in module.parameters():
        parameter.data = 0.25 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def flow(kind: Any) -> Callable[..., Flow]:
    module = transforms(kind)
    return lambda loc, scale, context: Flow(loc, scale, context, module)


def on_grid(q: Flow) -> Tensor:
    """The density's shares of the cells of a grid, ``[cells, B]``."""
    return q.log_prob(GRID.unsqueeze(1).expand(-1, *q.loc.shape)).exp() * (AXIS[1] - AXIS[0]).square()


def grid_mean(q: Flow) -> Tensor:
    return (quadratic(GRID).unsqueeze(1) * on_grid(q)).sum(0)


def grid_transform(q: Flow, z: np.ndarray) -> Arrays:
    """Each coordinate by the CDF that the log-density has on the grid."""
    with torch.no_grad():
        q = dataclasses.replace(q, **{name: value.unsqueeze(0) for name, value in q._tensors().items()})
        cells = on_grid(q).view(len(AXIS), len(AXIS)).numpy()
    edges = AXIS.numpy() + float(AXIS[1] - AXIS[0]) / 2
    return [np.interp(z[:, i], edges, cells.sum(1 - i).cumsum()) for i in range(2)]


def flow_case(kind: str) -> Case:
    return Case(
        flow(kind),
        {"loc": 0.3 * normals(ROWS, 2), "scale": tensor([0.9, 0.7], [1.1, 0.8]), "context": normals(ROWS, 2, seed=2)},
        (2,),
        None,
        quadratic,
        None if kind == "nsf" else grid_mean,
        grid_transform,
        "scale",
        base="normal",
        draws=200_000,
        far=[{"scale": 1e-6}, {"scale": 1e6}, {"loc": 1e4, "context": 1e4}],
    )


TABLE = {
    "full normal": FULL,
    "low-rank normal": LOW_RANK,
    "mixture of normals": MIXTURE,
    "gamma": GAMMA,
    "Weibull": WEIBULL,
    "beta": BETA,
    "Dirichlet": DIRICHLET,
    "logistic normal": LOGISTIC_NORMAL,
    "von Mises-Fisher, 2": sphere(2),
    "von Mises-Fisher, 3": sphere(3),
    "von Mises-Fisher, 7": sphere(7),
    "flow, iaf": flow_case("iaf"),
    "flow, realnvp": flow_case("realnvp"),
    "flow, nsf": flow_case("nsf"),
}


@pytest.fixture(params=TABLE, ids=list(TABLE))
def case(request: pytest.FixtureRequest) -> Case:
    return TABLE[request.param]


# -- the contract ---------------------------------------------------------------------------------------------------


def test_its_log_density_is_that_of_another_library(case):
    if case.truth is None:
        pytest.skip("the density of a flow is held to its Jacobian and to its integral")
    z = case.q.sample(case.noise(50))
    np.testing.assert_allclose(case.q.log_prob(z), case.truth(case.q, z), rtol=1e-9, atol=1e-8)
    per_dim = case.q.log_prob_per_dim(z)
    if per_dim is not None:
        np.testing.assert_allclose(per_dim.sum(-1), case.q.log_prob(z), rtol=1e-12, atol=1e-12)


def test_its_log_density_is_that_of_its_noise_less_the_log_determinant(case):
    if case.base is None:
        pytest.skip("its noise has more values than z")
    q, noise = case.q, case.noise(6)
    free = noise.shape[-1]  # of a simplex, one value is the rest of the others

    def jacobian(b: int, e: Tensor) -> Tensor:
        row = {name: value[b : b + 1] for name, value in case.raw.items()}
        return torch.autograd.functional.jacobian(
            lambda e: case.build(**row).sample(e.view(1, 1, -1)).flatten()[:free], e
        )

    found = torch.stack([torch.stack([jacobian(b, each[b]) for b in range(ROWS)]) for each in noise])
    log_noise = oracle.Normal(0, 1).log_prob(noise).sum(-1) if case.base == "normal" else 0
    truth = log_noise - torch.linalg.slogdet(found)[1]
    z = q.sample(noise)
    np.testing.assert_allclose(q.log_prob(z).detach(), truth.detach(), rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(q.log_prob_of_sample(z, noise).detach(), truth.detach(), rtol=1e-7, atol=1e-7)


def uniforms_of(case: Case, draws: int) -> list[tuple[Any, np.ndarray]]:
    """Each row's distribution and its draws."""
    with torch.no_grad():
        z = case.q.sample(case.noise(draws)).numpy()
    return [(row_of(case.q, b), z[:, b]) for b in range(ROWS)]


def row_of(q: Any, b: int) -> Any:
    return dataclasses.replace(q, **{name: value[b].detach() for name, value in q._tensors().items()})


def wrong(q: Any, name: str) -> Any:
    return dataclasses.replace(q, **{name: 1.1 * getattr(q, name)})


def test_its_draws_have_its_distribution(case):
    # A parameter that is 10 % off is rejected in every row.
    least = []
    for q, z in uniforms_of(case, case.tested):
        tests = [scipy.stats.kstest(u, "uniform", method="asymp").pvalue for u in case.transform(q, z)]
        mutants = [
            scipy.stats.kstest(u, "uniform", method="asymp").pvalue for u in case.transform(wrong(q, case.mutant), z)
        ]
        assert min(tests) > SMALLEST_P, tests
        assert min(mutants) < SMALLEST_P, mutants
        least += tests
    print(f"{len(least)} KS tests, least p {min(least):.2g}")


def test_its_gradients_of_a_mean_are_those_of_the_closed_form(case):
    # Each number by a z-test. Along the true gradient the standard error is under 0.9 %: an error of 5 % is rejected.
    if case.expected is None:
        pytest.skip("splines have kinks, which no grid follows; they are drawn as the other flows are")
    raw = {name: value.clone().requires_grad_() for name, value in case.raw.items()}
    truth = torch.autograd.grad(case.expected(case.build(**raw)).sum(), list(raw.values()))
    wide = [value.expand(case.draws, *value.shape).clone().requires_grad_() for value in case.raw.values()]
    f = case.f(case.build(*wide).sample(case.noise(case.draws, seed=2)))
    found = torch.autograd.grad(f.sum(), wide)
    worst, precision = 0.0, 0.0
    for name, exact, sample in zip(case.raw, truth, found, strict=True):
        error = sample.std(0) / math.sqrt(case.draws)
        z = ((sample.mean(0) - exact) / error.clamp(min=1e-12)).abs().max()
        along = (sample * exact).flatten(1).sum(1) / exact.square().sum()
        standard_error = float(along.std() / math.sqrt(case.draws))
        worst, precision = max(worst, float(z)), max(precision, standard_error)
        assert z < STANDARD_ERRORS, (name, z)
        assert abs(along.mean() - 1) < STANDARD_ERRORS * standard_error, name
        assert abs(1.05 * along.mean() - 1) > STANDARD_ERRORS * 1.05 * standard_error, (name, standard_error)
    print(f"{list(case.raw)}: worst |z| {worst:.2f}, standard error {precision:.2%}")


def test_its_entropy_and_mean_are_those_of_its_draws(case):
    q = case.q
    with torch.no_grad():
        noise = case.noise(100_000, seed=3)
        z = q.sample(noise)
        for value, draws in ((q.entropy(), -q.log_prob_of_sample(z, noise)), (q.mean(), z)):
            if value is not None:
                error = draws.std(0) / math.sqrt(len(draws))
                assert ((draws.mean(0) - value).abs() < STANDARD_ERRORS * error).all()
                assert (value.shape, value.isfinite().all()) == (draws.shape[1:], True)


def test_stopped_it_has_the_same_values_and_no_gradient_but_through_z(case):
    raw = {name: value.clone().requires_grad_() for name, value in case.raw.items()}
    q = case.build(**raw)
    z = q.sample(case.noise(3)).detach().requires_grad_()
    value = q.stopped().log_prob(z)
    assert torch.equal(value, q.log_prob(z))
    learned = [*raw.values(), *(q.transforms.parameters() if isinstance(q, Flow) else ())]
    gradient, *rest = torch.autograd.grad(value.sum(), [z, *learned], allow_unused=True)
    assert all(other is None for other in rest)
    (live,) = torch.autograd.grad(q.log_prob(z).sum(), z)
    assert torch.equal(gradient, live)
    assert gradient.abs().sum() > 0
    if isinstance(q, Flow):
        assert all(parameter.requires_grad for parameter in q.transforms.parameters())


def test_its_score_is_the_gradient_of_each_draw(case):
    q = case.q
    z = q.sample(case.noise(3)).detach()
    own = {name: value.detach().clone().requires_grad_() for name, value in q._tensors().items()}
    log_prob = dataclasses.replace(q, **own).log_prob(z)
    truth = torch.stack(
        [
            torch.stack(
                [
                    torch.cat(
                        [g[b].flatten() for g in torch.autograd.grad(value, list(own.values()), retain_graph=True)]
                    )
                    for b, value in enumerate(values)
                ]
            )
            for values in log_prob
        ]
    )
    np.testing.assert_allclose(q.score(z), truth, rtol=1e-9, atol=1e-9)


def test_single_precision_agrees_with_double(case):
    noise = case.noise(200)
    exact, single = case.q, as_float(case.q)
    with torch.no_grad():
        z = exact.sample(noise)
        near = single.sample(noise.float())
        np.testing.assert_allclose(near, z, rtol=2e-3, atol=2e-5)
        of_sample = single.log_prob_of_sample(near, noise.float())
        np.testing.assert_allclose(of_sample, exact.log_prob_of_sample(z, noise), rtol=1e-3, atol=2e-3)
        np.testing.assert_allclose(single.log_prob(z.float()), exact.log_prob(z.float().double()), rtol=1e-4, atol=2e-4)
        for found, truth in ((single.entropy(), exact.entropy()), (single.mean(), exact.mean())):
            if truth is not None:
                assert found.dtype == torch.float32
                np.testing.assert_allclose(found, truth, rtol=1e-5, atol=1e-5)


def as_float(q: Any) -> Any:
    changed = {name: value.float() for name, value in q._tensors().items()}
    if isinstance(q, Flow):
        module = Transforms(q.loc.shape[-1], q.transforms.kind, 2, (8,), 2)
        module.load_state_dict(q.transforms.state_dict())
        changed["transforms"] = module
    return dataclasses.replace(q, **changed)


def test_far_out_it_stays_finite_in_single_precision(case):
    assert case.far
    for far in case.far:
        raw = {name: torch.full_like(value, far[name]) if name in far else value for name, value in case.raw.items()}
        raw = {name: value.float().requires_grad_() for name, value in raw.items()}
        q = as_float(case.build(**raw)) if isinstance(case.q, Flow) else case.build(**raw)
        noise = q.noise((500, ROWS), case.event, rng(4), torch.float32)
        z = q.sample(noise)
        assert z.isfinite().all(), far
        if isinstance(q, Gamma | Weibull | Beta | Dirichlet | LogisticNormal):
            assert (z >= torch.finfo(z.dtype).tiny).all(), far
        if isinstance(q, Beta):
            assert (z < 1).all(), far
        value = q.log_prob_of_sample(z, noise)
        assert value.isfinite().all(), far
        gradients = torch.autograd.grad(z.sum() + value.sum(), list(raw.values()), allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in gradients), (far, gradients)
        for other in (q.entropy(), q.mean()):
            assert other is None or other.isfinite().all(), far


def test_a_row_is_drawn_whatever_its_neighbours_and_rows_can_share_their_noise(case):
    with torch.no_grad():
        q, noise = case.q, case.noise(5)
        both = q.sample(noise)
        for b in range(ROWS):
            one = q.take(torch.tensor([b])).sample(noise[:, b : b + 1])
            np.testing.assert_allclose(one[:, 0], both[:, b], rtol=1e-12)
        shared = q.sample(noise[:, :1])
        assert shared.shape == both.shape
        np.testing.assert_allclose(shared, q.sample(noise[:, :1].expand_as(noise)), rtol=1e-12)
        assert q.log_prob(shared).shape == both.shape[:2]


def test_it_leaves_torchs_own_generator_alone(case):
    before = torch.random.get_rng_state()
    q = case.q
    z = q.sample(case.noise(3))
    q.log_prob(z), q.entropy(), q.stopped(), q.score(z)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_it_serves_a_prior_too(case):
    q = case.q
    with torch.no_grad():
        p = dataclasses.replace(row_of(q, 0), batch_dims=0)
        noise = p.noise((4, 3), case.event, rng(), torch.float64)
        z = p.sample(noise)
        assert z.shape == (4, 3, *case.event)
        alone = q.take(torch.tensor([0]))
        np.testing.assert_allclose(p.log_prob(z), alone.log_prob(z), rtol=1e-12)
        for found, truth in ((p.entropy(), alone.entropy()), (p.mean(), alone.mean())):
            assert (found is None) == (truth is None)
            if found is not None:
                np.testing.assert_allclose(found, truth[0], rtol=1e-12)


# -- divergences ----------------------------------------------------------------------------------------------------


def as_torch(q: Any) -> oracle.Distribution:
    match q:
        case Normal():
            return oracle.MultivariateNormal(q.loc, torch.diag_embed(q.scale.square()))
        case FullNormal() | LowRankNormal():
            return oracle.MultivariateNormal(q.loc, covariance_of(q))
        case Gamma():
            return oracle.Independent(oracle.Gamma(q.concentration, q.rate), 1)
        case Beta():
            return oracle.Independent(oracle.Beta(q.a, q.b), 1)
        case Dirichlet():
            return oracle.Dirichlet(q.concentration)
    raise NotImplementedError


DIAGONAL = Normal(normals(ROWS, 3, seed=7), tensor([0.5, 0.9, 1.3], [1.0, 0.6, 0.8]))
OTHER_FULL = full_normal(normals(ROWS, 3, seed=8), normals(ROWS, 3, 3, seed=9))
OTHER_LOW = LowRankNormal(normals(ROWS, 3, seed=8), normals(ROWS, 3, 1, seed=9), tensor([0.9, 0.5, 1.0], [0.4, 1.0, 2]))
OTHER_GAMMA = Gamma(tensor([1.0, 2.0, 3.0], [20.0, 1.0, 0.5]), tensor([1.0, 1.0, 1.0], [1.0, 0.5, 2.0]))
PAIRS: dict[str, tuple[Any, Any]] = {
    "full, full": (FULL.q, OTHER_FULL),
    "full, low-rank": (FULL.q, OTHER_LOW),
    "full, diagonal": (FULL.q, DIAGONAL),
    "low-rank, full": (LOW_RANK.q, OTHER_FULL),
    "low-rank, low-rank": (LOW_RANK.q, OTHER_LOW),
    "low-rank, diagonal": (LOW_RANK.q, DIAGONAL),
    "diagonal, full": (DIAGONAL, OTHER_FULL),
    "diagonal, low-rank": (DIAGONAL, OTHER_LOW),
    "gamma, gamma": (GAMMA.q, OTHER_GAMMA),
    "Weibull, gamma": (WEIBULL.q, OTHER_GAMMA),
    "beta, beta": (BETA.q, Beta(tensor([1.0, 1.0, 1.0], [3.0, 20.0, 1.0]), tensor([1.0, 2.0, 1.0], [1.0, 20.0, 2.0]))),
    "Dirichlet, Dirichlet": (DIRICHLET.q, Dirichlet(tensor([1.0, 1.0, 1.0, 1.0], [4.0, 3.0, 2.0, 8.0]))),
    "logistic normals": (
        LOGISTIC_NORMAL.q,
        LogisticNormal(torch.zeros(ROWS, 3).double(), torch.ones(ROWS, 3).double()),
    ),
    "von Mises-Fisher, uniform": (VonMisesFisher(sphere(7).q.loc, tensor(4.0, 9.0)), HypersphericalUniform(7)),
}


@pytest.mark.parametrize("pair", PAIRS, ids=list(PAIRS))
def test_its_divergence_is_that_of_its_draws(pair):
    # 28 z-tests; an error of 5 % of the value is beyond 5 standard errors.
    q, p = PAIRS[pair]
    found = distributions.kl(q, p)
    z = q.sample(q.noise((50_000, ROWS), q_event(q), rng(11), torch.float64))
    sample = q.log_prob(z) - p.log_prob(z)
    error = sample.std(0) / math.sqrt(len(sample))
    assert ((sample.mean(0) - found).abs() < STANDARD_ERRORS * error).all(), (sample.mean(0), found, error)
    assert (0.05 * found > STANDARD_ERRORS * error).all(), (found, error)
    try:
        truth = oracle.kl_divergence(as_torch(q), as_torch(p))
    except NotImplementedError:
        return
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-12)


def q_event(q: Any) -> tuple[int, ...]:
    parameter = next(iter(q._tensors().values()))
    return (parameter.shape[-1] + 1,) if isinstance(q, LogisticNormal) else tuple(parameter.shape[1:])


@pytest.mark.parametrize("pair", PAIRS, ids=list(PAIRS))
def test_its_divergence_from_a_prior_of_no_batch_is_that_from_each_row(pair):
    q, p = PAIRS[pair]
    if not isinstance(p, HypersphericalUniform):
        first = dataclasses.replace(row_of(p, 0), batch_dims=0)
        rows = p.take(torch.zeros(ROWS, dtype=torch.long))
        np.testing.assert_allclose(distributions.kl(q, first), distributions.kl(q, rows), rtol=1e-12)
    if type(q) is type(p):
        np.testing.assert_allclose(distributions.kl(q, q), 0, atol=1e-12)


def test_divergences_of_large_concentrations_keep_their_digits_in_single_precision():
    # lgamma(1e6) is 1.3e7, of which single precision keeps the nats; the divergence is of a tenth of one.
    for make in (lambda a: Gamma(a, a), lambda a: Beta(a, 2 * a), lambda a: Dirichlet(torch.cat([a, 3 * a], -1))):
        q, p = (make(tensor([value])) for value in (1.0e6, 1.3e6))
        exact = distributions.kl(q, p)
        single = distributions.kl(as_float(q), as_float(p))
        np.testing.assert_allclose(single, exact, rtol=1e-3)
        z = q.sample(q.noise((20, 1), q_event(q), rng(), torch.float64)).float()
        np.testing.assert_allclose(as_float(q).log_prob(z), q.log_prob(z.double()), rtol=0.02, atol=0.02)


# -- special functions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [0.0, 0.5, 1.0, 2.5, 9.0, 24.0, 127.0])
def test_the_bessel_function_is_mpmaths(order):
    x = tensor(1e-6, 1e-2, 0.3, 1.0, 4.0, 12.0, 30.0, 100.0, 1e3, 1e5).requires_grad_()
    value, ratio = log_bessel(order, x)
    with mpmath.workdps(60):
        exact = [mpmath.besseli(order, mpmath.mpf(each)) for each in x.tolist()]
        above = [mpmath.besseli(order + 1, mpmath.mpf(each)) for each in x.tolist()]
        values = [
            float(mpmath.log(i) - order * mpmath.log(each) - each) for i, each in zip(exact, x.tolist(), strict=True)
        ]
        ratios = [float(a / i) for a, i in zip(above, exact, strict=True)]
    np.testing.assert_allclose(value.detach(), values, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(ratio.detach(), ratios, rtol=1e-10)
    (slope,) = torch.autograd.grad(value.sum(), x)
    np.testing.assert_allclose(slope, np.array(ratios) - 1, rtol=1e-9, atol=1e-9)


def test_the_bessel_function_is_finite_at_zero():
    value, ratio = log_bessel(1.5, torch.zeros(1).double())
    np.testing.assert_allclose(value, -1.5 * math.log(2) - math.lgamma(2.5), atol=1e-10)
    assert float(ratio) == 0


@pytest.mark.parametrize("dim", [2, 3, 10, 50, 200])
@pytest.mark.parametrize("kappa", [0.01, 1.0, 30.0, 1000.0])
def test_the_derivative_of_w_is_that_of_its_cdf(dim, kappa):
    q = VonMisesFisher(functional.one_hot(torch.tensor([0]), dim).double(), tensor(kappa))
    z = q.sample(q.noise((40, 1), (dim,), rng(), torch.float64))
    gap = 0.5 * (z - q.loc).square().sum(-1)
    found = _slope(gap, q.concentration, dim)
    mean = float(log_bessel(dim / 2 - 1, q.concentration)[1])
    for w, slope in zip(1 - gap.flatten(), found.flatten(), strict=True):
        theta = math.acos(w)

        def integrand(t: float, theta: float = theta) -> float:
            power = (dim - 2) * (math.log(max(math.sin(t), 1e-300)) - math.log(math.sin(theta)))
            return (math.cos(t) - mean) * math.exp(kappa * (math.cos(t) - math.cos(theta)) + power)

        truth, _ = scipy.integrate.quad(integrand, 0, theta, epsabs=0, epsrel=1e-10, limit=200)
        np.testing.assert_allclose(slope, math.sin(theta) * truth, rtol=1e-5, atol=1e-9 * float(slope.abs()))
        if dim == 3:  # w = 1 + log(u + (1 − u) e^(−2κ))/κ
            k = tensor(kappa).requires_grad_()
            u = ((w - 1) * kappa).exp() - math.exp(-2 * kappa)
            u = u / -math.expm1(-2 * kappa)
            inverse = 1 + (u + (1 - u) * (-2 * k).exp()).log() / k
            (closed,) = torch.autograd.grad(inverse.sum(), k)
            np.testing.assert_allclose(slope, closed, rtol=1e-6)


@pytest.mark.parametrize("dim", [2, 3, 10, 60])
@pytest.mark.parametrize("kappa", [0.1, 5.0, 500.0])
def test_directions_are_drawn_whatever_the_concentration(dim, kappa):
    # 21 KS tests at 1e-6.
    q = VonMisesFisher(functional.normalize(normals(1, dim, seed=2), dim=-1), tensor(kappa))
    z = q.sample(q.noise((20_000, 1), (dim,), rng(1), torch.float64))[:, 0].numpy()
    for u in sphere_transform(row_of(q, 0), z):
        assert scipy.stats.kstest(u, "uniform", method="asymp").pvalue > SMALLEST_P


def test_the_uniform_distribution_of_directions():
    p = HypersphericalUniform(5)
    z = p.sample(p.noise((20_000, 1), (5,), rng(), torch.float64))
    np.testing.assert_allclose(z.square().sum(-1), 1)
    u = scipy.stats.beta.cdf((1 + z[:, 0, 0]) / 2, 2, 2)
    assert scipy.stats.kstest(u, "uniform").pvalue > SMALLEST_P
    np.testing.assert_allclose(p.log_prob(z), -math.log(8 * math.pi**2 / 3))
    still = VonMisesFisher(z[:1, 0], tensor(1e-9))
    np.testing.assert_allclose(still.log_prob(z), p.log_prob(z), atol=1e-8)


def test_the_digamma_remainder_is_mpmaths():
    y = tensor(1e-6, 1e-3, 0.1, 1.0, 5.0, 15.9, 16.1, 50.0, 1e3, 1e8)
    with mpmath.workdps(40):
        truth = [float(mpmath.log(each) - mpmath.digamma(each)) for each in y.tolist()]
    np.testing.assert_allclose(digamma_remainder(y), truth, rtol=1e-10)


@pytest.mark.parametrize("alpha", [0.02, 0.5, 1.0, 3.0, 200.0])
def test_gammas_of_any_concentration(alpha):
    # In logarithms, where those of small concentrations are still told apart: 5 KS tests at 1e-6.
    draws = distributions.gamma.log_standard_gamma(
        tensor(alpha), distributions.gamma.gamma_noise((100_000, 1), rng(6), torch.float64)
    )[:, 0].numpy()
    u = np.where(draws > -600, scipy.stats.gamma.cdf(np.exp(draws.clip(-600)), alpha), 0)
    u = np.where(draws > -600, u, np.exp(alpha * draws - math.lgamma(alpha + 1)))
    assert scipy.stats.kstest(u, "uniform", method="asymp").pvalue > SMALLEST_P
    assert scipy.stats.kstest(u**1.05, "uniform", method="asymp").pvalue < SMALLEST_P


# -- flows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iaf", "realnvp", "nsf"])
def test_the_density_of_a_flow_integrates_to_one(kind):
    with torch.no_grad():
        np.testing.assert_allclose(on_grid(flow_case(kind).q).sum(0), 1, atol=2e-3 if kind == "nsf" else 1e-9)


@pytest.mark.parametrize("kind", ["iaf", "realnvp", "nsf"])
@pytest.mark.parametrize("dim", [1, 5])
def test_a_flow_has_an_inverse_and_starts_as_the_identity(kind, dim):
    module, context = transforms(kind, dim, 3), normals(4, 3)
    x = normals(7, 4, dim, seed=1)
    y, log_det = module(x, context)
    back, back_log_det = module(y, context, inverse=True)
    jacobian = torch.autograd.functional.jacobian(lambda e: module(e, context)[0][0, 0], x)[:, 0, 0]
    np.testing.assert_allclose(log_det[0, 0].detach(), torch.linalg.slogdet(jacobian)[1], atol=1e-9)
    assert (y - x).abs().max() > 0.1
    np.testing.assert_allclose(back.detach(), x, atol=1e-9)
    np.testing.assert_allclose((log_det + back_log_det).detach(), 0, atol=1e-9)
    y, log_det = Transforms(dim, kind, 3, (8, 8), 3).double()(x, context)
    np.testing.assert_allclose(y.detach(), x, atol=1e-12)
    np.testing.assert_allclose(log_det.detach(), 0, atol=1e-12)
    bare, _ = Transforms(dim, kind, 1, (), 0).double()(x, None)
    np.testing.assert_allclose(bare.detach(), x, atol=1e-12)


def test_a_draw_cut_off_from_the_parameters_has_the_score_of_its_value():
    # log q of the noise has another gradient than log q of z at a fixed z, which score functions need.
    case = TABLE["flow, iaf"]
    raw = {name: value.clone().requires_grad_() for name, value in case.raw.items()}
    q, noise = case.build(**raw), case.noise(3)
    z = q.sample(noise)
    truth = torch.autograd.grad(q.log_prob(z.detach()).sum(), list(raw.values()))
    found = torch.autograd.grad(q.log_prob_of_sample(z.detach(), noise).sum(), list(raw.values()))
    of_draw = q.log_prob_of_sample(z, noise).sum()
    live = torch.autograd.grad(of_draw, list(raw.values()), retain_graph=True, materialize_grads=True)
    whole = torch.autograd.grad(q.log_prob(z).sum(), list(raw.values()))
    for a, b, c, d in zip(truth, found, live, whole, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)
        np.testing.assert_allclose(c, d, atol=1e-9)
    assert not torch.allclose(truth[0], live[0])


def test_zuko_leaves_torchs_checks_of_arguments_as_they_were():
    transforms("iaf")(normals(2, 2), normals(2, 2))
    with pytest.raises(ValueError, match="scale"):
        oracle.Normal(0.0, -1.0)


# -- posteriors -----------------------------------------------------------------------------------------------------

LATENTS = 3
POSTERIORS: dict[str, tuple[Callable[[nn.Module], posteriors.Posterior], int, Distribution | None]] = {
    "full normal": (lambda e: posteriors.FullNormal(LATENTS, e), 9, priors.Normal(LATENTS)()),
    "low-rank normal": (lambda e: posteriors.LowRankNormal(LATENTS, 2, e), 12, priors.Normal(LATENTS)()),
    "mixture": (lambda e: posteriors.NormalMixture(LATENTS, 4, e), 28, None),
    "gamma": (lambda e: posteriors.Gamma(LATENTS, e), 6, priors.Gamma(LATENTS, 2.0, 0.5)()),
    "Weibull": (lambda e: posteriors.Weibull(LATENTS, e), 6, priors.Gamma(LATENTS, learned=True)()),
    "beta": (lambda e: posteriors.Beta(LATENTS, e), 6, priors.Beta(LATENTS, 0.5, 0.5, learned=True)()),
    "Dirichlet": (lambda e: posteriors.Dirichlet(LATENTS, e), 3, priors.Dirichlet(LATENTS, 0.3, learned=True)()),
    "logistic normal": (lambda e: posteriors.LogisticNormal(LATENTS, e), 4, None),
    "von Mises-Fisher": (lambda e: posteriors.VonMisesFisher(LATENTS, e), 4, HypersphericalUniform(LATENTS)),
    "flow, iaf": (lambda e: posteriors.Flow(LATENTS, e, "iaf", 2, (8,), 5), 11, None),
    "flow, realnvp": (lambda e: posteriors.Flow(LATENTS, e, "realnvp"), 22, None),
    "flow, nsf": (lambda e: posteriors.Flow(LATENTS, e, "nsf", features=0), 6, None),
}
STANDARD: dict[str, dict[str, float]] = {
    "gamma": {"concentration": 1, "rate": 1},
    "Weibull": {"concentration": 1, "scale": 1},
    "beta": {"a": 1, "b": 1},
    "Dirichlet": {"concentration": 1},
    "von Mises-Fisher": {"concentration": 1},
    "full normal": {"loc": 0},
    "low-rank normal": {"loc": 0, "factor": 0, "scale": 1},
    "mixture": {"logits": 0, "loc": 0, "scale": 1},
    "logistic normal": {"loc": 0, "scale": 1},
    "flow, iaf": {"loc": 0, "scale": 1},
    "flow, realnvp": {"loc": 0, "scale": 1},
    "flow, nsf": {"loc": 0, "scale": 1},
}


@pytest.fixture(params=POSTERIORS, ids=list(POSTERIORS))
def named(request: pytest.FixtureRequest) -> str:
    return request.param


def encoder(width: int) -> MLP:
    with seeded(1):
        return MLP((5,), (width,), hidden=(8,))


def test_a_posterior_gives_every_row_a_distribution_that_its_encoder_learns(named):
    build, width, prior = POSTERIORS[named]
    posterior = build(encoder(width))
    assert posterior.n_outputs == width
    q = posterior(normals(4, 5).float())
    noise = posterior.noise(6, 4, rng(), torch.float32)
    z = q.sample(noise)
    assert z.shape == (6, 4, *posterior.event) == (6, 4, LATENTS)
    assert q.log_prob_of_sample(z, noise).shape == (6, 4)
    (q.log_prob_of_sample(z, noise).sum() + z.square().sum()).backward()
    for parameter in posterior.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
    assert all(p.grad.abs().sum() > 0 for p in posterior.encoder.parameters())
    if prior is not None:
        divergence = distributions.kl(q, prior)
        assert divergence.shape == (4,)
        assert (divergence > 0).all()


def test_a_posterior_refuses_an_encoder_of_another_width(named):
    build, width, _ = POSTERIORS[named]
    with pytest.raises(ValueError, match=rf"\({width + 1},\).*needs \({width},\)"):
        build(encoder(width + 1))(torch.zeros(2, 5))


def test_at_zero_a_posterior_is_a_standard_distribution(named):
    build, width, _ = POSTERIORS[named]
    q: Any = build(encoder(width)).distribution(torch.zeros(2, width))
    for name, value in STANDARD[named].items():
        np.testing.assert_allclose(getattr(q, name).detach(), value, atol=0.11 if named == "Weibull" else 0.011)
    if named == "full normal":
        np.testing.assert_allclose(q.scale_tril, torch.eye(LATENTS).expand(2, -1, -1), atol=1e-5)


def test_a_posterior_keeps_its_arguments(named):
    build, width, _ = POSTERIORS[named]
    with seeded(0):
        posterior = build(encoder(width))
    again = type(posterior)(**{name: getattr(posterior, name) for name in arguments_of(posterior)})
    assert {n: p.shape for n, p in again.named_parameters()} == {n: p.shape for n, p in posterior.named_parameters()}
    with torch.device("meta"):
        assert all(p.is_meta for p in build(MLP((5,), (width,))).parameters())


def arguments_of(part: nn.Module) -> list[str]:
    code = type(part).__init__.__code__
    return list(code.co_varnames[1 : code.co_argcount])


def test_a_flow_starts_as_its_seed_says():
    first, same, other = (_flow(seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def _flow(seed: int) -> posteriors.Flow:
    with seeded(seed):
        return posteriors.Flow(2, nn.Identity())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: posteriors.LowRankNormal(3, 4, nn.Identity()), "rank"),
        (lambda: posteriors.NormalMixture(3, 0, nn.Identity()), "component"),
        (lambda: posteriors.Dirichlet(1, nn.Identity()), "at least 2"),
        (lambda: posteriors.LogisticNormal(1, nn.Identity()), "at least 2"),
        (lambda: posteriors.VonMisesFisher(1, nn.Identity()), "at least 2"),
        (lambda: posteriors.Flow(3, nn.Identity(), "maf"), "iaf, realnvp, nsf"),
        (lambda: posteriors.Flow(3, nn.Identity(), transforms=0), "transforms"),
        (lambda: posteriors.Flow(3, nn.Identity(), features=-1), "features"),
        (lambda: priors.Gamma(3, concentration=0.0), "positive"),
        (lambda: priors.Dirichlet(1), "at least 2"),
    ],
)
def test_what_makes_no_distribution_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("learned", [False, True])
def test_priors_start_at_what_they_are_given(learned):
    gamma, beta = priors.Gamma(2, 0.3, 4.0, learned)(), priors.Beta(2, 0.3, 4.0, learned)()
    for found, truth in ((gamma.concentration, 0.3), (gamma.rate, 4), (beta.a, 0.3), (beta.b, 4)):
        np.testing.assert_allclose(found.detach(), truth, rtol=1e-4)
    prior = priors.Dirichlet(3, 0.1, learned)
    np.testing.assert_allclose(prior().concentration.detach(), 0.1, rtol=1e-4)
    assert len(list(prior.parameters())) == learned
    assert not prior.state_dict() or learned
    z = prior.sample(10, rng())
    np.testing.assert_allclose(z.detach().sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 1e-3])
def test_the_density_of_each_under_each_is_that_of_pairs(spread):
    """By products, to the last digits of single precision, also of draws near a narrow component."""
    loc, scale = (1 + normals(7, 5)).float(), spread * normals(7, 5, seed=1).exp().float()
    z = (loc + scale * normals(7, 5, seed=2)).float()
    each = Normal(loc, scale).log_prob_of_each(z)
    pairs = oracle.Normal(loc.double(), scale.double()).log_prob(z.double().unsqueeze(1)).sum(2)
    assert each.dtype == torch.float32
    torch.testing.assert_close(each, pairs.float(), rtol=1e-6, atol=1e-6)


def test_a_draw_of_normals_has_its_density_from_its_noise_too():
    for q in (Normal(normals(3, 2), normals(3, 2, seed=1).exp()), Normal(normals(2), normals(2).exp(), batch_dims=0)):
        noise = normals(4, 3, 2, seed=2)
        z = q.sample(noise)
        with torch.no_grad():
            torch.testing.assert_close(q.log_prob_of_sample(z, noise), q.log_prob(z))


@pytest.mark.parametrize("kind", ["realnvp", "nsf"])
@pytest.mark.parametrize("dim", [1, 2, 3, 5])
def test_the_inverse_of_a_chain_of_two_groups_undoes_it(kind, dim):
    with seeded(0):
        chain = Transforms(dim, kind, 4, (8,)).double()
        for parameter in chain.parameters():
            nn.init.normal_(parameter, std=0.4)
    x = torch.randn(7, 3, dim, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    y, log_det = chain(x, None)
    again, log_det_inverse = chain(y, None, inverse=True)
    torch.testing.assert_close(again, x, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(log_det_inverse, -log_det, rtol=1e-6, atol=1e-6)
    jacobian = torch.autograd.functional.jacobian(lambda each: chain(each, None, inverse=True)[0], y[0, 0].detach())
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det_inverse[0, 0], rtol=1e-6, atol=1e-6)
