"""Imputers and generators by their own defaults: ``benchmarks/tables.py --defaults``.

``tables``: which tables, by a rule that was fixed before anything was run; ``masks``: which cells are missing.
``imputers``, ``generators``: each method as its package has it, no setting chosen; ``job``: runs one in a process of
its own, ``python -m table_defaults JOB FOLDER``, which is given the table with its missing cells and nothing else.
``scores``: what is measured of imputations; ``fidelity``: of drawn rows. ``environments``: the packages of the peers.
``jobs``: all jobs in order; ``running``: runs and scores them; ``standings``: ranks; ``page``: the Markdown; ``study``:
the command.
"""
