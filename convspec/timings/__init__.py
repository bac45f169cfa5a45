"""Timings of benchmarks: records side by side in `compare`, two versions in turn in `interleave`."""
