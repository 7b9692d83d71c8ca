"""Write ``report.html`` and ``overview.png`` for a fitted VAE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lowerbound.data.row_arrays import row_array
from lowerbound.errors import DataError
from lowerbound.evidence import Evidence, LogLikelihood
from lowerbound.evidence.verdict import judge
from lowerbound.report import figures, overview, sentences, style
from lowerbound.report.colours import Colouring
from lowerbound.report.facts import FittedVAE, Latents, Training, count_of, has_posterior
from lowerbound.report.row_figures import rows_of
from lowerbound.report.style import Panel
from lowerbound.report.templates import Section, render
from lowerbound.storage.files import atomic_write

Array = NDArray[Any]


def write_report(
    folder: Path,
    vae: FittedVAE,
    x: Array,
    labels: Array | None,
    evidence: LogLikelihood | Evidence | None,
    *,
    title: str,
    held_out: bool,
    names: Sequence[str] | None = None,
    command: str | None = None,
) -> Path:
    """Write ``report.html`` (self-contained) and ``overview.png`` to ``folder``; return the path of the page.

    ``x [N, *X]``: at least 2 rows; missing values are NaN. ``held_out``: none of them was used in the fit.
    ``labels [N]`` colour the latents. ``evidence`` of the same rows: from ``VAE.log_likelihood`` or, with every check,
    from ``VAE.evidence``; None if no posterior was learnt. ``names``: column names of a table. ``command``:
    the command line to show.
    """
    folder, title = Path(folder), sentences.legible(title)
    command = None if command is None else sentences.legible(command)
    array = row_array(x)  # of a sparse matrix, too
    x, labels = np.asarray(x if array is None else array[:]), None if labels is None else np.asarray(labels)
    found = evidence.importance if isinstance(evidence, Evidence) else evidence
    _check(x, labels, found)
    with style.drawing():
        latents = Latents.of(vae, x) if has_posterior(vae) else None
        training, colouring = sentences.training_of(vae), Colouring.of(labels)
        rows = rows_of(vae, x, names)
        sections: tuple[Section, ...] = (
            Section("Fresh samples", rows.about_samples, rows.samples()),
            _training_section(vae, training),
        )
        if latents is not None:
            sections = (
                Section("Real rows and their reconstructions", rows.about_reconstructions, rows.reconstructions()),
                sections[0],
                _latent_section(latents, colouring),
                sections[1],
                _activity_section(latents),
            )
        headline = sentences.headline(found, held_out)
        picture = overview.picture(rows, latents, training, colouring, title, headline)
    page = _page(sections, vae, evidence, len(x), held_out, title, names, command)
    with atomic_write(folder / "overview.png", follow=True) as file:
        file.write(picture)
    with atomic_write(folder / "report.html", follow=True) as file:
        file.write(page.encode())
    return folder / "report.html"


def _check(x: Array, labels: Array | None, evidence: LogLikelihood | None) -> None:
    if len(x) < 2:
        raise DataError(f"the report needs at least 2 rows, got {len(x)}.")
    if evidence is not None and len(evidence.estimate) != len(x):
        raise ValueError(
            f"evidence has {len(evidence.estimate)} rows, but x has {len(x)}; give the evidence of the same rows."
        )
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(f"labels have shape {labels.shape}, but x has {len(x)} rows; give one label per row.")


def _latent_section(latents: Latents, colouring: Colouring) -> Section:
    count, dimensions = latents.means.shape
    ways = {
        1: "Posterior means E[z|x] of the rows.",
        2: "Posterior means E[z|x] of the rows, in the plane of the two latents.",
    }
    text = ways.get(dimensions) or (
        f"Posterior means E[z|x] of the rows, projected on their first two principal components, which hold "
        f"{latents.plane()[1]:.0%} of the variance in {dimensions} dimensions."
    )
    if dimensions > 1 and count > figures.MOST_POINTS:
        text += f" {figures.MOST_POINTS:,} of {count:,} rows are drawn, evenly spaced."
    text += _about_colours(colouring, dimensions)
    figure = Figure((5.6, 4.4) if dimensions > 1 else (5.6, 3.0), layout="constrained")
    figures.draw_latents(figure.subplots(), latents, colouring)
    alt = ("Histogram" if dimensions == 1 else "Scatter plot") + " of the posterior means."
    return Section("Latent space", (text,), (Panel.of(style.png(figure), alt),))


def _about_colours(colouring: Colouring, dimensions: int) -> str:
    if colouring.groups:
        drawn = "Colours and markers" if dimensions > 1 else "Colours"
        return f" {drawn} show the labels, which the model has not seen."
    if colouring.values is not None:
        return " Colour shows the label, which the model has not seen." if dimensions > 1 else ""
    return ""


def _training_section(vae: FittedVAE, training: Training | None) -> Section:
    notes = sentences.training_notes(vae, training)
    if training is None:
        return Section("Training", notes, ())
    bound, split = Figure((4.6, 3.4), layout="constrained"), Figure((4.6, 3.4), layout="constrained")
    outside = figures.draw_bound(bound.subplots(), training), figures.draw_split(split, training)
    captions = [
        f"The {'ELBO' if training.is_elbo else 'maximised objective'} per epoch; higher is better. "
        "Training rows: average over the epoch"
        + ("." if training.valid is None else "; validation rows: at its end.")
        + sentences.last_phase(training),
        ("Its two terms: ELBO = reconstruction − KL." if training.is_elbo else "The ELBO is reconstruction − KL.")
        + (f" Dotted: the {'best epoch' if training.last else 'epoch that was kept'}." if training.kept else ""),
    ]
    first = (f" The first {count} epochs lie outside the axes." if count else "" for count in outside)
    captions = [caption + more for caption, more in zip(captions, first, strict=True)]
    what = "ELBO" if training.is_elbo else "objective"
    alts = (f"Line chart of the {what} by epoch.", "Line charts of the reconstruction term and of the KL by epoch.")
    pictures = [style.png(figure) for figure in (bound, split)]
    panels = (Panel.of(*each, half=True) for each in zip(pictures, alts, captions, strict=True))
    return Section("Training", notes, tuple(panels))


def _activity_section(latents: Latents) -> Section:
    active, total = int(latents.active.sum()), len(latents.active)
    kl = (
        ""
        if latents.kl is None
        else (f"KL(q ‖ p) of each latent, averaged over the rows; the sum is {latents.kl.sum():.3g} nats. ")
    )
    if latents.by_name:
        each = ", ".join(f"{value:.3g} of {name}" for name, value in latents.by_name.items())
        kl += f"By name it is {each}, given the latents that each depends on. "
    text = (
        f"{kl}A latent is "
        "active if its posterior mean varies over rows with a variance above 0.01 (Burda et al. 2016); an inactive one "
        "carries almost no information on x."
    )
    heading = f"{active} of {total} latent{'s' if total > 1 else ''} active"
    if latents.kl is None:
        why = "KL(q ‖ p) of each latent has no closed form under this prior and posterior, and is not shown."
        return Section(heading, (text, why), ())
    figure = Figure((5.6, 2.7), layout="constrained")
    figures.draw_kl(figure.subplots(), latents.kl, latents.active, latents.names)
    alt = f"Bars of the KL of each of {total} latents; {active} are active."
    return Section(heading, (text,), (Panel.of(style.png(figure), alt),))


def _page(
    sections: tuple[Section, ...],
    vae: FittedVAE,
    evidence: LogLikelihood | Evidence | None,
    rows: int,
    held_out: bool,
    title: str,
    names: Sequence[str] | None,
    command: str | None,
) -> str:
    if isinstance(evidence, Evidence):
        shown = sentences.Evidence.of(evidence.importance, evidence.verdict, vae)
    elif evidence is not None:
        judged = judge(evidence, vae.model_.likelihood.measure, vae.shape_, ())
        shown = sentences.Evidence.of(evidence, judged, vae)
    latents = f"{count_of(vae)} latent{'s' if count_of(vae) > 1 else ''}"
    return render(
        "vae.html.j2",
        title=title,
        held_out=held_out,
        lead=f"A variational auto-encoder with {latents} and {sentences.likelihood_words(vae.model_.likelihood)}.",
        evidence=None if evidence is None else shown,
        sections=sections,
        reading=sentences.READING,
        chosen=sentences.chosen(vae),
        configuration=sentences.configuration(vae, rows, names),
        networks="\n\n".join(map(repr, sentences.modules_of(vae))),
        command=command,
    )
