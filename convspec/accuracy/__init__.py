"""Accuracy gates: statistics, the gate, flipped pictures, baselines and judgements of runs by them.

Needs NumPy, SciPy and msgspec only. Begin reading in `gate`; `judgement.judge` is the way in.
"""
