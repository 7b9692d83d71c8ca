"""The study of topic models, see ``benchmarks/topics.py``."""
