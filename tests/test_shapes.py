"""Shapes of what users write themselves are compared with what is expected, and never broadcast."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from messages import assert_one_sentence, assert_words
from torch import Tensor, nn

import lowerbound as lb
from lowerbound import distributions, evidence
from lowerbound.data import Rows
from lowerbound.distributions import Normal, generator
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP
from lowerbound.posteriors import Posterior
from lowerbound.priors import Prior

N, D, LATENTS = 8, 6, 2
X = (torch.rand(N, D, generator=torch.Generator().manual_seed(0)) < 0.4).float()


class Gives(nn.Module):
    """A network that gives whatever ``make`` makes of its input."""

    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make, self.weight = make, nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Any:
        return self.make(x + self.weight)


def to(*shape: int) -> Callable[[Tensor], Tensor]:
    """Of each row, zeros of ``shape``."""
    return lambda x: x.flatten(1).sum(1).view(-1, *[1] * len(shape)).expand(-1, *shape)


def parts(
    decoder: nn.Module | None = None,
    encoder: nn.Module | None = None,
    likelihood: lb.likelihoods.Likelihood | None = None,
    prior: Prior | None = None,
    posterior: Posterior | None = None,
) -> tuple[LatentVariableModel, Posterior]:
    decoder = MLP((LATENTS,), (D,), (4,)) if decoder is None else decoder
    encoder = MLP((D,), (2 * LATENTS,), (4,)) if encoder is None else encoder
    likelihood = lb.likelihoods.Bernoulli() if likelihood is None else likelihood
    model = LatentVariableModel(prior or lb.priors.Normal(LATENTS), decoder, likelihood)
    return model, posterior or lb.posteriors.DiagonalNormal(LATENTS, encoder)


def fit(model: LatentVariableModel, posterior: Posterior, x: Any = X, **kwargs: Any) -> None:
    lb.fit(model, x, lb.AEVB(posterior, **kwargs), epochs=1, batch_size=4, validation=0)


def score(model: LatentVariableModel, posterior: Posterior, x: Any = X) -> None:
    evidence.log_likelihood(model, posterior, x, samples=3)


USES = {"fit": fit, "score": score}


DECODERS: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...]]] = {
    "one number for six columns": (to(1), (r"decoder gave each row \[1\]", r"\[6\] is expected", r"rows are \[6\]")),
    "one number a row": (lambda z: z.sum(1), (r"decoder gave each row \[\]", r"\[6\] is expected")),
    "seven for six": (to(7), (r"decoder gave each row \[7\]", r"\[6\] is expected")),
    "an axis too many": (to(1, D), (r"decoder gave each row \[1, 6\]", r"\[6\] is expected")),
    "transposed": (to(D, 1), (r"decoder gave each row \[6, 1\]", r"\[6\] is expected")),
    "one row for all": (lambda z: to(D)(z)[:1], (r"decoder must give a tensor \[N, \*X\]", r"it gave \[1, 6\]")),
    "too many rows": (lambda z: to(D)(z).repeat(2, 1), (r"decoder must give a tensor", r"it gave \[\d+, 6\]")),
    "a pair": (lambda z: (to(D)(z), z), ("decoder must give a tensor", "it gave a tuple")),
    "an array": (lambda z: to(D)(z).detach().numpy(), ("decoder must give a tensor", "it gave a ndarray")),
}


@pytest.mark.parametrize("use", ["score", "fit"])
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_of_a_wrong_shape_is_refused(name, use):
    make, words = DECODERS[name]
    with pytest.raises(ValueError, match=r".") as caught:
        USES[use](*parts(decoder=Gives(make)))
    assert_one_sentence(str(caught.value), words)


@pytest.mark.parametrize("name", ["Normal", "Poisson", "Bernoulli", "StudentT", "DiscretizedLogistic", "Categorical"])
def test_no_likelihood_broadcasts_its_parameters(name):
    count = 3 if name == "Categorical" else 2 if name == "DiscretizedLogistic" else 1
    decoder = nn.Linear(2, 1) if count == 1 else nn.Sequential(nn.Linear(2, count), nn.Unflatten(1, (count, 1)))
    x = (X + 1) % 3 if name == "Categorical" else X
    x = x.numpy().astype(np.uint8) if name == "DiscretizedLogistic" else x.numpy()
    vae = lb.VAE(2, likelihood=name, decoder=decoder, hidden=(4,), epochs=1, random_state=0)
    due = r"\[6\]" if count == 1 else rf"\[{count}, 6\]"
    with pytest.raises(ValueError, match=rf"the decoder gave each row .*, where {due} is expected"):
        vae.fit(x)
    assert not hasattr(vae, "model_")


def test_images_are_compared_axis_by_axis():
    x = (torch.rand(N, 3, 2, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    for made, due in (((2, 3), r"\[2, 3\]"), ((1, 2), r"\[1, 2\]"), ((6,), r"\[6\]"), ((1, 3, 2), r"\[1, 3, 2\]")):
        model, posterior = parts(MLP((LATENTS,), made), MLP((3, 2), (2 * LATENTS,)))
        with pytest.raises(ValueError, match=rf"decoder gave each row {due}, where \[3, 2\] is expected"):
            score(model, posterior, x)


ENCODERS: dict[str, tuple[Callable[[Tensor], Any], tuple[str, ...]]] = {
    "a pair": (lambda x: (to(2)(x), to(2)(x)), ("encoder must give one tensor", "it gave a tuple")),
    "half of the numbers": (to(2), ("encoder gave a row", "needs")),
    "an axis too many": (to(1, 4), ("encoder gave a row", "needs")),
    "a number a row": (lambda x: x.sum(1), ("encoder gave a row", "needs")),
    "one row for all": (lambda x: to(4)(x)[:1], ("encoder must give one tensor", r"it gave \[1, 4\]")),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_a_wrong_shape_is_refused(name, use):
    make, words = ENCODERS[name]
    with pytest.raises(ValueError, match=r".") as caught:
        USES[use](*parts(encoder=Gives(make)))
    assert_one_sentence(str(caught.value), words)


def test_networks_that_do_not_fit_their_input_are_named():
    for made, words in (
        (parts(encoder=nn.Linear(7, 4)), (r"the encoder does not fit its input, \[\d, 6\]",)),
        (parts(decoder=nn.Linear(3, D)), (r"the decoder does not fit its input, \[\d+, 2\]",)),
        (parts(decoder=nn.Conv2d(1, 1, 3)), ("the decoder does not fit its input",)),
    ):
        for use in USES.values():
            with pytest.raises(ValueError, match=r".") as caught:
                use(*made)
            assert_words(str(caught.value), words)
    model, _ = parts(decoder=MLP((LATENTS,), (1,)))
    with pytest.raises(ValueError, match=r"the decoder's init_bias does not fit its input, \[1, 6\]"):
        model.initialise(X)


class Scalar(lb.likelihoods.Bernoulli):
    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().log_prob(params, x, mask).sum()


class Unsummed(lb.likelihoods.Bernoulli):
    def log_prob(self, params: Tensor, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.log_prob_per_value(params, x)


@pytest.mark.parametrize("kind", [Scalar, Unsummed])
def test_a_likelihood_of_a_wrong_shape_is_refused(kind):
    for use in USES.values():
        with pytest.raises(ValueError, match=rf"log_prob of {kind.__name__} gave .* \[K, B\] = .* is expected"):
            use(*parts(likelihood=kind()))


@dataclass(frozen=True)
class Forgot(Normal):
    """A normal that forgets the sum over its dimensions."""

    def log_prob(self, z: Tensor) -> Tensor:
        return super().log_prob_per_dim(z)


class ForgetfulPrior(lb.priors.Normal):
    def forward(self, context: Tensor | None = None, encode: Any = None) -> distributions.Distribution:
        return Forgot(torch.zeros(LATENTS), torch.ones(LATENTS), batch_dims=0)


class TorchPrior(lb.priors.Normal):
    def forward(self, context: Tensor | None = None, encode: Any = None) -> Any:
        return torch.distributions.Normal(torch.zeros(LATENTS), torch.ones(LATENTS))


class ForgetfulPosterior(lb.posteriors.DiagonalNormal):
    family = Forgot

    def distribution(self, out: Tensor) -> Any:
        q = super().distribution(out)
        return Forgot(q.loc, q.scale)


class TorchPosterior(lb.posteriors.DiagonalNormal):
    def distribution(self, out: Tensor) -> Any:
        q = super().distribution(out)
        return torch.distributions.Normal(q.loc, q.scale)


def test_distributions_of_a_wrong_shape_or_library_are_refused():
    encoder = MLP((D,), (2 * LATENTS,), (4,))
    foreign = r"returned a torch\.distributions\.normal\.Normal; return one of lowerbound\.distributions"
    for use in USES.values():
        with pytest.raises(TypeError, match=f"the prior {foreign}"):
            use(*parts(prior=TorchPrior(LATENTS)))
        with pytest.raises(TypeError, match=f"the posterior {foreign}"):
            use(*parts(posterior=TorchPosterior(LATENTS, encoder)))
    sampled = {"objective": lb.objectives.elbo_sampled}
    with pytest.raises(ValueError, match=r"log_prob of the prior of 'z' gave \[1, 4, 2\], where a tensor \[K, B\]"):
        fit(*parts(prior=ForgetfulPrior(LATENTS)), **sampled)
    with pytest.raises(ValueError, match=r"log_prob of the posterior of 'z' gave \[1, 4, 2\]"):
        fit(*parts(posterior=ForgetfulPosterior(LATENTS, encoder)), **sampled)
    model, _ = parts(prior=ForgetfulPrior(LATENTS))
    with pytest.raises(ValueError, match=r"log_prob of the prior gave \[3, 8, 2\]"):
        model.log_joint(torch.zeros(3, N, LATENTS), X)


OBJECTIVES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a mean over rows": (lambda draw: draw.log_w.mean(), r"gave \[\], where a tensor \[B\] = \[4\] is expected"),
    "a number for each draw": (lambda draw: draw.log_w, r"gave \[\d, 4\], where a tensor \[B\]"),
    "a float": (lambda draw: draw.log_w.mean().item(), r"gave a float, where a tensor \[B\]"),
    "an axis too many": (lambda draw: draw.log_w.mean(0).unsqueeze(1), r"gave \[4, 1\], where a tensor \[B\]"),
}


@pytest.mark.parametrize("draws", [1, 4])  # K = B: a product of the weights with [K, B] would have a shape
@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_of_a_wrong_shape_is_refused(name, draws):
    objective, words = OBJECTIVES[name]
    with pytest.raises(ValueError, match=r"the objective .*lambda.* " + words + ".*one number for each row"):
        fit(*parts(), objective=objective, draws=draws)


def test_an_estimator_or_a_penalty_of_a_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"the gradient estimator .* gave \[\], where a tensor \[B\] = \[4\]"):
        fit(*parts(), gradient=lambda draw, objective: objective(draw).mean())
    with pytest.raises(ValueError, match=r"the penalty .* gave \[4\], where a tensor \[\] is expected: one number"):
        fit(*parts(), penalties=(lambda draw, weight: draw.kl,))


# Models written elsewhere

ENCODER, DECODER = nn.Linear(D, 2 * LATENTS), nn.Linear(LATENTS, D)


def log_joint(z: Tensor, x: Tensor) -> Tensor:
    log_lik = torch.distributions.Bernoulli(logits=DECODER(z)).log_prob(x).sum(-1)
    return log_lik - 0.5 * z.square().sum(-1) - math.log(2 * math.pi)


def proposal(x: Tensor) -> Normal:
    loc, scale = ENCODER(x).chunk(2, -1)
    return Normal(loc, scale.exp())


def rng() -> torch.Generator:
    return generator(0, "elsewhere")


ASKED = {
    "importance_sampling": lambda t: evidence.importance_sampling(t, Rows(X), rng(), 5),
    "to_precision": lambda t: evidence.to_precision(t, Rows(X), rng(), 1, 300),
    "annealed": lambda t: evidence.annealed(t, Rows(X), rng(), evidence.Settings(2, 2, 1)),
    "appendix_d": lambda t: evidence.appendix_d(t, Rows(X), rng(), draws=4),
}


def foreign(kind: Any) -> Callable[[Tensor], Any]:
    return lambda x: kind(proposal(x).loc, proposal(x).scale)


FUNCTIONS: dict[str, tuple[Callable[[], evidence.Targets], str]] = {
    "[B]": (
        lambda: evidence.of_functions(lambda z, x: log_joint(z, x).mean(0), proposal, (LATENTS,)),
        r"log_joint gave \[8\], where a tensor \[K, B\] = \[\d+, 8\] is expected",
    ),
    "no sum over columns": (
        lambda: evidence.of_functions(lambda z, x: DECODER(z) * x, proposal, (LATENTS,)),
        r"log_joint gave \[\d+, 8, 6\]",
    ),
    "one number": (
        lambda: evidence.of_functions(lambda z, x: log_joint(z, x).sum(), proposal, (LATENTS,)),
        r"log_joint gave \[\]",
    ),
    "[B, K]": (
        lambda: evidence.of_functions(lambda z, x: log_joint(z, x).T, proposal, (LATENTS,)),
        r"log_joint gave \[8, \d+\]",
    ),
    "no tensor": (
        lambda: evidence.of_functions(lambda z, x: 0.0, proposal, (LATENTS,)),
        r"log_joint gave a float, where a tensor",
    ),
    "another event": (
        lambda: evidence.of_functions(log_joint, proposal, (3,)),
        r"event is \(3,\), but draws of the posterior have another shape",
    ),
    "noise that would be shared": (
        lambda: evidence.of_functions(log_joint, proposal, (1,)),
        r"event is \(1,\), so draws of the posterior must have shape \[1, 8, 1\], not \[1, 8, 2\]",
    ),
    "one q for all rows": (
        lambda: evidence.of_functions(log_joint, lambda x: Normal(torch.zeros(3), torch.ones(3), 0), (LATENTS,)),
        "draws of the posterior have another shape",
    ),
    "a prior of another event": (
        lambda: evidence.of_functions(log_joint, proposal, (2,), Normal(torch.zeros(3), torch.ones(3), 0)),
        "draws of the prior have another shape",
    ),
    "a normal of torch": (
        lambda: evidence.of_functions(log_joint, foreign(torch.distributions.Normal), (2,)),
        r"posterior\(x\) returned a torch\.distributions\.normal\.Normal; return one of lowerbound\.distributions",
    ),
    "a prior of torch": (
        lambda: evidence.of_functions(log_joint, proposal, (2,), torch.distributions.Normal(0.0, 1.0)),
        r"prior= returned a torch\.distributions\.normal\.Normal",
    ),
    "a tuple": (
        lambda: evidence.of_functions(log_joint, foreign(lambda loc, scale: (loc, scale)), (2,)),
        r"posterior\(x\) returned a builtins\.tuple",
    ),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_model_written_elsewhere_is_compared_too(name, asked):
    make, words = FUNCTIONS[name]
    with pytest.raises((ValueError, TypeError), match=words):
        ASKED[asked](make())


def test_rows_come_as_tensors_and_arrays_too():
    targets = evidence.of_functions(log_joint, proposal, (LATENTS,))
    due = evidence.importance_sampling(targets, Rows(X), rng(), 5).estimate
    for x in (X, X.numpy(), X.numpy().astype(np.uint8), X.bool()):
        np.testing.assert_array_equal(evidence.importance_sampling(targets, x, rng(), 5).estimate, due)
    model, posterior = parts()
    with pytest.raises(TypeError, match="the rows come as a list; give them as an array or a tensor"):
        fit(model, posterior, X.tolist())


def test_checks_of_a_library_model_refuse_others():
    targets = evidence.of_functions(log_joint, proposal, (LATENTS,))
    for check in (
        partial(evidence.collapse, targets, proposal, X),
        partial(evidence.judge_model, targets, proposal, X),
        partial(evidence.gap_report, targets, proposal, X),
        partial(evidence.predictive_check, targets, proposal, X),
        partial(evidence.terms, targets, proposal, X),
        partial(evidence.calibrate, targets, proposal),
        partial(evidence.log_likelihood, targets, proposal, X),
    ):
        with pytest.raises(TypeError, match=r"this needs a LatentVariableModel, got function; .*of_functions"):
            check()
