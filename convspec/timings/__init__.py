"""Timings of benchmarks. Begin with `verdicts` (a ratio, its interval and what it says in words).

`compare` lays records side by side, `interleave` times two versions in turn, and `cost` is that of whole rungs.
"""
