"""The fixtures `accuracy_gate`, for any model, and `convspec_session`, for the ladder."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from convspec.plugin.session import SESSION, Session, skip_or_fail_on_bad_data
from convspec.plugin.verdicts import apply_gate

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class AccuracyGate:
    """Compares the accuracy of any model with its baseline; the fixture `accuracy_gate`."""

    def __init__(self, item: pytest.Item) -> None:
        self._item: pytest.Item | None = item

    def close(self) -> None:
        """Judge nothing any more, as the test is over."""
        self._item = None

    def __call__(
        self,
        name: str,
        predicted: "ArrayLike",
        labels: "ArrayLike",
        *,
        names: Sequence[str] | None = None,
        confidence: "ArrayLike | None" = None,
    ) -> None:
        """Pass, fail or skip the test by the gate's verdict on a model's predictions for its test pictures.

        Args:
            name: The model's name, under which its baseline is kept.
            predicted: Class of each picture, shape (pictures,), or a row for each seed from 0 on: (seeds, pictures).
            labels: True classes, shape (pictures,); numbers or names, as in `predicted`.
            names: Names of the pictures (default: their positions).
            confidence: Probability of each prediction, 0 to 1, shaped as `predicted`.
        """
        from convspec.accuracy.judgement import results_from_predictions

        if self._item is None:
            pytest.fail(
                f"{name}: accuracy_gate belongs to the test that asked for it; ask for it in each", pytrace=False
            )
        config = self._item.config
        with skip_or_fail_on_bad_data(config):
            runs = results_from_predictions(name, predicted, labels, names, confidence)
            apply_gate(config.stash[SESSION], runs, self._item)


@pytest.fixture
def accuracy_gate(request: pytest.FixtureRequest) -> Iterator[AccuracyGate]:
    """Compare with a baseline: `accuracy_gate(name, predicted, labels)`, `predicted` with a row of classes a seed.

    It has function scope: it judges for the test that asked for it, until that test is over.
    """
    gate = AccuracyGate(request.node)
    yield gate
    gate.close()


@pytest.fixture(scope="session")
def convspec_session(pytestconfig: pytest.Config) -> Session:
    """Return the settings, datasets and runs of this session."""
    return pytestconfig.stash[SESSION]
