"""What all benchmarks share: processes of their own for jobs, results that are kept, pages and what they record."""
