"""Timings side by side: records in `compare`, two versions in turn in `interleave`."""
