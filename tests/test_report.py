"""The report: its numbers against independent ones, what it escapes, what its figures hold, what it says when."""

from __future__ import annotations

import base64
import copy
import io
import subprocess
import sys
import warnings
from functools import partial
from html.parser import HTMLParser

import matplotlib
import matplotlib.image
import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes

import lowerbound as lb
from lowerbound.cli.table_as_numbers import AsNumbers
from lowerbound.errors import DataError
from lowerbound.evidence import LogLikelihood
from lowerbound.evidence.verdict import judge
from lowerbound.likelihoods import Bernoulli, DiscretizedLogistic, Normal, Poisson
from lowerbound.report import figures, sentences, style, table_figures, write_report
from lowerbound.report.colours import Colouring
from lowerbound.report.facts import Latents, Training, visible_range
from lowerbound.report.pictures import Look, fit_size, grid, pairs
from lowerbound.report.row_figures import rows_of
from lowerbound.training import History

HOSTILE = "<script>alert(1)</script>"


class Page(HTMLParser):
    """The pictures, the text and the tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.images: list[dict[str, str]] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def pixels(self) -> list[np.ndarray]:
        prefix = "data:image/png;base64,"
        assert all(image["src"].startswith(prefix) for image in self.images)
        files = [base64.b64decode(image["src"].removeprefix(prefix), validate=True) for image in self.images]
        return [matplotlib.image.imread(io.BytesIO(file), format="png") for file in files]


class HalfDeaf(torch.nn.Module):
    """An encoder of two latents, the second of which ignores x."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, 4)
        self.register_buffer("heard", torch.tensor([1.0, 0.0, 1.0, 0.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.flatten(1)) * self.heard


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A page of images, with everything hostile that it can be given."""
    digits = lb.data.digits()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = HalfDeaf()
    vae = lb.VAE(2, max_value=16, random_state=0, hidden=(16,), encoder=encoder, epochs=6).fit(digits.train[:600])
    x, evidence = digits.test[:50], vae.log_likelihood(digits.test[:50], samples=20)
    labels = np.array([f"_{HOSTILE}", r"$\frac{1", "猫", "b\nc"])[digits.test_labels[:50] % 4]
    folder = tmp_path_factory.mktemp("images")
    before = dict(matplotlib.rcParams)
    path = write_report(
        folder, vae, x, labels, evidence, held_out=True, title=rf"{HOSTILE} $\frac", command=f"run '{HOSTILE}'"
    )
    assert dict(matplotlib.rcParams) == before
    return vae, x, evidence, path.read_text()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A page of a table: one latent, no labels, no validation; columns with hostile names."""
    x = load_diabetes().data
    vae = lb.VAE(1, random_state=0, hidden=(8,), epochs=3, validation=0).fit(x[:300])
    names = [HOSTILE, "_private", "a_b$c", *(f"column {i}" for i in range(7))]
    folder = tmp_path_factory.mktemp("table")
    evidence = vae.log_likelihood(x[300:], samples=20)
    path = write_report(folder, vae, x[300:], None, evidence, held_out=True, title="Diabetes", names=names)
    return vae, x[300:], evidence, path.read_text()


def likelihood_of(estimate, elbo=None, ess=None, error=None, samples=100):
    estimate = np.asarray(estimate, dtype=float)
    filled = [np.full(len(estimate), value) for value in (0.1, 50.0)]
    return LogLikelihood(
        estimate,
        filled[0] if error is None else np.asarray(error, dtype=float),
        filled[1] if ess is None else np.asarray(ess, dtype=float),
        estimate - 1 if elbo is None else np.asarray(elbo, dtype=float),
        pareto_k=np.full(len(estimate), 0.3),
        samples=np.full(len(estimate), samples),
        fitted=np.zeros(len(estimate), dtype=bool),
        work=samples * len(estimate),
    )


def test_the_headline_holds_the_numbers_of_the_evidence(images):
    _, _, evidence, html = images
    error = np.std(evidence.estimate, ddof=1) / np.sqrt(50)
    digits = 1 - int(np.floor(np.log10(error)))
    text = Page(html).text
    mean = f"{np.mean(evidence.estimate):.{digits}f}".replace("-", "−")
    assert f"Held-out log p(x) {mean} ± {error:.{digits}f} nats per row" in text
    assert f"{-np.mean(evidence.estimate) / (64 * np.log(2)):.3f} bits per dimension" in text
    monte_carlo = np.sqrt(np.sum(evidence.standard_error**2)) / 50
    assert f"the Monte Carlo error for these rows is {monte_carlo:.2g}." in text
    assert "Over 50 rows, by importance sampling with 20 draws per row from q: a lower bound in expectation" in text
    assert f"{evidence.ess.min():.1f} in the worst row, {np.median(evidence.ess):.1f} in the median row" in text
    elbo_error = np.std(evidence.elbo, ddof=1) / np.sqrt(50)
    elbo = f"{np.mean(evidence.elbo):.{1 - int(np.floor(np.log10(elbo_error)))}f}".replace("-", "−")
    assert f"ELBO {elbo} ± " in text


def test_densities_are_said_to_be_densities_and_have_no_bits(table, images):
    assert "Lebesgue: log densities" in Page(table[3]).text
    assert "bits per dimension" not in table[3]
    assert "counting: log probabilities" in Page(images[3]).text


@pytest.mark.parametrize(("few", "warned"), [(5, False), (6, True)])
def test_a_warning_where_more_than_one_row_in_twenty_has_few_draws(table, few, warned):
    ess = np.where(np.arange(100) < few, 9.9, 10)
    found = likelihood_of(np.zeros(100), ess=ess)
    warning = sentences.Evidence.of(found, judge(found, "Lebesgue", (10,), ()), table[0]).warning
    assert (warning is not None) == warned
    assert not warned or "In 6 of 100 rows the effective sample size is below 10" in warning


def test_numbers_have_two_digits_of_their_error_and_a_true_minus():
    said = [
        sentences.number(value, sentences.decimals(error))
        for value, error in ((-82.4934, 0.62), (-0.001, 0.5), (1234, 87))
    ]
    assert said == ["−82.49", "0.00", "1,234"]
    assert sentences.decimals(float("nan")) == sentences.decimals(0.0) == 2


@pytest.mark.parametrize("which", ["images", "table"])
def test_the_page_needs_no_other_file_and_runs_no_script(which, request):
    html = request.getfixturevalue(which)[3]
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "embed"} & set(page.tags)
    assert "<script" not in html.lower()
    assert html.startswith('<!doctype html>\n<html lang="en">')
    assert "{{" not in html
    assert len(html) < 2_000_000


def test_what_is_hostile_appears_as_text(images):
    text = Page(images[3]).text
    assert HOSTILE in text
    assert f"run '{HOSTILE}'" in text


@pytest.mark.parametrize(("which", "count"), [("images", 2 + 2 + 1 + 2 + 1), ("table", 2 + 2 + 1 + 2 + 1)])
def test_every_picture_is_a_png_with_a_size_and_words_for_it(which, count, request):
    page = Page(request.getfixturevalue(which)[3])
    pictures = page.pixels()
    assert len(pictures) == count
    for picture, image in zip(pictures, page.images, strict=True):
        assert picture.std() > 0.01
        assert len(image["alt"]) > 10
        assert int(image["width"]) / int(image["height"]) == pytest.approx(
            picture.shape[1] / picture.shape[0], rel=0.02
        )


def test_the_overview_is_wide_enough_and_files_do_not_depend_on_the_run(images, tmp_path):
    vae, x, evidence, _ = images
    files = []
    for name in ("a", "b"):
        with torch.random.fork_rng(), matplotlib.rc_context({"text.usetex": name == "b", "figure.dpi": 30}):
            torch.manual_seed(len(files))
            path = write_report(tmp_path / name, vae, x, None, evidence, held_out=True, title="Again")
        files.append((path.read_bytes(), (tmp_path / name / "overview.png").read_bytes()))
    assert files[0] == files[1]
    assert matplotlib.image.imread(io.BytesIO(files[0][1]), format="png").shape[1] == 1200


def test_an_inactive_latent_is_reported(images):
    vae, x, _, html = images
    assert "1 of 2 latents active" in Page(html).text
    latents = Latents.of(vae, x)
    assert latents.active.tolist() == [True, False]
    mean, scale = (part.astype(float) for part in vae.encode(x))
    closed_form = 0.5 * (scale**2 + mean**2 - 1 - np.log(scale**2))
    np.testing.assert_allclose(latents.kl, closed_form.mean(0), atol=1e-5)


def test_the_plane_is_that_of_principal_components():
    means = np.random.default_rng(0).normal(size=(200, 4)) @ np.diag([3.0, 0.1, 2.0, 0.2])
    points, share = Latents(means, np.zeros(4), np.ones(4, bool)).plane()
    values = np.linalg.eigvalsh(np.cov(means.T, ddof=0))[::-1]
    np.testing.assert_allclose(np.cov(points.T, ddof=0), np.diag(values[:2]), atol=1e-12)
    assert share == pytest.approx(values[:2].sum() / values.sum())


def test_reconstruction_minus_kl_is_the_bound_in_the_plotted_data(images):
    vae = images[0]
    training = Training.of(vae.history_)
    bound, split = Figure(), Figure()
    figures.draw_bound(bound.subplots(), training)
    figures.draw_split(split, training)
    for place, rows in enumerate(("train", "valid")):
        elbo, log_lik, kl = (ax.lines[place].get_ydata() for ax in (*bound.axes, *split.axes))
        np.testing.assert_allclose(log_lik - kl, elbo, rtol=1e-12)
        np.testing.assert_allclose(elbo, [record[f"{rows}_objective"] for record in vae.history_.records], rtol=1e-5)
    kept = bound.axes[0].lines[2]
    assert kept.get_xdata() == [vae.history_.best_epoch]
    assert f"The model is that of epoch {vae.history_.best_epoch}," in Page(images[3]).text


def test_without_validation_no_pass_is_marked(table):
    vae, _, _, html = table
    training = Training.of(vae.history_)
    assert training.valid is None
    assert training.kept is None
    text = Page(html).text
    assert "No rows were held out during training, so the model is that of the last epoch." in text
    assert "validation rows" not in text


def test_the_last_phase_is_shown_and_explained(images):
    vae = copy.copy(images[0])
    first, others = vae.history_.records[:4], vae.history_.records[4:]
    lacking = [{name: value for name, value in record.items() if not name.startswith("valid")} for record in others]
    vae.history_ = History([*first, *(record | {"last_phase": 1.0} for record in lacking)], best_epoch=6)
    training = Training.of(vae.history_)
    best = 1 + int(np.argmax([record["valid_objective"] for record in first]))
    assert (training.last, training.kept) == (2, best)
    bound = Figure()
    figures.draw_bound(bound.subplots(), training)
    train, valid, kept = bound.axes[0].lines
    assert np.isfinite(train.get_ydata()).all()
    np.testing.assert_allclose(valid.get_ydata(), [r["valid_objective"] for r in first] + [np.nan] * 2, rtol=1e-5)
    assert (list(kept.get_xdata()), kept.get_label()) == ([best], f"best: epoch {best}")
    (phase,) = bound.axes[0].patches
    assert phase.get_extents().transformed(bound.axes[0].transData.inverted()).intervalx.tolist() == [4.5, 6.5]
    notes = sentences.training_notes(vae, training)
    assert f"Epoch {best} was the best by its validation objective. From its state began a last phase of 2" in notes[0]
    assert "all rows, those held out too" in sentences.last_phase(training)
    assert sentences.last_phase(Training.of(images[0].history_)) == ""


def test_what_was_chosen_is_listed_with_the_reason(table):
    assert sentences.chosen(table[0]) == tuple(
        (name.replace("_", " "), f"{choice.value:.4g} ({choice.why})") for name, choice in table[0].chosen_.items()
    )
    for name, words in sentences.chosen(table[0]):
        assert f"{name} {words}" in Page(table[3]).text


def test_a_weighted_objective_is_not_called_a_bound(images):
    vae = copy.copy(images[0])
    assert not any("bound" in note for note in sentences.training_notes(vae, Training.of(vae.history_)))
    records = [record | {"beta": 0.25 * place} for place, record in enumerate(vae.history_.records)]
    vae.history_ = History(records, best_epoch=2)
    notes = sentences.training_notes(vae, Training.of(vae.history_))
    assert any("by β between 0 and 1.25, so its objective is not a bound on log p(x)" in note for note in notes)
    vae.free_bits, vae.objective, vae.draws = 0.5, "iwae", 5
    notes = " ".join(sentences.training_notes(vae, Training.of(vae.history_)))
    assert "0.5 nats of KL per latent free" in notes
    assert "importance-weighted objective with 5 draws" in notes


def test_passes_fitted_one_at_a_time_are_counted_and_none_kept_is_no_failure(images):
    vae = images[0]
    one_at_a_time = History([record | {"epoch": 1} for record in vae.history_.records], best_epoch=1)
    training = Training.of(one_at_a_time)
    assert training.epochs.tolist() == [1, 2, 3, 4, 5, 6]
    assert training.kept is None
    assert Training.of(History()) is None
    assert sentences.training_notes(vae, None) == ("The fit has no records of its epochs.",)


def test_a_huge_first_pass_does_not_flatten_the_rest_and_a_late_fall_shows():
    curve = -100 + 10 * (1 - np.exp(-np.arange(40) / 10))
    early, late = curve.copy(), curve.copy()
    early[0], late[-1] = -1e6, -1e6
    low, high, outside = visible_range([curve, early])
    assert -102 < low < high < -89
    assert outside == 1
    low, _, outside = visible_range([curve, late])
    assert low < -1e6
    assert outside == 0
    assert visible_range([np.array([3.0])]) == (2.5, 3.5, 0)
    low, high, _ = visible_range([np.array([np.nan, np.inf, 1, 2])])
    assert 0 < low < 1 < 2 < high < 3


@pytest.mark.parametrize(
    ("labels", "groups", "numbers"),
    [
        (None, 0, False),
        (np.arange(60) % 12, 12, False),
        (np.arange(60) % 13, 0, True),
        (np.linspace(0, 1, 60), 0, True),
        (np.array([f"name {i % 20}" for i in range(60)]), 12, False),
        (np.array([None, "a", 3] * 20, dtype=object), 3, False),
        (np.array([True, False] * 30), 2, False),
    ],
)
def test_labels_become_groups_or_numbers(labels, groups, numbers):
    colouring = Colouring.of(labels)
    assert len(colouring.groups) == groups
    assert (colouring.values is not None) == numbers
    if groups:
        assert np.sum([group.rows for group in colouring.groups], 0).tolist() == [1] * 60
        assert len({(group.colour, group.marker) for group in colouring.groups}) == groups


def test_every_kind_of_label_can_be_drawn_in_every_dimension():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=60)
    numbers[3] = np.nan
    for labels in (None, np.array([f"name {i % 20}" for i in range(60)]), numbers):
        for dimensions in (1, 2, 3):
            means = rng.normal(size=(60, dimensions))
            with style.drawing():
                figure = Figure(layout="constrained")
                latents = Latents(means, np.ones(dimensions), np.ones(dimensions, bool))
                figures.draw_latents(figure.subplots(), latents, Colouring.of(labels))
                assert style.png(figure, 30).startswith(b"\x89PNG")


def test_text_is_made_safe_to_draw():
    assert style.plain("a\n b") == "a b"
    assert style.plain("猫 $x$") == r"□ \$x\$"
    assert style.plain("_x") == " _x"
    assert style.plain("x" * 30) == "x" * 23 + "…"


@pytest.mark.parametrize(
    ("likelihood", "shape", "look"),
    [
        (Bernoulli(), (5, 7), Look((5, 7), 0, 1)),
        (DiscretizedLogistic(17), (3, 5, 7), Look((3, 5, 7), 0, 16)),
        (Bernoulli(), (64,), Look((8, 8), 0, 1)),
        (Poisson(), (2, 2), Look((2, 2), 0, 3)),
        (Bernoulli(), (49,), None),
        (Bernoulli(), (65,), None),
        (Normal(), (64,), None),
        (Normal(), (2, 2, 2, 2), None),
    ],
)
def test_which_rows_are_images(likelihood, shape, look):
    x = np.zeros((2, *shape))
    x[1] = 3
    assert Look.of(likelihood, x) == look


def test_all_images_share_one_scale_and_stand_where_they_belong():
    look = Look((2, 2), 0, 16)
    tiles = look.tiles(np.array([[[0, 8], [16, 99]], [[8, 8], [8, 8]]]))
    assert tiles[0, ..., 0].tolist() == [[0, 0.5], [1, 1]]
    canvas = grid(tiles, 2)
    assert canvas.shape == (2, 5, 3)
    assert canvas[:, 3:, 0].tolist() == [[0.5, 0.5], [0.5, 0.5]]
    below = pairs(tiles, 1 - tiles, 2)
    assert below[3:, :2, 0].tolist() == [[1, 0.5], [0, 0]]
    assert fit_size(np.zeros((10, 10, 3))).shape == (920, 920, 3)
    assert fit_size(np.ones((50, 1000, 3))).shape == (25, 500, 3)


def test_the_share_of_variance_explained():
    real = np.array([[0.0, 5, 1], [2, 5, 2], [4, 5, 3]])
    columns = table_figures.Columns(real, np.array([[0.0, 5, 3], [2, 4, 2], [2, 5, 1]]), ("a", "b", "c"))
    np.testing.assert_allclose(columns.explained, [0.5, np.nan, -3])


def test_the_share_explained_is_of_what_is_observed_and_of_classes_by_their_errors():
    real = np.array([[0.0, 2], [np.nan, 2], [2, 1], [4, np.nan], [6, 0]])
    told = np.array([[1.0, 2], [70, 0], [2, 1], [4, 1], [5, 1]])
    columns = table_figures.Columns(real, told, ("a", "b"), ((), ("x", "y", "z")))
    np.testing.assert_allclose(columns.explained, [1 - 2 / 20, 1 - 2 / 2])
    figure = Figure()
    empty = np.full(5, np.nan)
    table_figures.draw_explained(
        figure, table_figures.Columns(np.c_[real, empty], np.c_[told, empty], ("a", "b", "c"), ((),) * 3)
    )
    assert [text.get_text() for text in figure.axes[0].texts] == ["below 0", "nothing observed"]
    table_figures.draw_explained(figure := Figure(), columns)
    assert not figure.axes[0].texts, "0 is the share of a column that the latents ignore"


def test_columns_left_out_are_counted():
    x = np.random.default_rng(0).poisson(2, (80, 40))
    vae = lb.VAE(3, random_state=0, hidden=(4,), epochs=1).fit(x)
    rows = rows_of(vae, x, [f"word {i}" for i in range(40)])
    assert "in the first 30 of 40 columns" in rows.about_reconstructions[0]
    assert rows.columns.names[-1] == "word 29"


def test_counts_with_a_number_for_a_label(tmp_path):
    x = np.random.default_rng(0).poisson(2, (80, 4))
    vae = lb.VAE(3, random_state=0, hidden=(4,), epochs=1).fit(x)
    path = write_report(
        tmp_path, vae, x, x.sum(1) / 7, vae.log_likelihood(x, samples=3), held_out=False, title="Counts"
    )
    page = Page(path.read_text())
    assert "which may have been used in training" in path.read_text()
    assert "Held-out" not in path.read_text()
    assert len(page.images) == 2 + 1 + 1 + 2 + 1
    assert "Colour shows the label" in page.text


def test_what_does_not_fit_together_is_refused(table, tmp_path):
    vae, x, evidence, _ = table
    with pytest.raises(DataError, match="at least 2 rows, got 1"):
        write_report(tmp_path, vae, x[:1], None, evidence, held_out=True, title="")
    with pytest.raises(ValueError, match="evidence has 142 rows, but x has 141"):
        write_report(tmp_path, vae, x[1:], None, evidence, held_out=True, title="")
    with pytest.raises(ValueError, match="give one label per row"):
        write_report(tmp_path, vae, x, np.zeros(3), evidence, held_out=True, title="")
    with pytest.raises(ValueError, match="names has 2 names for rows of 10 values"):
        write_report(tmp_path, vae, x, None, evidence, held_out=True, title="", names=["a", "b"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_its_libraries_it_says_what_to_install(missing):
    program = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
import lowerbound
try:
    import lowerbound.report
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "the report needs matplotlib and jinja2; install them with pip install 'lowerbound[report]'\n"


def test_models_of_other_latents_are_shown(tmp_path):
    x = (np.arange(60).reshape(20, 3) % 2).astype(np.float32)
    for settings in ({"posterior": "Bernoulli", "draws": 2}, {"prior": "VampPrior"}):
        vae = lb.VAE(2, hidden=(4,), epochs=1, random_state=0, **settings).fit(x)
        evidence = vae.log_likelihood(x, samples=10)
        page = Page(write_report(tmp_path, vae, x, None, evidence, held_out=True, title="Other").read_text())
        known = "prior" not in settings
        assert ("KL(q ‖ p) of each latent, averaged over the rows" in page.text) == known
        assert ("has no closed form under this prior and posterior" in page.text) != known
        assert (vae.kl(x) is not None) == known
    vae = lb.VAE(2, hidden=(4,), epochs=1, random_state=0).fit(x)
    mean, scale = vae.encode(x)
    np.testing.assert_allclose(vae.kl(x), 0.5 * (scale**2 + mean**2 - 1) - np.log(scale), rtol=1e-5, atol=1e-6)


OBJECTIVES = {
    "elbo": ({}, None),
    "sampled": ({"objective": "elbo_sampled"}, None),
    "iwae of one draw": ({"objective": "iwae", "draws": 1}, None),
    "iwae of as many as it has": ({"objective": "iwae"}, "the importance-weighted objective with 20 draws"),
    "iwae": ({"objective": "iwae", "draws": 3}, "the importance-weighted objective with 3 draws"),
    "a function": ({"objective": lb.objectives.iwae, "draws": 3}, "the importance-weighted objective with 3 draws"),
    "settings": ({"objective": partial(lb.objectives.renyi, alpha=0.5), "draws": 2}, "objective renyi with 2 draws"),
    "beta": ({"beta": 0.3}, "β = 0.3"),
    "warm-up": ({"warm_up": 2}, "β between"),
    "free bits": ({"free_bits": 0.5}, "0.5 nats of KL per latent free"),
    "a table": ({"frame": 0.0}, None),
    "a table with missing cells": ({"frame": 0.2}, "the importance-weighted objective with 20 draws"),
    "its arguments": ({"frame": 0.2, "objective": "iwae", "draws": 4}, "the importance-weighted objective with 4"),
    "its floor": ({"frame": 0.2, "free_bits": 0.5}, "0.5 nats of KL per latent free"),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_was_maximised_is_what_is_shown(name, tmp_path, monkeypatch):
    """The curve is the objective of the records, and a sentence names it, whichever the arguments were."""
    dot = style.image_png(np.zeros((1, 1, 3)))  # pictures are drawn in other tests, and cost much
    monkeypatch.setattr(Figure, "savefig", lambda figure, file, **options: file.write(dot))
    settings, due = OBJECTIVES[name]
    settings, rng = dict(settings), np.random.default_rng(0)
    x, missing = (
        rng.normal(size=(60, 3)) @ np.ones((3, 3)) + 0.1 * rng.normal(size=(60, 3)),
        settings.pop("frame", None),
    )
    x = x if missing is None else pandas.DataFrame(np.where(rng.random(x.shape) < missing, np.nan, x))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "iwae of a single draw is the ELBO")
        vae = lb.VAE(2, hidden=(4,), epochs=3, random_state=0, **settings).fit(x)
    shown = vae if missing is None else AsNumbers.of(vae, x)
    values = x if missing is None else shown.x
    path = write_report(tmp_path, shown, values, None, vae.log_likelihood(x, samples=5), held_out=False, title="t")
    text = Page(path.read_text()).text
    training, figure = sentences.training_of(shown), Figure()
    assert training.is_elbo == (due is None)
    figures.draw_bound(ax := figure.subplots(), training)
    for line, rows in zip(ax.lines, ("train", "valid"), strict=False):
        records = [record[f"{rows}_objective"] for record in vae.history_.records]
        np.testing.assert_allclose(line.get_ydata(), records, rtol=1e-4 if due is None else 0, atol=0.3 * (due is None))
    assert (due or "The ELBO per epoch; higher is better") in text
    assert ("The maximised objective per epoch; higher is better" in text) == (due is not None)
    assert ("The first figure shows that objective" in text) == (due is not None)
