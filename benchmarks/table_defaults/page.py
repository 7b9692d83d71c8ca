"""The page of ``benchmarks/results/tables_defaults.md``."""

from __future__ import annotations

from typing import Any

from kit import record

TITLES = {"impute": "Imputation", "generate": "Generation"}
NOTES = {
    "impute": (
        "Error: the mean over columns of √mean(error²) / standard deviation of the column (numbers) or the error rate "
        "(classes). CRPS: of numbers, in standard deviations, of the empirical distribution of 5 or of 20 random "
        "completions. Coverage: of 90 % intervals of numbers; of 5 draws mean ± t·deviation·√(1 + 1/5), of 20 between "
        "the extremes of the first 19.",
        "Masks: three with 20 % and three with 50 % of the cells missing completely at random (the published masks of "
        "adult, wine_quality and credit: three and one), and one with 20 % missing in half of the columns with a "
        "probability that depends on another column. Each mask has a seed, which is also the method's.",
        "Every method is told which columns are classes, and nothing else. lowerbound gives 20 draws; the peers that "
        "draw give 5, as is their default. Cells that a method leaves are filled by the mean or the commonest class.",
        "iterative ridge: chained ridge regressions of table_peers/imputers.py. miceforest: where its default matching "
        'fails, as it does on rare classes, classes are drawn by its strategy "fast".',
    ),
    "generate": (
        "Told from real: the area under the curve of boosted trees that tell drawn rows from held-out ones, 0.5 at "
        "best, by which methods are ranked. Columns: the mean Kolmogorov–Smirnov distance (numbers) or total variation "
        "(classes); pairs: the mean total variation of joint tables, numbers in tenths. Area learnt from drawn (real) "
        "rows: of boosted trees that tell the commonest class of the last column of classes, on held-out rows.",
        "Nearer to train: the share of drawn rows whose nearest row is one learnt from and not one of as many held "
        "out, 50 % where nothing is memorised; copies: the share at distance 0; distance ratio: of medians, to rows "
        "learnt from over that of held-out rows.",
        "Complete rows of the tables that have at least 500 of them, 80 % learnt from, three random splits; as many "
        "rows are drawn as were learnt from, and rounded to the decimals of the column. Real rows: drawn from those "
        "learnt from, with replacement; not ranked.",
    ),
}
SUMMARY = {  # key → (title, how it is written)
    "impute": {
        "coverage_5": ("coverage, 5 draws", "{:.1%}"),
        "coverage_20": ("coverage, 20 draws", "{:.1%}"),
    },
    "generate": {
        "told_from_real": ("told from real", "{:.3f}"),
        "column_distance": ("columns", "{:.3f}"),
        "pair_distance": ("pairs", "{:.3f}"),
        "area_drawn": ("area, drawn", "{:.3f}"),
        "area_real": ("area, real", "{:.3f}"),
        "nearer_to_train": ("nearer to train", "{:.1%}"),
        "copies": ("copies", "{:.1%}"),
        "distance_ratio": ("distance ratio", "{:.2f}"),
    },
}
FEWEST_LINES = 20  # for the README
DETAILS = {  # of every line and method
    "impute": (
        ("Error", ("error",), "{:.3f}"),
        ("CRPS, of 5 / of 20 draws", ("crps_5", "crps_20"), "{:.3f}"),
        ("Coverage of 90 % intervals, of 5 / of 20 draws", ("coverage_5", "coverage_20"), "{:.0%}"),
    ),
    "generate": (
        ("Told from real", ("told_from_real",), "{:.3f}"),
        ("Distance of pairs of columns", ("pair_distance",), "{:.3f}"),
    ),
}


def page(result: dict[str, Any]) -> str:
    """Standings first, then a line per table and share of missing cells."""
    lines = ["# Tables: imputers and generators by their own defaults", ""]
    for task, part in result["tasks"].items():
        lines += [f"## {TITLES[task]}", "", *_standings(task, part), "", *_rest(part), ""]
    for task, part in result["tasks"].items():
        lines += [f"## {TITLES[task]}, table by table", ""]
        for title, keys, form in DETAILS[task]:
            lines += [f"{title}", "", *_lines(part, keys, form), ""]
        lines += [f"- {note}" for note in NOTES[task]] + [""]
    lines += [
        "- Every method runs in a process of its own on one thread, for at most 5 minutes of the processor and in "
        "12 GB; memory is its peak. A method that did not end in time, or failed, shares the last rank of its line; it "
        "is not started on tables with at least as many rows and columns as one on which it did not end.",
        "- The tables of packages were chosen by a rule, in table_defaults/tables.py, before anything was run.",
        *record.footer(result),
    ]
    return "\n".join(lines) + "\n"


def readme_table(result: dict[str, Any]) -> str:
    """The standings of imputers, for the README; of methods that completed 20 or more tables."""
    lines = [
        "| imputer, by its defaults | mean rank | within 5 % of the best | worst ratio to the best "
        "| coverage of 90 % intervals | median seconds | lines |",
        "|---|---|---|---|---|---|---|",
    ]
    for method, each in result["tasks"]["impute"]["standings"].items():
        if each["finished"] >= FEWEST_LINES:
            coverage = f"{each['coverage_5']:.1%}" if "coverage_5" in each else ""
            figures = f"{each['mean_rank']:.2f} | {each['near']:.0%} | {each['worst']:.2f} | {coverage}"
            lines.append(f"| {method} | {figures} | {each['seconds']:.0f} | {each['lines']} |")
    return "\n".join(lines)


def _standings(task: str, part: dict[str, Any]) -> list[str]:
    middle = SUMMARY[task]
    heads = ["method", "mean rank", "within 5 % of the best", "worst ratio to the best"]
    heads += [title for title, _ in middle.values()] + ["median seconds", "MB at most", "lines ended"]
    found = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for method, each in part["standings"].items():
        ranked = "mean_rank" in each
        cells = [method, f"{each['mean_rank']:.2f}" if ranked else "", f"{each['near']:.0%}" if ranked else ""]
        cells.append(f"{each['worst']:.2f}" if ranked and each["finished"] else "")
        cells += [form.format(each[key]) if key in each else "" for key, (_, form) in middle.items()]
        cells += [f"{each['seconds']:.1f}" if "seconds" in each else ""]
        cells += [f"{each['megabytes']:.0f}" if "megabytes" in each else ""]
        cells.append(f"{each['finished']} of {each['lines']}" if ranked else "")
        found.append(f"| {' | '.join(cells)} |")
    return found


def _rest(part: dict[str, Any]) -> list[str]:
    """What is not in the standings, and which commit lowerbound had."""
    ours = (line["methods"].get("lowerbound", {}) for line in part["lines"].values())
    commits = sorted({commit for each in ours for commit in each.get("commits", [])})
    found = [f"- lowerbound at {', '.join(commits)}."] if commits else []
    reasons: dict[str, list[str]] = {}
    for job, why in part["not_run"].items():
        reasons.setdefault(why, []).append(job)
    found += [f"- Not run: {', '.join(f'`{job}`' for job in names)}: {why}." for why, names in reasons.items()]
    if missing := part["missing"]:
        counts = ", ".join(f"{method} {len(names)}" for method, names in missing.items())
        found.append(f"- Jobs still to run: {counts}. Lines average the masks that are done by all.")
    return found


def _lines(part: dict[str, Any], keys: tuple[str, ...], form: str) -> list[str]:
    """A table with a line per table and a column per method."""
    of_methods = {
        method for line in part["lines"].values() for method, each in line["methods"].items() if keys[0] in each
    }
    methods = [method for method in part["standings"] if method in of_methods]
    found = [f"| table | rows × columns | runs | {' | '.join(methods)} |", "|---" * (len(methods) + 3) + "|"]
    for name, line in part["lines"].items():
        rows, columns = part["sizes"][name.split(", ")[0]]
        cells = [name, f"{rows:,} × {columns}", str(line["runs"])]
        for method in methods:
            each = line["methods"].get(method, {})
            written = " / ".join(form.format(each[key]) for key in keys if key in each)
            cells.append("–" if "not_run" in each else written)
        found.append(f"| {' | '.join(cells)} |")
    return found
