"""Topic models on 20 Newsgroups: perplexity, coherence and time, next to scikit-learn, gensim and tomotopy.

    python benchmarks/topics.py [--minutes 60] [--only completion,halves,speed] [--methods scir,…] [--seeds 3]
        [--data DIR] [--cache DIR] [--page] [--quick]

Three parts. ``completion``: deep LDA on the authors' matrices (20news_2000), perplexity of the words to predict after
so many minibatches or sweeps. ``halves``: all inferences and peers on 20newsgroups (V = 3,072) with 50 topics, at equal
epochs. ``speed``: processor seconds of an epoch over the documents of ``halves``, one thread.

Every job (a method with a seed) runs in a process of its own, with a run folder in the cache: it is killed when the
minutes are over, and continues from its last checkpoint when the study is run again. What is finished or under way is
in the page, which says how far each job got. ``--page``: start no job. ``--quick``: few documents and steps; nothing is
written. gensim and tomotopy live in an environment that is made in the cache from topic_study/constraints.txt.
Result: benchmarks/results/topics.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from kit import record
from kit.processes import LATE, Figures, Kept, peers_python, run
from topic_study.jobs import METHODS, PARTS, Job, all_jobs
from topic_study.page import page

HERE = Path(__file__).parent
NAME = "topics"  # of the result
PEERS = ("gensim", "tomotopy")


def main() -> None:
    options = parse()
    cache = options.cache / "quick" if options.quick else options.cache
    kept = Kept(cache)
    seeds = 1 if options.quick else options.seeds
    jobs = all_jobs(PARTS, range(seeds), options.quick)
    if not options.quick:
        restore(kept)
    until = time.monotonic() + 60 * options.minutes
    commit = record.commit_of(HERE)
    for job in jobs if not options.page else ():
        if job.part not in options.only or job.method not in options.methods or (kept.get(job.name) or {}).get("done"):
            continue
        if (left := until - time.monotonic()) < 10:
            print("no job is started after the minutes are over; run it again.", file=sys.stderr)
            break
        found = done(job, cache, options, left) | {"commit": commit}
        kept.put(job.name, found)
        print(f"{job.name}: {found.get('error') or 'done'}", file=sys.stderr, flush=True)
    known = {job.name: figures for job in jobs if (figures := kept.get(job.name)) is not None}
    result = record.context(0) | {"seeds": seeds, "quick": options.quick}
    result |= {"jobs": known, "missing": [job.name for job in jobs if job.name not in known]}
    record.write(NAME, result, page(result), options.quick)


def done(job: Job, cache: Path, options: argparse.Namespace, seconds: float) -> Figures:
    """Run a job for at most so many seconds. What it measured on the way is in ``marks``, also if it was killed."""
    folder = cache / "runs" / job.name
    folder.mkdir(parents=True, exist_ok=True)
    python = sys.executable
    if job.method in PEERS:
        constraints = HERE / "topic_study/constraints.txt"
        python = str(peers_python(options.cache / "peers", constraints, [["gensim", "tomotopy", "scikit-learn"]], []))
    command = [python, "-m", "topic_study", json.dumps(asdict(job)), str(folder), str(options.data)]
    outcome = run(command, 1, seconds, {"PYTHONWARNINGS": "ignore"})
    path = folder / "marks.json"
    marks = json.loads(path.read_text()) if path.exists() else {}
    if outcome.error:
        reason = "not ended yet" if LATE in outcome.error else outcome.error
        return {"done": False, "error": reason, "marks": marks, "stderr": outcome.written}
    return {"done": True, "marks": marks} | outcome.figures


def restore(kept: Kept) -> None:
    """Put the figures of the committed result into the cache, where it has none of the same job."""
    path = record.RESULTS / f"{NAME}.json"
    for name, figures in (json.loads(path.read_text())["jobs"] if path.exists() else {}).items():
        if kept.get(name) is None:
            kept.put(name, figures)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="after which the job under way is stopped")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="methods, with commas")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="start no job; write the page of what the cache has")
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/lowerbound-bench/topics"))
    options = record.parse(parser, minutes=5)
    for name, known in {"only": PARTS, "methods": METHODS}.items():
        given = [each for each in getattr(options, name).split(",") if each]
        if unknown := set(given) - set(known):
            parser.error(f"--{name} has no {sorted(unknown)}; there are {list(known)}")
        setattr(options, name, given)
    options.cache, options.data = options.cache.expanduser().resolve(), options.data.resolve()
    if not options.data.is_dir():
        parser.error(f"--data names {options.data}, which does not exist; give the folder that has 20newsgroups")
    return options


if __name__ == "__main__":
    main()
