"""The page of ``benchmarks/results/topics.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from kit import record
from topic_study.jobs import COMPLETION, HALVES, PARTS, SPEED, Job, all_jobs

TITLES = {
    "online": "online VB",
    "batch": "batch VB",
    "gibbs": "collapsed Gibbs",
    "prodlda": "ProdLDA, amortised",
    "tlasgr": "deep LDA, TLASGR",
    "tlasgr-3": "deep LDA, TLASGR, 3 layers",
    "scir": "deep LDA, SCIR",
    "deep-gibbs": "deep LDA, Gibbs",
    "lda-gibbs": "LDA, collapsed Gibbs",
    "split": "multinomial split",
    "sweep": "local sweep, 1 layer",
}
Figures = dict[str, Any]


def page(result: Figures) -> str:
    """The result as Markdown; parts without a figure are left out."""
    jobs = all_jobs(PARTS, range(result["seeds"]), result["quick"])
    lines = ["# Topic models on 20 Newsgroups", ""]
    for part, of_part in {"completion": _completion, "halves": _halves, "speed": _speed}.items():
        known = [(job, result["jobs"][job.name]) for job in jobs if job.part == part and job.name in result["jobs"]]
        if known:
            lines += [*of_part(known), ""]
    if unended := [name for name, each in result["jobs"].items() if not each.get("done")]:
        lines.append(f"- Not ended: {', '.join(f'{name} ({_reached(result, name)})' for name in unended)}.")
    if result["missing"]:
        left = Counter("-".join(name.split("-")[:-1]) for name in result["missing"])
        lines.append(f"- Not started (seeds): {', '.join(f'{name} ({count})' for name, count in left.items())}.")
    lines += record.footer(result)
    return "\n".join(lines) + "\n"


def _reached(result: Figures, name: str) -> str:
    each = result["jobs"][name]
    said = f": {each['error']}" if each.get("error") not in (None, "not ended yet") else ""
    return f"after epoch {max(map(int, each['marks']), default=0)}{said}"


def _completion(known: list[tuple[Job, Figures]]) -> list[str]:
    """A row per method and mark."""
    lines = [
        "## Deep LDA on the authors' matrices",
        "",
        "Perplexity of the held-out words (mean over seeds ± standard deviation) of 11,284 training and 7,502 test "
        "documents, V = 2,000. Published on these matrices: LDA 893 (Gan et al. 2015), TLASGR with three layers about "
        "757 (Cong et al. 2017), both quoted from memory: check them before you cite them.",
        "",
        "| method | layers | epochs | minibatches | seeds | perplexity, 2,500 documents | perplexity, all | "
        "the same, 8 samples | processor seconds | NPMI |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for method, (layers, marks) in COMPLETION.items():
        of_method = [each for job, each in known if job.method == method]
        for mark in marks:
            found = [each["marks"][str(mark)] for each in of_method if str(mark) in each["marks"]]
            if not found:
                continue
            ends = [each["final"] for each in of_method if mark == marks[-1] and "final" in each]
            batches = f"{mark * 57:,}" if method in ("tlasgr", "tlasgr-3", "scir") else "all documents"
            lines.append(
                f"| {TITLES[method]} | {'-'.join(map(str, layers))} | {mark} | {batches} | {len(found)} | "
                f"{spread([each['perplexity'] for each in found])} | {spread([each['perplexity'] for each in ends])} | "
                f"{spread([each['perplexity_of_samples'] for each in ends if 'perplexity_of_samples' in each])} | "
                f"{spread([each['seconds'] for each in found if 'seconds' in each])} | "
                f"{spread([each['npmi'] for each in found], 3)} |"
            )
    lines += [
        "",
        "- θ of a test document: Gibbs sweeps on the given words, the mean of θ over 60 sweeps after 60 (on the way, "
        "2,500 documents), and 100 after 100 (all). One sample of Φ is the last; of 8 samples of the second half of "
        "the fit, the probability of a word is averaged. Minibatches of 200, 20 sweeps before and 10 while counts are "
        "collected, per layer; η = 0.05. LDA: α = 0.1, η = 0.01.",
    ]
    return lines


def _halves(known: list[tuple[Job, Figures]]) -> list[str]:
    lines = [
        "## All inferences, 50 topics, V = 3,072",
        "",
        "Perplexity of the second half of each test document given the first (mean over seeds ± standard deviation). "
        "Each method by its own defaults; θ of a document by its own inference.",
        "",
        "| method | epochs | seeds | perplexity | processor seconds | NPMI | diversity |",
        "|---|---|---|---|---|---|---|",
    ]
    for method in HALVES:
        of_method = [(job, each) for job, each in known if job.method == method]
        for mark in of_method[0][0].marks if of_method else ():
            found = [each["marks"][str(mark)] for _, each in of_method if str(mark) in each["marks"]]
            if found:
                lines.append(
                    f"| {TITLES.get(method, method)} | {mark} | {len(found)} | "
                    f"{spread([each['perplexity'] for each in found])} | "
                    f"{spread([each['seconds'] for each in found if 'seconds' in each], 1)} | "
                    f"{spread([each['npmi'] for each in found if 'npmi' in each], 3)} | "
                    f"{spread([each['diversity'] for each in found if 'diversity' in each], 2)} |"
                )
    return lines


def _speed(known: list[tuple[Job, Figures]]) -> list[str]:
    """Processor seconds, the least over seeds."""
    lines = [
        "## Speed",
        "",
        "Processor seconds of one thread over the training documents, the least of all runs: an epoch of variational "
        "Bayes, or a sweep.",
        "",
        "| | K = 50 | K = 200 |",
        "|---|---|---|",
    ]
    for method in SPEED:
        cells = []
        for topics in (50, 200):
            found = [
                each["seconds"]
                for job, each in known
                if job.method == method and job.layers == (topics,)
                if "seconds" in each
            ]
            cells.append(f"{min(found):.3f}" if found else "")
        lines.append(f"| {TITLES.get(method, method)} | {' | '.join(cells)} |")
    details = [
        f"{TITLES[job.method]}, K = {job.layers[0]}: "
        + ", ".join(
            f"{key.replace('_', ' ')} {value:.3g}" for key, value in each.items() if key.startswith(("ns_", "seconds_"))
        )
        for job, each in known
        if job.seed == 0 and any(key.startswith(("ns_", "seconds_")) for key in each)
    ]
    return [*lines, "", *(f"- {each}." for each in details)]


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Mean and, of several values, their standard deviation."""
    if not values:
        return ""
    return f"{mean(values):,.{digits}f}" + (f" ± {stdev(values):,.{digits}f}" if len(values) > 1 else "")
