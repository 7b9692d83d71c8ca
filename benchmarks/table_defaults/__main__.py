"""``python -m table_defaults JOB FOLDER``, see :mod:`table_defaults.job`."""

from table_defaults.job import main

main()
