"""What a fit warns of, and when not: every warning is an error here, so all other tests say that it stays silent."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from messages import assert_one_sentence
from torch import Tensor, nn

import lowerbound as lb
from lowerbound import objectives
from lowerbound.errors import DataError
from lowerbound.inference.alerts import squashes
from lowerbound.model import LatentVariableModel
from lowerbound.nn import MLP, seeded
from lowerbound.objectives import combined_iwae, elbo, iwae, lower_bound, multi_iwae, renyi, why_no_bound

N, D, LATENTS = 40, 6, 2
X = (torch.rand(N, D, generator=torch.Generator().manual_seed(0)) < 0.4).float()


class Ends(nn.Module):
    """A network that ends in a function."""

    def __init__(self, end: Callable[[Tensor], Tensor], out: tuple[int, ...] = (D,), hidden: tuple[int, ...] = (8,)):
        super().__init__()
        self.inner, self.end = MLP((LATENTS,), out, hidden), end

    def forward(self, z: Tensor) -> Tensor:
        return self.end(self.inner(z))


def model(decoder: nn.Module, likelihood: lb.likelihoods.Likelihood | None = None) -> LatentVariableModel:
    return LatentVariableModel(lb.priors.Normal(LATENTS), decoder, likelihood or lb.likelihoods.Bernoulli())


def fit(of: LatentVariableModel, x: Any = X, **kwargs: Any) -> lb.Fit:
    with seeded(1):
        posterior = lb.posteriors.DiagonalNormal(LATENTS, MLP((D,), (2 * LATENTS,), (8,)))
    return lb.fit(of, x, lb.AEVB(posterior, **kwargs), epochs=2, validation=0, batch_size=20)


def said_of(of: LatentVariableModel) -> str:
    z = torch.randn(64, LATENTS, generator=torch.Generator().manual_seed(1))
    return squashes(of, of.decoder(z), (z,))


SQUASHED: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "module": nn.Sigmoid(),
    "clamped": lambda a: a.sigmoid().clamp(1e-6, 1 - 1e-6),
    "reshaped": lambda a: a.sigmoid().view(-1, 2, 3).transpose(1, 2).reshape(-1, 6),
    "by hand": lambda a: 1 / (1 + (-a).exp()),
    "half of a tanh": lambda a: (a.tanh() + 1) / 2,
    "hard": nn.functional.hardsigmoid,
}


@pytest.mark.parametrize("name", SQUASHED)
def test_a_decoder_that_ends_in_a_sigmoid_is_warned_of(name):
    with seeded(0):  # far out a hidden layer without bounds reaches both ends
        decoder = Ends(SQUASHED[name])
        decoder.inner = MLP((LATENTS,), (D,), (8,), nn.ReLU)
    with pytest.warns(RuntimeWarning, match="outputs lie in .0, 1., as those of a sigmoid do, and Bernoulli") as caught:
        fit(model(decoder))
    assert_one_sentence(str(caught[0].message), ("leave the sigmoid out",))


def test_a_softmax_under_classes_is_warned_of():
    x = (X + 1) % 3
    with seeded(0):
        decoder = Ends(lambda a: a.softmax(1), (3, D))
    with pytest.warns(RuntimeWarning, match="as those of a softmax do, and Categorical reads them as logits"):
        fit(model(decoder, lb.likelihoods.Categorical(3)), x)
    fit(model(Ends(lambda a: a.log_softmax(1), (3, D)), lb.likelihoods.Categorical(3)), x)  # which are logits


def test_a_sigmoid_is_right_where_values_are_read_as_they_are():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(model(Ends(torch.sigmoid), lb.likelihoods.Normal(shape=(D,))))
    assert not [str(warning.message) for warning in caught]


def test_no_ordinary_decoder_is_warned_of():
    """Small networks with bounded layers, at the start and with biases from data: not one of 300."""
    for seed in range(100):
        for hidden in ((), (1,), (4,)):
            with seeded(seed):
                decoder = MLP((LATENTS,), (1 + seed % 3,), hidden)
            decoder.init_bias(torch.full((1 + seed % 3,), 0.5))
            assert not said_of(model(decoder))
    zero = nn.Linear(LATENTS, D)
    nn.init.zeros_(zero.weight), nn.init.zeros_(zero.bias)
    assert not said_of(model(zero))
    for end in (
        torch.relu,
        torch.tanh,
        nn.functional.softplus,
        lambda a: a.clamp(-5, 5),
        lambda a: a.sigmoid() * 8 - 4,
    ):
        assert not said_of(model(Ends(end)))


def test_a_look_at_the_decoder_leaves_no_trace():
    with seeded(0):
        decoder = nn.Sequential(MLP((LATENTS,), (D,), (8,), nn.ReLU), nn.Dropout(), By(lambda a: (a.tanh() + 1) / 2))
    of, before = model(decoder), torch.get_rng_state()
    with pytest.warns(RuntimeWarning, match="leave the sigmoid out"):
        fit(of, learning_rate=0.0)
    assert torch.equal(before, torch.get_rng_state())
    assert not decoder._forward_hooks
    with pytest.raises(ValueError, match="where"):
        fit(model(broken := MLP((LATENTS,), (D + 1,))))
    assert not broken._forward_hooks


class By(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


# A rate that is too high


def real(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(200, 2)) @ rng.normal(size=(2, 6)) + 0.3 * rng.normal(size=(200, 6))).astype(np.float32)


@pytest.mark.parametrize("validation", [0.0, 0.1])
@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_a_rate_that_blows_the_bound_up_ends_in_a_warning(validation, rate):
    vae = lb.VAE(2, hidden=(16,), epochs=4, learning_rate=rate, validation=validation, random_state=0)
    with pytest.warns(RuntimeWarning, match="learning_rate is probably too high") as caught:
        vae.fit(real())
    fell = [str(each.message) for each in caught if "the ELBO fell from" in str(each.message)]
    assert len(fell) == 1
    last = vae.history_.records[-1]
    assert f"to {last['train_log_lik'] - last['train_kl']:.4g} in the last epoch" in fell[0]
    assert ("the model kept is that of epoch" in fell[0]) == (vae.history_.best_epoch not in (None, 4))


class Weight(nn.Module):
    """An objective of its own, whose number means nothing in nats."""

    def forward(self, draw: Any) -> Tensor:
        return elbo(draw) - 1e6


@pytest.mark.parametrize("rate", [1e-4, 1e-2, 0.1])
@pytest.mark.parametrize("seed", range(3))
def test_ordinary_rates_are_not_warned_of(rate, seed):
    for settings in ({}, {"objective": "iwae"}, {"beta": 20.0}, {"free_bits": 2.0}, {"warm_up": 3}, {"draws": 3}):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lb.VAE(2, hidden=(8,), epochs=3, learning_rate=rate, random_state=seed, **settings).fit(real(seed))
        assert not [str(warning.message) for warning in caught]


def test_an_objective_of_other_units_is_not_warned_of():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lb.VAE(2, hidden=(8,), epochs=2, objective=Weight(), random_state=0).fit(real())
    assert not [str(warning.message) for warning in caught]


# Bounds


@pytest.mark.parametrize(
    ("objective", "draws"),
    [
        (iwae, 1),
        (partial(renyi, alpha=0.5), 1),
        (partial(combined_iwae, share=0.5), 1),
        (partial(multi_iwae, groups=3), 3),
        (partial(multi_iwae, groups=1), 1),
    ],
)
def test_a_bound_of_several_draws_with_one_is_said_to_be_the_elbo(objective, draws):
    with pytest.warns(UserWarning, match=r"of a single draw is the ELBO: give draws=2"):
        fit(model(MLP((LATENTS,), (D,))), objective=objective, draws=draws)
    fit(model(MLP((LATENTS,), (D,))), objective=objective, draws=2 * draws)


def test_iwae_has_twenty_draws_unless_told():
    vae = lb.VAE(2, hidden=(4,), epochs=1, objective="iwae", random_state=0).fit(X.numpy())
    assert vae.draws_ == 20
    assert lb.VAE(2, hidden=(4,), epochs=1, objective=iwae, random_state=0).fit(X.numpy()).draws_ == 20
    assert lb.VAE(2, hidden=(4,), epochs=1, random_state=0).fit(X.numpy()).draws_ == 1
    with pytest.warns(UserWarning, match="iwae of a single draw is the ELBO"):
        told = lb.VAE(2, hidden=(4,), epochs=1, objective="iwae", draws=1, random_state=0).fit(X.numpy())
    assert told.draws_ == 1


class Module(nn.Module):
    def forward(self, draw: Any) -> Tensor:
        return elbo(draw)


def own(draw: Any) -> Tensor:
    return elbo(draw)


def other(draw: Any) -> Tensor:
    return elbo(draw)


BOUNDS: dict[str, tuple[Callable[..., Any], bool, str]] = {
    **{name: (getattr(objectives, name), True, "") for name in ("elbo", "elbo_sampled", "elbo_entropy", "iwae")},
    "multi_iwae": (partial(multi_iwae, groups=2), True, ""),
    "combined_iwae": (partial(combined_iwae, share=0.2), True, ""),
    "a share above 1": (partial(combined_iwae, share=1.5), False, "share"),
    "renyi": (partial(renyi, alpha=0.5), True, ""),
    "minus_cubo": (objectives.minus_cubo, False, "negative of an upper bound"),
    "capacity": (partial(objectives.capacity, nats=1.0, strength=1.0), False, "capacity"),
    "Constrained": (objectives.Constrained("kl", 1.0), False, "Lagrangian"),
    "a function of one's own": (own, False, "own is not marked as a lower bound; if it is one, decorate"),
    "a lambda": (lambda draw: elbo(draw), False, "is not marked as a lower bound"),
    "a module": (Module(), False, "Module is not marked as a lower bound"),
    "settings of one's own": (partial(own), False, "not marked"),
    "one that says so": (lower_bound(other), True, ""),
    "settings of one that says so": (partial(lower_bound(other)), True, ""),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_an_objective_is_a_bound_only_if_it_is_known_to_be(name):
    objective, is_bound, why = BOUNDS[name]
    posterior = lb.posteriors.DiagonalNormal(LATENTS, MLP((D,), (2 * LATENTS,)))
    assert lb.AEVB(posterior, objective=objective, draws=4).is_bound is is_bound
    assert why in why_no_bound(objective)
    assert bool(why_no_bound(objective)) is not is_bound


def test_every_objective_of_the_library_says_what_it_is():
    for name in ("elbo", "elbo_sampled", "elbo_entropy", "iwae", "multi_iwae", "combined_iwae", "renyi", "cubo"):
        assert hasattr(getattr(objectives, name), "no_bound"), name


def test_a_fit_by_an_objective_of_ones_own_can_go_on(tmp_path):
    """What is not known to be a bound is no other fit than it was when that was not asked."""
    posterior = lb.posteriors.DiagonalNormal(LATENTS, MLP((D,), (2 * LATENTS,)))
    assert lb.AEVB(posterior, objective=own).describe()["weighted"] is False
    assert lb.AEVB(posterior, objective=objectives.minus_cubo).describe()["weighted"] is True
    vae = lb.VAE(2, hidden=(4,), epochs=1, objective=own, random_state=0).fit(X.numpy())
    assert vae.objective_is_bound is False


# Images and data sets

IMAGES: dict[tuple[int, ...], str] = {
    (16, 16, 3): r"look like images \(H, W, C\)",
    (8, 12, 1): "look like images",
    (12, 8, 4): "look like images",
    (4, 4, 3): "could be images",
    (3, 8, 3): "could be images",
    (3, 3, 3): "could be images",
    (3, 8, 8): "",
    (1, 8, 8): "",
    (1, 13, 2): "",
    (1, 8, 3): "",
    (4, 3, 3): "",
    (3, 4, 4): "",
    (2, 8, 8): "",
    (8, 8): "",
    (8, 3): "",
}


@pytest.mark.parametrize("shape", IMAGES)
def test_images_with_channels_last_are_asked_about(shape):
    x = (np.random.default_rng(0).random((10, *shape)) < 0.5).astype(np.uint8)
    vae = lb.VAE(2, network="conv", epochs=1, random_state=0)
    if not IMAGES[shape]:
        fitted = vae.fit(x)
        assert fitted.reconstruct(x).shape == x.shape
        assert fitted.sample(2).shape == (2, *shape)
        return
    with pytest.raises(ValueError, match=IMAGES[shape]) as caught:
        vae.fit(x)
    assert_one_sentence(str(caught.value), (r"give X\.transpose\(0, 3, 1, 2\)", "your own networks"))
    own = {"encoder": lb.nn.ConvEncoder(shape, 4), "decoder": lb.nn.ConvDecoder(2, shape)}
    assert lb.VAE(2, network="conv", epochs=1, random_state=0, **own).fit(x).sample(2).shape == (2, *shape)
    lb.VAE(2, hidden=(4,), epochs=1, random_state=0).fit(x)  # in which no axis is told from another


class Pairs(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        return X[i], 1


class Keyed(Pairs):
    def __getitem__(self, i: int) -> Any:
        return {"data": X[i], "label": 1}


class Alone(Pairs):
    def __getitem__(self, i: int) -> Any:
        return X[i].numpy()


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
        return iter(X)


TensorDataset = torch.utils.data.TensorDataset


@pytest.mark.parametrize("data", [TensorDataset(X), Alone(), list(X), torch.utils.data.Subset(Alone(), range(N))])
def test_data_sets_of_rows_alone_are_taken(data):
    due = lb.VAE(2, hidden=(4,), epochs=1, random_state=0).fit(X.numpy())
    found = lb.VAE(2, hidden=(4,), epochs=1, random_state=0).fit(data)
    assert found.shape_ == (D,)
    np.testing.assert_array_equal(found.transform(data), due.transform(X.numpy()))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TensorDataset(X, X[:, 0]), (r"TensorDataset whose items are tuples of 2", r"item\[0\] for item in X")),
        (Pairs(), ("Pairs whose items are tuples of 2",)),
        (Keyed(), ("Keyed whose items are dicts of 'data', 'label'", r"item\['data'\]")),
        ([(x, 1) for x in X], ("list whose items are tuples of 2",)),
        (Stream(), ("Stream, which gives rows one after another", "all rows as one tensor")),
        (torch.utils.data.DataLoader(TensorDataset(X, X)), ("TensorDataset whose items are tuples of 2",)),
        (torch.utils.data.Subset(Alone(), []), ("holds no rows",)),
    ],
)
def test_data_sets_of_more_than_rows_are_refused(data, words):
    with pytest.raises(DataError, match=r".") as caught:
        lb.VAE(2, hidden=(4,), epochs=1, random_state=0).fit(data)
    assert_one_sentence(str(caught.value), words)


def test_nothing_is_said_of_a_start_that_is_not_finite():
    """What is not finite is explained by the loop; here it must not be compared."""
    of = model(MLP((LATENTS,), (D,)))
    with torch.no_grad():
        of.decoder.layers[-1].bias.fill_(math.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(lb.errors.DivergedError):
            fit(of)
