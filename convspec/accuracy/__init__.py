"""Is a model still as accurate? Statistics, the gate, flipped pictures, baselines and their judgement.

Needs NumPy and SciPy only. Begin reading in `gate`.
"""
