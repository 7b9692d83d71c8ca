"""The page that a run is reported on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from contenders import FLOOR, OURS, PEERS, SPEED
from contenders.figures import LOSS_TOLERANCE, Figures, ratios, spread, values
from contenders.workloads import WORKLOADS


def page(r: Mapping[str, Any]) -> str:
    lines = ["# Training speed", ""]
    if r["failures"]:
        lines += ["**FAILED:**", "", *(f"- {words}" for words in r["failures"]), ""]
    lines += _bars(r["bars"])
    for name, runs in r.get("runs", {}).items():
        lines += [*_workload(r, name, runs), *_matrix(runs)]
    if r.get("overhead"):
        lines += _overhead(r["overhead"])
    if r.get("scaling"):
        lines += _scaling(r["scaling"], r.get("scaling_run", ""))
    return "\n".join([*lines, *_protocol(r)]) + "\n"


def readme_table(r: Mapping[str, Any]) -> str:
    """Seconds per epoch and, in brackets, over the floor: medians over rounds, of paired ratios."""
    lines = ["| | A | B | C | peak MB on A |", "|---|---|---|---|---|"]
    for contender in SPEED:
        cells = [contender.name]
        for runs in r["runs"].values():
            own, floor = (values(runs.get(name, []), "epoch_s") for name in (contender.name, FLOOR.name))
            epoch, over = spread(own), spread(ratios(own, floor)) if own else None
            cells.append(f"{_short(epoch['median'])} ({_short(over['median'])})" if epoch and over else "")
        memory = spread(values(r["runs"]["A"].get(contender.name, []), "peak_mb"))
        lines.append(f"| {' | '.join(cells)} | {memory['max']:.0f} |" if memory else f"| {' | '.join(cells)} | |")
    return "\n".join(lines)


def _bars(bars: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = []
    for bar in bars:
        limit, met = f"≤ {bar['bar']:g}", "yes" if bar["met"] else "**no**"
        if "stretch" in bar:
            limit, met = f"{limit} ({bar['stretch']:g})", f"{met} ({'yes' if bar['stretch_met'] else 'no'})"
        what = bar["what"] if bar["judged_by"] == "median" else f"{bar['what']} (judged by the {bar['judged_by']})"
        rows.append(
            f"| {what} | {limit} | {_short(bar['median'])} | "
            f"{_short(bar['lower_quartile'])}–{_short(bar['upper_quartile'])} | "
            f"{_short(bar['min'])}–{_short(bar['max'])} | {met} |"
        )
    head = ["| what | bar (stretch) | median | quartiles | min–max | met |", "|---|---|---|---|---|---|"]
    return ["Ratios of seconds per epoch are taken within a round.", "", *head, *rows, ""] if rows else []


def _workload(r: Mapping[str, Any], name: str, runs: Mapping[str, Sequence[Figures]]) -> list[str]:
    head = [
        f"## {name}: {WORKLOADS[name].title}",
        "",
        "| | s per epoch | min–max | over the floor | first pass, s: round 1, median | peak MB | loss |",
        "|---|---|---|---|---|---|---|",
    ]
    return [*head, *(_row(contender, each, runs) for contender, each in runs.items()), "", *_losses(r["losses"][name])]


def _row(contender: str, found: Sequence[Figures], runs: Mapping[str, Sequence[Figures]]) -> str:
    epoch, first = spread(values(found, "epoch_s")), spread(values(found, "first_epoch_s"))
    memory, loss = spread(values(found, "peak_mb")), spread(values(found, "loss"))
    if epoch is None:
        return f"| {contender} | failed | | | | | |"
    floor = values(runs.get(FLOOR.name, []), "epoch_s")
    over = spread(ratios(values(found, "epoch_s"), floor)) if floor else None
    cells = [
        contender,
        _short(epoch["median"]),
        f"{_short(epoch['min'])}–{_short(epoch['max'])}",
        _short(over["median"]) if over else "",
        f"{_short(first['values'][0])}, {_short(first['median'])}" if first else "",
        f"{memory['max']:.0f}" if memory else "",
        f"{loss['median']:.2f}" if loss else "",
    ]
    rows = [f"| {' | '.join(cells)} |"]
    sequence = spread(values(found, "in_sequence_s"))
    if sequence:
        extremes = f"{_short(sequence['min'])}–{_short(sequence['max'])}"
        more = spread(ratios(values(found, "in_sequence_s"), floor)) or {"median": float("nan")}
        rows.append(
            f"| floor, in sequence | {_short(sequence['median'])} | {extremes} | {_short(more['median'])} | | | |"
        )
    return "\n".join(rows)


def _losses(losses: Mapping[str, Any]) -> list[str]:
    if not losses["means"]:
        return []
    return [
        f"Mean training loss of the last epoch, nats per row: {min(losses['means'].values()):.2f} to "
        f"{max(losses['means'].values()):.2f} by contender; allowed {losses['centre']:.2f} ± {losses['allowed']:.2f} "
        f"(standard error of a mean over rounds {losses['standard_error']:.2f}).",
        "",
    ]


def _matrix(runs: Mapping[str, Sequence[Figures]]) -> list[str]:
    """Median paired ratios of each of ours to each other."""
    ours = [contender.name for contender in OURS if contender.name in runs]
    others = [contender.name for contender in (OURS[0], *PEERS, FLOOR) if contender.name in runs]
    if not ours or not others:
        return []
    rows = []
    for name in ours:
        found = [
            spread(ratios(values(runs[name], "epoch_s"), values(runs[other], "epoch_s"))) if other != name else None
            for other in others
        ]
        rows.append(f"| {name} | {' | '.join(_short(each['median']) if each else '' for each in found)} |")
    head = f"| median paired ratio of ↓ to → | {' | '.join(others)} |"
    return [head, "|---" * (len(others) + 1) + "|", *rows, ""]


def _overhead(found: Mapping[str, Any]) -> list[str]:
    rows = []
    for kind in ("without", "with"):
        cost = found[f"cost_{kind}_evaluation"]
        if cost:
            extremes = f"{cost['min']:+.1%} to {cost['max']:+.1%}"
            rows.append(f"| {kind} the evaluation of the held-out rows | {cost['median']:+.1%} | {extremes} |")
    return [
        "## What stands around the steps",
        "",
        "Workload A, `fit` with a progress bar, `run_dir` with a checkpoint every 1000 steps, a cosine learning rate, "
        "a KL warm-up, two callbacks, and 10 % of the rows held out and evaluated each epoch, against steps "
        "alone (a batch, its noise, the step), taken in turn in the same process, 100 of each; "
        f"{found['epochs'] - 1} epochs timed after one.",
        "",
        "| cost over the steps alone | median | min to max |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _scaling(found: Sequence[Mapping[str, Any]], run: str) -> list[str]:
    """``run``: how this part was measured, if by another run than the rest of the page."""
    rows = []
    for each in found:
        if each["row_us"]:
            peak, own = (max(run.get(name, 0) for run in each["runs"]) for name in ("peak_mb", "anonymous_mb"))
            rows.append(
                f"| {each['rows']:,} | {each['where']} | {each['row_us']['median']:.1f} | "
                f"{each['row_us']['min']:.1f}–{each['row_us']['max']:.1f} | "
                f"{_short(each['over_the_smallest']['median'])} | {peak:.0f} | {own:.0f} |"
            )
    return [
        "## Rows, in memory and on disk",
        "",
        "One pass of workload A over uint8 rows through `Rows.from_array`, after a warm-up; memory-mapped rows come "
        "from a `.npy` that the page cache may hold. The last column leaves out pages of files, which the system can "
        f"drop.{run and f' {run}'}",
        "",
        "| rows | where | µs a row | min–max | over the fewest, in memory | peak MB | of its own at the end, MB |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _protocol(r: Mapping[str, Any]) -> list[str]:
    everyone = [run for runs in r.get("runs", {}).values() for each in runs.values() for run in each]
    lines = ["## How", ""]
    lines += [f"- **{contender.name}**: {contender.about}." for contender in SPEED if everyone]
    if everyone:
        tolerances = ", ".join(f"{share:.0%} ({name})" for name, share in LOSS_TOLERANCE.items())
        shares = ", ".join(f"{name} {rows:,}" for name, rows in r["rows"].items())
        lines += [
            f"- Rows of an epoch: {shares}; seconds are scaled to {r['epoch_rows']:,}. A contender's time in a round "
            f"is the median of its epochs after the first ({r['epochs'] - 1}), from the end of one to the next; "
            "the first, with reading the data, building and compiling, is told apart.",
            "- Rows: synthetic binary 28 × 28 images from a fixed seed, in a new order each epoch, with no incomplete "
            "batch. Initial weights: PyTorch's own initialisation, drawn once, the same for all. Adam, rate 1e-3.",
            "- Our posterior has σ = softplus(raw + c) where the peers have a log-variance, and Pyro's `Trace_ELBO` "
            "samples the KL: the same network and bound, other paths to it. So losses are compared within "
            f"{tolerances} and three standard errors of a mean over rounds. B and C end after a few hundred steps, "
            "where the loss still falls by several per cent in ten of them.",
            "- pythae's IWAE is left out of B: it reports a weighted mean of log w, not the bound, so its loss could "
            "not be compared.",
            "- Floor: each product of the step alone, its operands in the caches as far as they fit, summed, and one "
            "fused Adam over all parameters as one vector; in sequence, the same calls one after the other.",
            "- Memory: the highest resident set of the process (10⁶ bytes), the largest over rounds.",
            f"- Load before a run {_range(everyone, 'load_before', '.2f')}; cores that other processes kept busy in it "
            f"{_range(everyone, 'other_cores', '.2f')}; steal time {_range(everyone, 'steal', '.1%')}.",
        ]
    lines += [f"- Warning: {words}" for words in r["warnings"]]
    versions = r["versions"]
    for who in ("ours", "peers"):
        if versions.get(who):
            lines.append(f"- Versions, {who}: {', '.join(f'{name} {v}' for name, v in versions[who].items())}.")
    return [
        *lines,
        f"- {r['rounds']} rounds, {r['threads']} threads, {r['minutes']:.0f} minutes. Command: `{r['command']}`, "
        f"commit {r['commit']}, seed {r['seed']}.",
        f"- Machine: {r['machine']}; {', '.join(r['cpu_flags'])}; {r['memory_gb']:.0f} GB; {r['libc']}; Linux "
        f"{r['kernel']}.",
    ]


def _range(runs: Sequence[Figures], name: str, form: str) -> str:
    found = spread(values(runs, name))
    assert found is not None
    return f"{found['min']:{form}} to {found['max']:{form}}, median {found['median']:{form}}"


def _short(value: float) -> str:
    """Three digits, or the whole number."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
