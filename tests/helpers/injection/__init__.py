"""Faults done to fits and folders on purpose: ``python -m injection PART`` (``benchmarks/faults.py`` runs them all)."""
