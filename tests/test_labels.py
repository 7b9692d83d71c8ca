"""Categorical latents whose class is observed in some rows, and enumerated in the others."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fits import Stop, stop_at
from folders import forge
from messages import assert_one_sentence
from torch import Tensor, nn

import lowerbound as lb
from lowerbound import objectives, posteriors, priors
from lowerbound.data import Rows
from lowerbound.draw import Batch, Draw
from lowerbound.errors import DataError, FormatError
from lowerbound.estimators.labels import encode_labels
from lowerbound.model import LatentVariableModel, draw
from lowerbound.nn import MLP, seeded
from lowerbound.report import sentences

N, X, Z, C = 6, 4, 2, 3
ROWS = (torch.rand(N, X, generator=torch.Generator().manual_seed(0)) < 0.5).double()
LABELS = torch.tensor([2, -1, 0, -1, -1, 1])
NONE = torch.full((N,), -1)
ALL = torch.tensor([2, 1, 0, 0, 2, 1])


def m2(depends: bool = False) -> tuple[LatentVariableModel, posteriors.Latents]:
    """p(y) p(z) p(x|y, z) or, if z ``depends`` on y, p(y) p(z|y) p(x|z), with q(y|x) q(z|x, y), in double precision."""
    with seeded(0):
        z: priors.Prior = priors.ConditionalNormal(Z, MLP((C,), (2 * Z,), (5,))) if depends else priors.Normal(Z)
        prior = priors.Latents({"y": priors.Categorical(1, C), "z": z}, {"z": ["y"]} if depends else {})
        decoder = MLP((Z if depends else C + Z,), (X,), (5,))
        parts = {
            "y": posteriors.Categorical(1, C, MLP((X,), (C,), (5,))),
            "z": posteriors.DiagonalNormal(Z, MLP((X,), (2 * Z,), (5,), context=C)),
        }
        model = LatentVariableModel(prior, decoder, lb.likelihoods.Bernoulli(), parents=["z"] if depends else None)
    with torch.no_grad():
        prior.parts["y"].logits.copy_(torch.tensor([[0.3, -0.4, 0.9]]))
    return model.double(), posteriors.Latents(parts, parents={"z": ["y"]}).double()


def batch_of(labels: Tensor | None) -> Batch:
    weight = torch.full((N,), 1 / N, dtype=torch.float64)
    return Batch(ROWS, None, torch.arange(N), weight, labels=None if labels is None else {"y": labels})


def of(model: LatentVariableModel, posterior: posteriors.Latents, labels: Tensor | None, K: int = 2) -> Draw:
    return draw(model, posterior, batch_of(labels), torch.Generator().manual_seed(1), K)


def log_q_y(posterior: posteriors.Latents) -> Tensor:
    """log q(y|x), ``[N, C]``."""
    return posterior.parts["y"].encoder(ROWS).log_softmax(-1)


def given_y(model: LatentVariableModel, posterior: posteriors.Latents, k: int, eps: Tensor) -> Tensor:
    """log p(y = k) + mean_K log p(x|y, z) − KL(q(z|x, y) ‖ p(z|y)) of each row, by hand."""
    one_hot = nn.functional.one_hot(torch.full((N,), k), C).double()
    q, p = posterior.parts["z"](ROWS, None, one_hot), model.prior.parts["z"](one_hot)
    loc, scale = q.loc, q.scale
    mean, deviation = p.loc.expand(N, Z), p.scale.expand(N, Z)
    squares = (scale.square() + (loc - mean).square()) / (2 * deviation.square())
    kl = ((deviation / scale).log() + squares - 0.5).sum(-1)
    total = torch.zeros(N, dtype=torch.float64)
    for noise in eps:
        z = loc + scale * noise
        inputs = z if model.parents else torch.cat([one_hot, z], -1)
        logits = model.decoder(inputs)
        total = total + (ROWS * logits - nn.functional.softplus(logits)).sum(-1) / len(eps)
    log_p_y = model.prior.parts["y"].logits.log_softmax(-1)[0, k]
    return log_p_y + total - kl


def bound_by_hand(model: LatentVariableModel, posterior: posteriors.Latents, labels: Tensor, eps: Tensor) -> Tensor:
    log_q = log_q_y(posterior)
    each = torch.stack([given_y(model, posterior, k, eps) for k in range(C)], 1)
    unlabelled = (log_q.exp() * (each - log_q)).sum(1)
    labelled = each.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return torch.where(labels >= 0, labelled, unlabelled)


def noise_of_z(drawn: Draw) -> Tensor:
    noise = drawn.node("z").noise
    assert noise is not None
    return noise


@pytest.mark.parametrize("depends", [False, True], ids=["M2", "GMVAE"])
@pytest.mark.parametrize("labels", [LABELS, NONE, ALL, None], ids=["some", "none", "all", "without"])
def test_the_bound_is_the_sum_over_classes_by_hand(labels: Tensor | None, depends: bool) -> None:
    model, posterior = m2(depends)
    drawn = of(model, posterior, labels)
    found = objectives.elbo_enumerated(drawn)
    true = bound_by_hand(model, posterior, NONE if labels is None else labels, noise_of_z(drawn))
    assert (found - true).abs().max() < 1e-8


@pytest.mark.parametrize("depends", [False, True], ids=["M2", "GMVAE"])
def test_gradients_are_those_of_finite_differences(depends: bool) -> None:
    """Of every parameter of p and q: of labelled rows, too, and with the term that teaches q(y|x) from labels."""
    model, posterior = m2(depends)
    procedure = lb.AEVB(
        posterior, objectives.elbo_enumerated, penalties=(partial(objectives.cross_entropy, strength=0.7),)
    ).start(model)
    noise = posterior.noise(1, N, torch.Generator().manual_seed(1), torch.float64)
    scalars = {name: torch.tensor(1.0) for name in procedure.schedules}

    def loss() -> Tensor:
        return procedure.loss(batch_of(LABELS), noise, scalars)[0]

    parameters = [*model.parameters(), *posterior.parameters()]
    found = torch.autograd.grad(loss(), parameters)
    step = 1e-6
    for parameter, gradient in zip(parameters, found, strict=True):
        flat, at = parameter.detach().view(-1), gradient.abs().argmax()
        with torch.no_grad():
            flat[at] += step
            above = loss()
            flat[at] -= 2 * step
            below = loss()
            flat[at] += step
        true = (above - below) / (2 * step)
        assert gradient.flatten()[at] == pytest.approx(true.item(), rel=1e-5, abs=1e-8)
        assert gradient.abs().max() > 0


def test_drawn_classes_have_the_enumerated_bound_on_average() -> None:
    """E of ``elbo`` over q(y|x), with draws of y, is ``elbo_enumerated``."""
    model, posterior = m2()
    exact = objectives.elbo_enumerated(of(model, posterior, LABELS, 20_000))
    drawn = of(model, posterior, LABELS, 20_000)
    each = drawn.log_lik + sum(node.log_p - node.log_q for node in drawn.nodes)
    error = each.std(0) / len(each) ** 0.5
    assert (((each.mean(0) - exact) / error).abs() < 4).all()
    assert (objectives.elbo(drawn) - exact).abs().max() < 0.02
    assert (drawn.node("y").z[:, LABELS >= 0, 0].argmax(-1) == LABELS[LABELS >= 0]).all()


def test_with_all_labels_it_is_a_conditional_vae_with_the_prior_of_classes() -> None:
    """log p(y) + the ELBO of p(x|z, c) p(z|c) with c = y as its context: the same numbers from the same weights."""
    model, posterior = m2(depends=True)
    q = posterior.parts["z"]
    conditional = LatentVariableModel(model.prior.parts["z"], nn.Sequential(model.decoder), model.likelihood)
    one_hot = nn.functional.one_hot(ALL, C).double()
    labelled = of(model, posterior, ALL)
    with_context = replace(batch_of(None), context=one_hot)

    class NoContext(nn.Module):
        def __init__(self, decoder: nn.Module) -> None:
            super().__init__()
            self.decoder = decoder

        def forward(self, z: Tensor, context: Tensor | None = None) -> Tensor:
            return self.decoder(z)

    conditional.decoder = NoContext(model.decoder)
    other = draw(conditional, q, with_context, noise_of_z(labelled))
    log_p_y = model.prior.parts["y"].logits.log_softmax(-1)[0, ALL]
    assert (objectives.elbo_enumerated(labelled) - (objectives.elbo(other) + log_p_y)).abs().max() < 1e-12
    assert (objectives.elbo(labelled) - objectives.elbo_enumerated(labelled)).abs().max() < 1e-12


# --- a mixture of normals with linear parts: everything is known in closed form ---

MEANS = torch.tensor([[-1.0, 0.5], [1.5, 1.0], [0.0, -2.0]], dtype=torch.float64)
WEIGHT = torch.linalg.qr(torch.randn(X, Z, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
WEIGHT = WEIGHT * torch.tensor([1.4, 0.7], dtype=torch.float64)  # orthogonal columns: p(z|x, y) is diagonal
NOISE, SPREAD = 0.6, 0.8
LOG_P = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()
REAL = 2 * torch.randn(N, X, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def log_p_each() -> Tensor:
    """log p(x, y), ``[N, C]``."""
    covariance = SPREAD**2 * WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(X).double()
    normal = torch.distributions.MultivariateNormal(MEANS @ WEIGHT.T, covariance)
    return normal.log_prob(REAL.unsqueeze(1)) + LOG_P


class Function(nn.Module):
    def __init__(self, function: Callable[..., Tensor], context: int = 0) -> None:
        super().__init__()
        self.function, self.context = function, context
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def raw(scale: Tensor) -> Tensor:
    return lb.distributions.inverse_positive(scale - posteriors.normal.MIN_SCALE)


def z_given(x: Tensor, one_hot: Tensor) -> Tensor:
    """The numbers of p(z|x, y): mean and raw standard deviation."""
    precision = SPREAD**-2 + WEIGHT.square().sum(0) / NOISE**2
    mean = (one_hot @ MEANS / SPREAD**2 + x @ WEIGHT / NOISE**2) / precision
    return torch.cat([mean, raw(precision.rsqrt()).expand(len(x), Z)], 1)


def mixture() -> tuple[LatentVariableModel, posteriors.Latents]:
    """p(y) N(z; μ_y, σ²I) N(x; Wz, s²I) and its exact p(y|x) p(z|x, y)."""
    spread = raw(torch.full((Z,), SPREAD, dtype=torch.float64))
    of_class = Function(lambda y: torch.cat([y @ MEANS, spread.expand(len(y), Z)], 1))
    prior = priors.Latents(
        {"y": priors.Categorical(1, C), "z": priors.ConditionalNormal(Z, of_class)}, {"z": ["y"]}
    ).double()
    with torch.no_grad():
        prior.parts["y"].logits.copy_(LOG_P)
    likelihood = lb.likelihoods.Normal(NOISE)
    model = LatentVariableModel(prior, Function(lambda z: z @ WEIGHT.T), likelihood, ["z"]).double()
    parts = {
        "y": posteriors.Categorical(1, C, Function(lambda x: log_p_each())),
        "z": posteriors.DiagonalNormal(Z, Function(z_given, C)),
    }
    return model, posteriors.Latents(parts, parents={"z": ["y"]}).double()


@pytest.mark.parametrize("labels", [NONE, LABELS, ALL], ids=["none", "some", "all"])
def test_a_mixture_of_normals_has_its_exact_log_p(labels: Tensor) -> None:
    """log p(x) of unlabelled rows, log p(x, y) of labelled ones, by the exact q; z at points of its exact moments."""
    model, posterior = mixture()
    noise = posterior.noise(2 * Z, N, torch.Generator().manual_seed(0), torch.float64)
    points = Z**0.5 * torch.cat([torch.eye(Z), -torch.eye(Z)]).double()  # of mean 0 and covariance I
    noise[..., -Z:] = points.unsqueeze(1)
    batch = replace(batch_of(labels), x=REAL)
    found = objectives.elbo_enumerated(draw(model, posterior, batch, noise))
    joint = log_p_each()
    true = torch.where(labels >= 0, joint.gather(1, labels.clamp(min=0)[:, None])[:, 0], joint.logsumexp(1))
    assert (found - true).abs().max() < 1e-8
    drawn = draw(model, posterior, batch, torch.Generator().manual_seed(1), 3)
    assert (drawn.log_w - true).abs().max() < 1e-8


def test_evidence_of_rows_is_log_p_of_x_whatever_their_labels() -> None:
    model, posterior = mixture()
    rows = Rows(REAL, dtype=torch.float64).labelled({"y": ALL})
    found = lb.evidence.log_likelihood(model, posterior, rows, samples=3)
    assert np.abs(found.estimate - log_p_each().logsumexp(1).numpy()).max() < 1e-8


# --- what refuses what ---


def fit(model: LatentVariableModel, posterior: posteriors.Posterior, labels: dict[str, Tensor]) -> None:
    rows = Rows(ROWS, dtype=torch.float64).labelled(labels)
    lb.fit(model, rows, lb.AEVB(posterior, objectives.elbo_enumerated), epochs=1, validation=0)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"w": LABELS}, "names 'w', which is not a latent; the latents are y, z"),
        ({"z": LABELS}, "only a Categorical of one variable can be observed"),
        ({"y": LABELS + 1}, "the label of row 0 is 3, but latent 'y' has 3 classes"),
        ({"y": LABELS - 1}, "the label of row 1 is -2; give a class from 0"),
        ({"y": LABELS[:3]}, r"give whole numbers, \[6\]"),
        ({"y": LABELS.double()}, "give whole numbers"),
    ],
    ids=["no latent", "a normal", "too large", "below", "too few", "floats"],
)
def test_labels_that_no_latent_has_are_refused(labels: dict[str, Tensor], says: str) -> None:
    with pytest.raises((ValueError, DataError)) as caught:
        fit(*m2(), labels)
    assert_one_sentence(str(caught.value), (says,))


def test_a_way_to_learn_that_reads_no_labels_refuses_them() -> None:
    model, posterior = m2()
    rows = Rows(ROWS, dtype=torch.float64).labelled({"y": LABELS})
    with pytest.raises(ValueError, match="the rows have labels, which FullVB does not read; use AEVB"):
        lb.fit(model, rows, lb.inference.FullVB(lb.AEVB(posterior, draws=2)), epochs=1)


def test_rows_keep_their_labels() -> None:
    rows = Rows(ROWS, dtype=torch.float64)
    labelled = rows.labelled({"y": LABELS})
    some = labelled.subset(torch.tensor([5, 0, 1]))
    assert some.batch(torch.tensor([0, 2]), torch.ones(2)).labels["y"].tolist() == [1, -1]
    assert some.labels["y"].tolist() == [1, 2, -1]
    digests = {rows.digest(), labelled.digest(), rows.labelled({"y": NONE}).digest()}
    assert len(digests) == 3
    assert rows.labels is None


# --- the estimator ---

TEXT = np.array(["cat", "dog", "eel"])


def blobs(n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    return (rng.normal(size=(n, 3)) + 4 * np.eye(3)[y]).astype(np.float32), y


FEW = {"hidden": (16,), "epochs": 60, "validation": 0.0, "random_state": 0, "threads": 1, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def fitted() -> lb.VAE:
    x, y = blobs()
    labels = TEXT[y].astype(object)
    labels[12:] = -1
    return lb.VAE(2, classes="y", label_weight=1.0, **FEW).fit(x, labels)


def test_it_predicts_the_labels_of_all_rows_from_a_few(fitted: lb.VAE) -> None:
    x, y = blobs()
    assert fitted.classes_.tolist() == TEXT.tolist()
    assert (fitted.predict(x) == TEXT[y]).mean() > 0.95


def test_probabilities_sum_to_one_and_are_those_of_the_row_alone(fitted: lb.VAE) -> None:
    x, _ = blobs()
    found = fitted.predict_proba(x)
    assert found.shape == (120, 3)
    assert np.abs(found.sum(1) - 1).max() < 1e-6
    for rows in (slice(5, 6), slice(0, 130, 7), slice(None, None, -1)):
        assert fitted.predict_proba(x[rows]).tobytes() == found[rows].tobytes()


def test_saved_it_comes_back_with_its_classes(fitted: lb.VAE, tmp_path: Path) -> None:
    x, _ = blobs()
    fitted.save(tmp_path)
    again = lb.load(tmp_path)
    assert again.classes_.tolist() == TEXT.tolist()
    assert again.predict_proba(x).tobytes() == fitted.predict_proba(x).tobytes()
    assert again.sample(4, label="dog").tobytes() == fitted.sample(4, label="dog").tobytes()


def test_rows_of_a_class_are_like_it(fitted: lb.VAE) -> None:
    for number, name in enumerate(TEXT):
        drawn = fitted.sample(200, label=name)
        assert drawn.mean(0).argmax() == number


def test_a_row_has_a_score_and_latents(fitted: lb.VAE) -> None:
    x, _ = blobs()
    assert fitted.score_samples(x[:5]).shape == (5,)
    assert fitted.transform(x[:5]).shape == (5, 5)
    assert np.abs(fitted.transform(x[:5])[:, :3] - fitted.predict_proba(x[:5])).max() < 0.1


def test_the_objective_is_a_bound_unless_labels_have_a_weight(fitted: lb.VAE) -> None:
    x, y = blobs()
    assert not fitted.objective_is_bound
    assert lb.VAE(2, classes="y", **{**FEW, "epochs": 1}).fit(x, y).objective_is_bound


def test_clusters_without_labels() -> None:
    x, _ = blobs()
    vae = lb.recipes.gmvae(3, 2, **FEW).fit(x)
    found = vae.predict(x)
    assert vae.classes_.tolist() == [0, 1, 2]
    assert set(np.unique(found)) <= {0, 1, 2}
    with pytest.raises(ValueError, match="label is 3, which is not a class of this model; the classes are 0, 1, 2"):
        vae.sample(label=3)


def test_without_classes_y_is_ignored_and_there_is_no_predict() -> None:
    x, y = blobs(20)
    vae = lb.VAE(2, **{**FEW, "epochs": 1})
    assert vae.fit(x, y).sample(3).tobytes() == vae.fit(x).sample(3).tobytes()
    assert not hasattr(vae, "predict")
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        vae.predict(x)


@pytest.mark.parametrize("missing", [-1, None, np.nan, pd.NA], ids=str)
@pytest.mark.parametrize("label", [["a", "b"], [3, 7], [0.0, 2.0], [True, False]], ids=str)
def test_labels_of_any_type_are_kept(label: list, missing: object) -> None:
    y = np.array([label[0], missing, label[1], label[0]], dtype=object)
    classes, numbers = encode_labels(y, 4)
    assert classes.tolist() == sorted(label)
    assert numbers.tolist() == [sorted(label).index(label[0]), -1, sorted(label).index(label[1]), numbers[0]]


BAD = {
    "one class": ([1, 1, -1, -1], "y has one class only, 1; give labels of at least two classes"),
    "no label": ([-1] * 4, "y has no label; give labels of at least two classes"),
    "NaN everywhere": ([np.nan] * 4, "y has no label"),
    "too few": ([0, 1], r"y has the shape \(2,\); give one label per row of X, \(4,\)"),
    "two columns": ([[0, 1]] * 4, r"y has the shape \(4, 2\)"),
    "fractions": ([0, 0.5, 1, -1], "the label of row 1 is '0.5'; labels are whole numbers or text"),
    "infinite": ([0, 1, np.inf, -1], "the label of row 2 is 'inf'"),
    "mixed": (np.array(["a", 1, "b", -1], dtype=object), "y holds text and numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_labels_are_refused_in_one_sentence(case: str) -> None:
    labels, says = BAD[case]
    vae = lb.VAE(2, classes="y", **FEW)
    with pytest.raises(DataError) as caught:
        vae.fit(blobs(4)[0], np.array(labels) if isinstance(labels, list) else labels)
    assert_one_sentence(str(caught.value), (says,))
    assert not hasattr(vae, "classes_")


@pytest.mark.parametrize(
    ("settings", "given", "says"),
    [
        ({"classes": "y"}, {}, 'classes="y" needs labels: give fit'),
        ({"classes": "labels"}, {}, "classes is 'labels'; give \"y\""),
        ({"classes": 1}, {}, "classes must be at least 2"),
        ({"classes": 3, "label_weight": 1.0}, {}, "label_weight is the weight of labels"),
        ({"classes": 3, "inference": "local"}, {}, "classes are learnt by AEVB, and inference is local"),
        ({"classes": 3, "search": 5.0, "validation": 0.2}, {}, "search compares models without classes"),
        ({"classes": 3}, {"context": np.ones((4, 1))}, "a model with classes has no context"),
    ],
    ids=str,
)
def test_settings_that_do_not_go_with_classes_are_refused(settings: dict, given: dict, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)) as caught:
        lb.VAE(2, **{**FEW, **settings}).fit(blobs(4)[0], **given)
    assert_one_sentence(str(caught.value), (re.escape(says),))


def test_m1_and_m1_m2_are_pipelines_that_learn_from_a_few_labels() -> None:
    x, y = blobs()
    labels = np.where(np.arange(len(y)) < 12, y, -1)
    settings = {**FEW, "latent_dim": 3, "epochs": 25, "batch_size": 40, "learning_rate": 0.01}
    for model in (lb.recipes.m1(**settings), lb.recipes.m1_m2(label_weight=1.0, **settings)):
        assert (model.fit(x, labels).predict(x) == y).mean() > 0.9
    assert lb.recipes.m2().get_params()["label_weight"] == 0.1


def test_the_term_of_the_classifier_is_that_of_the_labelled_rows() -> None:
    model, posterior = m2()
    drawn, weight = of(model, posterior, LABELS), batch_of(LABELS).weight
    seen = LABELS >= 0
    log_q = log_q_y(posterior)[seen, LABELS[seen]]
    found = objectives.cross_entropy(drawn, weight, strength=2.5)
    assert found.item() == pytest.approx(-2.5 * (weight[seen] * log_q).sum().item(), abs=1e-12)
    assert objectives.cross_entropy(of(model, posterior, None), weight, strength=2.5) == 0
    inference = lb.AEVB(posterior, objectives.elbo_enumerated)
    assert inference.is_bound
    assert not replace(inference, penalties=(partial(objectives.cross_entropy, strength=0.1),)).is_bound


def test_rows_with_missing_values_have_classes_and_a_row_of_nothing_those_of_the_prior() -> None:
    x, y = blobs()
    holes = np.where(np.random.default_rng(1).random(x.shape) < 0.2, np.nan, x)
    holes[0] = np.nan
    labels = np.where(np.arange(len(y)) < 30, y, -1)
    vae = lb.VAE(2, classes="y", label_weight=1.0, **FEW).fit(holes, labels)
    assert (vae.predict(holes) == y).mean() > 0.75
    prior = vae.model_.prior.parts["y"].logits.softmax(-1)[0].detach().numpy()
    assert np.abs(vae.predict_proba(holes[:1])[0] - prior).max() < 1e-6


def test_a_fit_is_resumed_to_the_same_bytes_and_with_the_same_labels_only(tmp_path: Path) -> None:
    x, y = blobs(40)
    labels = np.where(np.arange(40) < 20, y, -1)
    settings = {**FEW, "epochs": 4, "batch_size": 10}

    def fit(folder: str, labels: np.ndarray, **more: object) -> None:
        vae = lb.VAE(2, classes="y", **settings, **more)
        vae.fit(x, labels, run_dir=tmp_path / folder, checkpoint_every=2)

    fit("whole", labels)
    with pytest.raises(Stop):
        fit("parts", labels, callbacks=[stop_at(9)])
    with pytest.raises(ValueError, match="data"):
        fit("parts", np.where(labels >= 0, (labels + 1) % 3, -1))
    fit("parts", labels)
    whole, parts = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert whole == parts


def test_clusters_can_be_learnt_from_batches_and_labels_cannot() -> None:
    x, y = blobs(40)
    vae = lb.VAE(2, classes=3, **FEW).partial_fit(x).partial_fit(x)
    assert vae.predict_proba(x).shape == (40, 3)
    with pytest.raises(ValueError, match='classes="y" needs all labels, which partial_fit does not have; use fit'):
        lb.VAE(2, classes="y", **FEW).partial_fit(x, y)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda config: config["extra"]["fitted"].update(classes=["a", "b"]),
        lambda config: config["extra"]["fitted"].update(classes=["b", "a", "c"]),
        lambda config: config["extra"]["fitted"].update(classes=["a", 1, 2.5]),
        lambda config: config["extra"]["fitted"].pop("classes"),
        lambda config: config["extra"]["parameters"].update(classes=3),
        lambda config: config["extra"]["parameters"].update(classes=None, label_weight=0.0),
    ],
    ids=["fewer", "unordered", "of two types", "none", "a number", "not asked for"],
)
def test_a_file_with_other_classes_is_refused(fitted: lb.VAE, tmp_path: Path, spoil: Callable[[dict], object]) -> None:
    fitted.save(tmp_path)

    def spoilt(config: dict) -> dict:
        spoil(config)
        return config

    forge(tmp_path, spoilt)
    with pytest.raises(FormatError) as caught:
        lb.load(tmp_path)
    assert "classes" in str(caught.value)


def test_the_report_names_the_classes_and_says_that_the_objective_is_no_bound(fitted: lb.VAE) -> None:
    assert dict(sentences.configuration(fitted, 120))["Classes y"] == "3: cat, dog, eel"
    assert "a weight of 1: its objective is not a bound" in " ".join(sentences._maximised(fitted))
