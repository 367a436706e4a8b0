"""Benchmarks: run from the repository's root, as `python -m benches.engine`; the figures kept are in
RESULTS.md.
"""
