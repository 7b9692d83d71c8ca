"""Hamiltonian Monte Carlo: reversible, and it leaves its target as it is; wrong ones do not.

Chains start from exact draws and are compared with fresh ones by Kolmogorov–Smirnov: independent draws, so that the
p-values hold. Each test fails by chance once in 10⁴ runs with other seeds.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from oracles import rng
from scipy import stats
from torch import Tensor

from lowerbound.distributions import Normal
from lowerbound.mcmc import Path, Point, hamiltonian, trajectory, transition

CHAINS, D = 20_000, 2
FALSE_ALARM = 1e-4
GENERATOR = rng()  # of the kernels: each test starts it anew


@pytest.fixture(autouse=True)
def same_draws():
    GENERATOR.manual_seed(2)


Kernel = Callable[[Path, Point, Tensor], Point]


def quartic(z: Tensor) -> Tensor:
    """A banana: z₁ ~ N(0, 1), z₂ | z₁ ~ N(z₁², ½²)."""
    return -0.5 * z[..., 0].square() - 2 * (z[..., 1] - z[..., 0].square()).square()


def exact(seed: int) -> Tensor:
    noise = torch.randn(1, CHAINS, D, generator=rng(seed), dtype=torch.float64)
    return torch.stack([noise[..., 0], noise[..., 0].square() + 0.5 * noise[..., 1]], -1)


def path() -> Path:
    start = Normal(torch.zeros(D).double(), torch.full((D,), 2.0).double(), batch_dims=0)
    return Path(quartic, start)


def same(kernel: Kernel, of: Path) -> bool:
    """Whether the draws of a kernel from exact ones are still those of the target, by two projections."""
    point, step = of.at(exact(0)), torch.full((CHAINS,), 0.15).double()
    for _ in range(4):
        point = kernel(of, point, step)
    fresh = exact(1)
    found = [
        stats.ks_2samp(f(point.z).flatten(), f(fresh).flatten()).pvalue
        for f in (lambda z: z[..., 0], lambda z: z[..., 1], lambda z: z[..., 1] - z[..., 0].square())
    ]
    return min(found) > FALSE_ALARM / len(found)


def right(of: Path, point: Point, step: Tensor) -> Point:
    return transition(of, point, 1.0, step, 3, GENERATOR)[0]


def no_metropolis(of: Path, point: Point, step: Tensor) -> Point:
    momentum = torch.randn(point.z.shape, generator=GENERATOR, dtype=torch.float64)
    return trajectory(of, point, momentum, 1.0, step.expand(point.log_joint.shape), 3)[0]


def wrong_sign(of: Path, point: Point, step: Tensor) -> Point:
    """The kinetic energy enters the acceptance with the wrong sign. (A wrong sign of the gradient alone would only be
    slow: such a path is reversible too, and Metropolis mends it.)"""
    right_kinetic = hamiltonian.kinetic
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hamiltonian, "kinetic", lambda momentum: -right_kinetic(momentum))
        return right(of, point, step)


def adapted(of: Path, point: Point, step: Tensor) -> Point:
    """The step is chosen by where the chain stands: large where the density is high."""
    return right(of, point, step * torch.where(point.log_joint[0] > -0.7, 1.5, 0.3))


def test_a_path_runs_back_to_where_it_came_from():
    of, point = path(), path().at(exact(0)[:, :100])
    momentum = torch.randn(1, 100, D, generator=rng(3), dtype=torch.float64)
    step = torch.linspace(0.01, 0.1, 100).double().unsqueeze(0)
    end, after = trajectory(of, point, momentum, 0.7, step, 10)
    back, before = trajectory(of, end, -after, 0.7, step, 10)
    assert (end.z - point.z).abs().max() > 0.1
    torch.testing.assert_close(back.z, point.z, rtol=0, atol=1e-10)
    torch.testing.assert_close(-before, momentum, rtol=0, atol=1e-10)


def test_a_path_keeps_volume_and_nearly_energy():
    of = path()
    z, p = exact(0)[:, :1], torch.randn(1, 1, D, generator=rng(3), dtype=torch.float64)

    def image(both: Tensor) -> Tensor:
        end, momentum = trajectory(
            of, of.at(both[:D].view(1, 1, D)), both[D:].view(1, 1, D), 1.0, torch.tensor([[0.05]]), 5
        )
        return torch.cat([end.z.flatten(), momentum.flatten()])

    at, h = torch.cat([z.flatten(), p.flatten()]), 1e-6
    columns = [(image(at + h * e) - image(at - h * e)) / (2 * h) for e in torch.eye(2 * D).double()]
    assert float(torch.stack(columns, 1).det()) == pytest.approx(1, abs=1e-6)
    end = image(at)

    def energy(both: Tensor) -> float:
        return float(0.5 * both[D:].square().sum() - quartic(both[:D]))

    assert energy(end) == pytest.approx(energy(at), abs=0.05)
    assert energy(end) != energy(at)


def test_it_leaves_the_target_as_it_is():
    assert same(right, path())


@pytest.mark.parametrize("mutant", [no_metropolis, wrong_sign, adapted])
def test_wrong_ones_are_seen(mutant):
    assert not same(mutant, path())


def test_it_mixes():
    """From far off it comes to the target: that it leaves it as it is would hold of standing still."""
    of, step = path(), torch.full((CHAINS,), 0.2).double()
    point = of.at(torch.full((1, CHAINS, D), 1.5).double())
    generator = rng(5)
    for _ in range(60):
        point, _ = transition(of, point, 1.0, step, 5, generator)
    assert stats.ks_2samp(point.z[0, :, 0], exact(1)[0, :, 0]).pvalue > FALSE_ALARM


def test_a_rejected_proposal_leaves_all_of_the_point():
    of = path()
    point = of.at(exact(0)[:, :50])
    stayed, probability = transition(of, point, 1.0, torch.full((50,), 1e3).double(), 3, rng())
    assert float(probability.max()) < 1e-6
    for name, value in vars(point).items():
        assert torch.equal(getattr(stayed, name), value)


def test_a_density_of_nan_is_refused():
    of = Path(lambda z: quartic(z).where(z[..., 0] < 0, torch.nan), path().start)
    point = path().at(-exact(0).abs()[:, :2000])
    moved, _ = transition(of, point, 1.0, torch.full((2000,), 0.5).double(), 3, rng())
    assert bool(moved.log_joint.isfinite().all())
    assert bool((moved.z != point.z).any())


def geweke(kernel: Kernel) -> bool:
    """Draw (z, x) jointly, then in turn z by the kernel and x anew: (z, x) must stay what it was. Geweke 2004."""
    generator = rng(11)
    start = Normal(torch.zeros(1).double(), torch.ones(1).double(), batch_dims=0)
    z = torch.randn(1, CHAINS, 1, generator=generator, dtype=torch.float64)
    step = torch.full((CHAINS,), 0.6).double()

    def joint(x: Tensor) -> Path:
        def log_joint(z: Tensor) -> Tensor:
            z = z.squeeze(-1)
            return -0.5 * z.square() + x * z - z.exp()  # x ~ Poisson(eᶻ), z ~ N(0, 1)

        return Path(log_joint, start)

    for _ in range(20):
        x = torch.poisson(z[0, :, 0].exp(), generator=generator)
        of = joint(x)
        z = kernel(of, of.at(z), step).z.nan_to_num().clamp(-8, 6)  # what diverges is seen, and breaks nothing
    fresh = torch.randn(CHAINS, generator=rng(12), dtype=torch.float64)
    rates = z[0, :, 0].exp(), fresh.exp()
    x, again = (torch.poisson(rate, generator=generator) for rate in rates)
    return bool(
        stats.ks_2samp(z[0, :, 0], fresh).pvalue > FALSE_ALARM / 2
        and stats.mannwhitneyu(x, again).pvalue > FALSE_ALARM / 2
    )


def test_geweke_joint_test():
    assert geweke(right)


def test_geweke_sees_a_missing_metropolis_step():
    assert not geweke(no_metropolis)


def test_geweke_sees_a_half_step_too_few(monkeypatch):
    """The momentum's energy is counted twice: a wrong acceptance."""
    monkeypatch.setattr(hamiltonian, "kinetic", lambda p: p.double().square().flatten(2).sum(2))
    assert not geweke(right)
