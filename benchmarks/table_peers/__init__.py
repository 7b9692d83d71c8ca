"""Jobs of ``benchmarks/tables.py``: each is run in a process of its own, ``python -m table_peers JOB``.

``data``: the tables and their holes. ``scores``: what is measured of completions; ``fidelity``: of synthetic rows.
``imputers``, ``synthesisers``: the peers. ``ours``: all that is asked of lowerbound. ``tasks``: a job from its name to
its figures. ``running``: processes, limits, and the cache. ``parts``: the jobs of each part, and what is made of them.
``page``: the Markdown. The peers' environment has no lowerbound: ``data``, ``synthesisers`` and ``tasks`` do without.
"""
