"""The tests under every backend, each in an environment of its own that has no other: `nox`.

One of them: `nox -s "suite(jax)"`. What follows `--` goes to pytest in place of the whole suite.
"""

import nox

BACKENDS = ("tensorflow", "jax", "torch")
nox.options.reuse_existing_virtualenvs = True


@nox.session
@nox.parametrize("backend", BACKENDS, ids=BACKENDS)
def suite(session: nox.Session, backend: str) -> None:
    """Run the whole suite where this backend alone is installed."""
    session.install("-e", f".[{backend},tools]", "-c", "constraints.txt")
    session.run(
        "pytest", *(session.posargs or ["tests", "-n", "auto", "--dist", "worksteal"]), env={"KERAS_BACKEND": backend}
    )


@nox.session
def agreement(session: nox.Session) -> None:
    """Compare all backends in one environment, down to the accuracies of some rungs at mini."""
    session.install("-e", f".[{','.join(BACKENDS)},tools]", "-c", "constraints.txt")
    session.run("pytest", *(session.posargs or ["tests/unit/test_backend_agreement.py", "--slow"]))
