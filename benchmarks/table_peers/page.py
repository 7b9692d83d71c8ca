"""The page of ``benchmarks/results/tables.md``."""

from __future__ import annotations

from typing import Any

from kit import record
from table_peers.parts import OURS, TRUST

NAMES = {"adult": "Adult", "wine": "Wine", "credit": "Default credit"}
TITLES = {
    "breast": "Breast cancer, half of the cells missing",
    "adult": "Adult: 32,561 rows, 12 columns",
    "wine": "Wine: 6,497 rows, 13 columns",
    "credit": "Default credit: 30,000 rows, 24 columns",
    "synthetic": "Synthetic rows",
    "recognition": "Linear probes",
    "speed": "Time of a fit, Adult",
}


def page(result: dict[str, Any]) -> str:
    """All parts that there are, in order."""
    lines = ["# Tables: completing them, drawing rows like theirs, and telling rows apart", ""]
    makers = {"breast": _breast, "synthetic": _synthetic, "recognition": _recognition, "speed": _speed}
    for name, part in result["parts"].items():
        lines += [f"## {TITLES[name]}", "", *makers.get(name, _table)(part)]
        for job, why in part["not_run"].items():
            lines.append(f"- Not run: {job}: {why}.")
        if part["missing"]:
            lines.append(f"- Still to run: {len(part['missing'])} jobs, of which the first is {part['missing'][0]}.")
        if part["commits"]:
            threads = " or ".join(map(str, part["threads"]))
            lines.append(f"- lowerbound at {', '.join(part['commits'])}; every method on {threads} thread(s).")
        lines.append("")
    lines += [
        "- Every method runs in a process of its own; memory is the process's peak, its libraries included. Minutes "
        "are those of fitting and completing.",
        *record.footer(result),
    ]
    return "\n".join(lines) + "\n"


def _breast(part: dict[str, Any]) -> list[str]:
    published, further = part["published"]["methods"], part["further"]["methods"]
    lines = ["| | MSE, published mask | reported elsewhere | MSE, further masks | minutes, at most | MB |"]
    lines += ["|---|---|---|---|---|---|"]
    for method in published:
        each, more = published[method], further.get(method)
        reported = f"{TRUST[method]:.3f}" if method in TRUST else "0.300 (MIWAE)"
        minutes = max(each["most_minutes"], more["most_minutes"] if more else 0)
        memory = max(each["megabytes"], more["megabytes"] if more else 0)
        lines.append(
            f"| {method} | {_mean(each)} | {reported} | {_mean(more) if more else ''} | {minutes:.2f} | {memory:.0f} |"
        )
    lines += ["", *_over(part["further"]["over_best"], "on the further masks")]
    return [
        *lines,
        "- Of scikit-learn's breast cancer, standardised; ± is the deviation over fits (3 seeds of ours) or masks.",
    ]


def _table(part: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for percent in ("20", "50"):
        found = part[percent]
        lines += [f"{percent} % missing", ""]
        lines += ["| | average error | numeric | categorical | ordinal | masks | minutes | MB | |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for method, each in found["methods"].items():
            groups = " | ".join(f"{each[g]:.4f}" if g in each else "" for g in ("numeric", "categorical", "ordinal"))
            lines.append(
                f"| {method} | {_mean(each, 4)} | {groups} | {len(each['values'])} | {each['minutes']:.1f} | "
                f"{each['megabytes']:.0f} | {each['said']} |"
            )
        lines += ["", *_over(found["over_best"], f"with {percent} % missing")]
        if "intervals" in found:
            lines.append(_calibration(found))
        lines.append("")
    return [
        *lines,
        "- Errors of HI-VAE: root mean squares over the column's range, shares of wrong categories, |difference| / R "
        "of ordinals; the mean over columns. The masks are the published ones.",
    ]


def _calibration(found: dict[str, Any]) -> str:
    known = found["intervals"]
    worst = max(known["by_column"], key=lambda name: abs(known["by_column"][name] - 0.9))
    said = (
        "- 90 % intervals of missing numbers, between the extremes of 19 completions, hold "
        f"{100 * known['coverage']:.1f} % (with ties as covered {100 * known['inclusive']:.1f} %); furthest off is "
        f"{worst}, {100 * known['by_column'][worst]:.1f} %."
    )
    density = found["log_p_of_hidden"]
    return said if density is None else f"{said} log p(missing | observed) is {density:.3f} nats a cell."


def _synthetic(part: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for table, methods in part["tables"].items():
        targets = sorted({name for each in methods.values() for name in each.get("train_on_it", {})})
        lines += [f"{table.capitalize()}", ""]
        heads = ["columns", "pairs", "rank correlation", "told from real", *(f"AUC: {name}" for name in targets)]
        heads += ["nearer to train", "copies", "distance ratio", "minutes fitting", "MB"]
        lines += ["| | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
        for method, each in methods.items():
            if "column_distance" not in each:
                continue
            cells = [f"{each[key]:.3f}" for key in ("column_distance", "pair_distance", "rank_correlation_difference")]
            cells += [f"{each['told_from_real']:.3f}", *(f"{each['train_on_it'][name]:.3f}" for name in targets)]
            cells += [f"{100 * each['nearer_to_train']:.1f} %"]
            cells += [f"{100 * each['copies']:.2f} % (by chance {100 * each['copies_of_held_out']:.2f} %)"]
            cells += [f"{each['distance_ratio']:.2f}", f"{each.get('minutes_fitting', 0):.1f}"]
            lines.append(f"| {method} | " + " | ".join([*cells, f"{each['megabytes']:.0f}"]) + " |")
        lines.append("")
    return [
        *lines,
        "- Against rows held out from all. Columns: the mean Kolmogorov–Smirnov distance (numbers) or total variation "
        "(classes); pairs: the mean total variation of joint tables, numbers in tenths; rank correlation: the mean "
        "difference of Spearman's ρ. Told from real, AUC: of a boosted classifier of real and synthetic rows, 0.5 at "
        "best. AUC: trained on the synthetic rows, tested on real ones.",
        "- Nearer to train: the share whose nearest row is one learnt from and not one of as many held out; 50 % where "
        "nothing is memorised. Distance ratio: the median distance to rows learnt from, over that of held-out rows.",
        "- Adult as prepared for HI-VAE has no column of incomes; whether one has a degree, or is married, takes its "
        "place. TVAE and CTGAN of the package ctgan with its own settings.",
    ]


def _recognition(part: dict[str, Any]) -> list[str]:
    lines = ["| | labels | latents | principal components | columns | latents over components, paired |"]
    lines += ["|---|---|---|---|---|---|"]
    for target, each in part["targets"].items():
        for count, areas in each["areas"].items():
            values = " | ".join(f"{areas[name]:.4f}" for name in ("latents", "principal components", "columns"))
            ahead = each["ahead"][count].get("principal components")
            said = "" if ahead is None else f"{ahead['mean']:+.4f} ({ahead['low']:+.4f} to {ahead['high']:+.4f})"
            lines.append(f"| {target} | {int(count):,} | {values} | {said} |")
    return [
        *lines,
        "",
        "- Areas under the curve on held-out rows of a logistic regression; the model has not seen the column that is "
        "told. As many principal components as latents, of standardised columns and indicators.",
    ]


def _speed(part: dict[str, Any]) -> list[str]:
    lines = ["| turn | ours to within 1 % of its final bound | ours, all of the fit | TVAE, its own settings |"]
    lines += ["|---|---|---|---|"]
    for number, turn in enumerate(part["turns"], 1):
        ours, theirs = turn.get(OURS), turn.get("TVAE")
        cells = [f"{ours[key]:.0f} s" if ours else "" for key in ("seconds_to_1_percent", "fit_seconds")]
        cells.append(f"{theirs['fit_seconds']:.0f} s" if theirs else "")
        lines.append(f"| {number} | {' | '.join(cells)} |")
    ratios = ", ".join(f"{ratio:.2f}" for ratio in part["ratios"])
    return [*lines, "", *([f"- TVAE's time over ours, turn by turn: {ratios}."] if ratios else [])]


def _over(over: dict[str, Any] | None, where: str) -> list[str]:
    if over is None:
        return []
    spread = f"95 % from {over['low']:+.4f} to {over['high']:+.4f}" if over["masks"] > 1 else "one mask: no interval"
    return [
        f"- lowerbound less the best peer ({over['peer']}) {where}, paired over {over['masks']}: {over['mean']:+.4f}, "
        f"{spread}."
    ]


def _mean(each: dict[str, Any], digits: int = 3) -> str:
    spread = "" if each["deviation"] is None else f" ± {each['deviation']:.{digits}f}"
    return f"{each['mean']:.{digits}f}{spread}"
