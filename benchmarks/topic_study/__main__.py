"""``python -m topic_study JOB FOLDER DATA``: run one job, and print its figures as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from topic_study.jobs import Job


def main() -> None:
    job, folder, data = Job(**json.loads(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3])
    if job.method in ("gensim", "tomotopy"):  # their environment does not have the library
        from topic_study import peers as of_job
    elif job.method == "scikit-learn":
        from topic_study import of_sklearn as of_job  # type: ignore[no-redef]
    else:
        from topic_study import ours as of_job  # type: ignore[no-redef]
    print(json.dumps(of_job.run(job, folder, data)))


main()
