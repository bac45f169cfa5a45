"""The seven rungs. Begin with `recipe` (a rung as data), `rungs` (the table) and `run` (train and evaluate one).

`result` is what a run returns, `saved_model` what it leaves on disk; `determinism` repeats a run, `learning_curve`
says what more pictures bring, `processes` and `ray` spread runs over cores and machines, `ncnn` computes a base faster
on a CPU, and `pretrain` made the package's small base.
"""

import convspec.backend  # noqa: F401  before Keras: it names a backend's missing package, and drops its noise
