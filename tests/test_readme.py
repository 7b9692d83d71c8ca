"""The README, held to its word: its sessions are pasted into Python, its links followed, its figures looked up."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import warm
from bad_arrays import FINE, PYTHON, SAME
from bad_files import CLI
from folders import tree

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SESSIONS = re.findall(r"```python\n(.*?)```", README, re.S)


def pasted(session: str, folder: Path, start: Callable[[str, Path], CompletedProcess[str]] = warm.session) -> str:
    """What a session prints as typed."""
    done = start(session, folder)
    assert "Error" not in done.stderr, done.stderr
    return done.stdout


def cold(session: str, folder: Path) -> CompletedProcess[str]:
    """Type a session into a new interpreter's standard input."""
    return subprocess.run(
        [sys.executable, "-i", "-q", "-W", "error"],
        input=session,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONSTARTUP": ""},
    )


def log_p(printed: str) -> float:
    return float(re.search(r"log p\(x\) =? ?(-[\d.]+)", printed)[1])


def test_the_newcomers_session(tmp_path):
    said = re.search(r"prints `log p\(x\) = (-[\d.]+) ± [\d.]+ nats per row`", README)[1]
    # other processors round otherwise
    assert log_p(pasted(SESSIONS[0], tmp_path, cold)) == pytest.approx(float(said), abs=1.0)
    assert (tmp_path / "runs/mine/model.safetensors").exists()


def test_the_session_of_parts(tmp_path):
    assert log_p(pasted(SESSIONS[1], tmp_path)) > -25


def test_the_session_of_other_data(tmp_path):
    done = warm.session(SESSIONS[2] + "\nprint(filled.shape)\n", tmp_path)
    assert "Error" not in done.stderr, done.stderr
    assert "(1437, 8, 8)" in done.stdout


def test_the_session_of_tables(tmp_path):
    said = pasted(SESSIONS[3], tmp_path)
    assert "age" in said
    assert "positive" in said


def test_the_session_of_evidence(tmp_path):
    said = pasted(SESSIONS[4], tmp_path)
    assert re.match(r"log p\(x\) = −\d+\.\d+ ± \d+\.\d+ nats per row \([\d.]+ bits per dimension\)", said)
    assert "validated" in said
    assert "FAILED" in said or "passed" in said


def test_the_session_that_can_be_killed(tmp_path):
    pasted(SESSIONS[5], tmp_path)
    before = tree(tmp_path)
    assert "runs/long/checkpoints/00000200/state.json" in before
    pasted(SESSIONS[5], tmp_path)
    assert tree(tmp_path) == before
    assert len(SESSIONS) == 6


def blocks_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.S)


def printed_by(blocks, folder):
    """What the blocks of a page print, run as one script."""
    script = folder / "page.py"
    script.write_text("\n".join(blocks))
    done = warm.script(script, folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_parts_of_ones_own_are_short_and_work_together(tmp_path):
    blocks = blocks_of("docs/extending.md")
    assert len(blocks) >= 9
    for block in blocks:
        assert sum(bool(line.strip()) and "import" not in line for line in block.splitlines()) <= 20
    printed_by(blocks, tmp_path)


def test_the_seams_of_the_design_run(tmp_path):
    seams = (ROOT / "docs/design.md").read_text().partition("## Seams")[2]
    blocks = re.findall(r"```python\n(.*?)```", seams, re.S)
    assert len(blocks) == 6
    printed_by(blocks, tmp_path)


def test_the_session_of_the_page_on_tables(tmp_path):
    blocks = blocks_of("docs/tables.md")
    out = pasted("\n".join(blocks), tmp_path)
    assert "RoundedLogistic for 'grade'" in out
    assert int(re.search(r"nats per row; (\d+) rows unreliable", out)[1]) < 20


def test_the_page_on_hierarchies_runs(tmp_path):
    blocks = blocks_of("docs/hierarchies.md")
    out = printed_by(blocks, tmp_path)
    assert set(re.findall(r"valid_kl\w*", out)) == {"valid_kl", *(f"valid_kl_z{i}" for i in (1, 2, 3))}


def test_the_page_on_labels_runs(tmp_path):
    blocks = blocks_of("docs/labels.md")
    out = printed_by(blocks, tmp_path)
    assert float(re.search(r"test accuracy ([\d.]+)", out)[1]) > 0.7


def test_the_session_of_the_page_on_topics(tmp_path):
    blocks = blocks_of("docs/topics.md")
    out = printed_by(blocks, tmp_path)
    assert re.search(r"lower bound on log p per word: -[\d.]+; perplexity \d", out)
    assert out.count("layer 2") == 2
    assert out.count("layer 1") == 4


def test_the_page_on_sequences(tmp_path):
    blocks = blocks_of("docs/sequences.md")
    printed_by(blocks, tmp_path)


def test_the_study_of_the_page_on_tuning(tmp_path):
    pytest.importorskip("optuna")
    (block,) = blocks_of("docs/tuning.md")
    assert "'latent_dim':" in printed_by([block], tmp_path)


def test_a_model_written_elsewhere_is_judged_as_the_page_says(tmp_path):
    (block,) = blocks_of("docs/evidence.md")
    (by_sampling, by_annealing) = (float(line.split()[0]) for line in printed_by([block], tmp_path).splitlines())
    assert abs(by_sampling - by_annealing) < 0.1


def test_the_first_session_is_short():
    assert len([line for line in SESSIONS[0].splitlines() if line]) <= 10


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), (page.name, target)


def test_the_verbs_and_targets_exist():
    from lowerbound.cli import commands

    assert set(re.findall(r"^\| `lowerbound (\w+)", README, re.M)) == set(commands.commands)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake (\w+)", README)) - {"its"} <= {*targets}


def test_figures_are_those_of_the_studies():
    study = json.loads((ROOT / "benchmarks/results/mnist_vae.json").read_text())
    for value, error in (
        ("test_elbo", "test_elbo_standard_error"),
        ("test_log_likelihood_is_1000", "test_log_likelihood_standard_error"),
    ):
        assert f"{study[value]:.2f} ± {study[error]:.2f}".replace("-", "−") in README


def test_the_gap_of_the_elbo_is_that_of_the_study():
    ways = json.loads((ROOT / "benchmarks/results/mnist_bounds.json").read_text())["ways"]
    most = max(-way["nll"] - way["elbo"] for way in ways.values())
    assert f"the ELBO is up to {int(most)} nats below log p(x)" in README
    published = [ways[name]["nll"] for name in ("DReG 50", "IWAE 50", "IWAE 5", "VAE")]
    assert sorted(published) == published, "the order that the page calls the published one"


def test_the_table_of_speed_is_that_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from contenders.page import readme_table

    results = json.loads((ROOT / "benchmarks/results/training.json").read_text())
    assert readme_table(results) in README
    assert not results["failures"]


def test_the_table_of_imputers_is_that_of_its_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from table_defaults.page import readme_table

    assert readme_table(json.loads((ROOT / "benchmarks/results/tables_defaults.json").read_text())) in README


def test_the_counts_of_the_fault_campaign_are_those_of_its_results():
    parts = {
        part["part"]: part["kinds"]
        for part in json.loads((ROOT / "benchmarks/results/faults.json").read_text())["parts"]
    }
    counts = {name: sum(kind["injected"] for kind in kinds) for name, kinds in parts.items()}
    failures = sum(kind["failures"] for kinds in parts.values() for kind in kinds)
    assert f"{sum(counts.values()):,} faults, {failures} failures" in README
    kills, ended = (sum(kind["injected"] for kind in parts["kills"][at::2]) for at in (0, 1))
    shown = re.findall(
        r"^\| [^|]+ \| ([\d,]+) \|",
        README.partition("## Interrupted fits and damaged files")[2].partition("\n## ")[0],
        re.M,
    )
    assert f"all {ended} fits that were killed and resumed" in README
    due = [kills, counts["system_calls"], counts["interrupts"], counts["damage"], counts["poison"], counts["hostile"]]
    due += [counts["forged"], counts["memory"] + counts["room"]]
    assert [int(count.replace(",", "")) for count in shown] == due


def test_the_counts_of_bad_input_are_those_of_its_tables():
    assert f"{len(PYTHON) + len(CLI)} kinds are refused" in README
    assert f"and {len(FINE) + len(SAME)} unusual kinds are accepted" in README


def test_every_module_in_the_layout_exists():
    layout = re.search(r"## Layout.*?```\n(.*?)```", (ROOT / "docs/design.md").read_text(), re.S)[1]
    named = set(re.findall(r"^  (?:.*  )?(\w+(?:\.py|/))", layout, re.M)) | set(re.findall(r"(\w+\.py)", layout))
    real = {path.name + ("/" if path.is_dir() else "") for path in (ROOT / "src/lowerbound").iterdir()}
    assert named <= real, named - real
    assert real - named <= {"__main__.py", "py.typed", "__pycache__/"}, real - named
