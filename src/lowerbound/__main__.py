"""``python -m lowerbound``."""

from lowerbound.cli import main

main()
