"""The pictures that the package draws: the same bytes everywhere, and labels that are true."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from convspec.data import shapes

SIDE = shapes.SIZE
FORMS = shapes.TARGETS | shapes.SOURCES


def nothing(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros(u.shape, bool)


# Only +, -, *, /, floor and comparisons, each in a NumPy loop of its own, make these bytes: IEEE 754 fixes their
# results to the last bit, and NumPy's policy (NEP 19) freezes RandomState's streams. Other bytes are a fault.
@pytest.mark.parametrize(
    ("forms", "digest"),
    [
        (shapes.TARGETS, "cd4ee4b417326ececf6b22bb757cea368918c00c13211352b71bb67444367d05"),
        (shapes.SOURCES, "073324b9eee6df0d4c714984d17a11cb81e1d232c526d10130a465f76f64c87d"),
    ],
    ids=["targets", "sources"],
)
def test_a_seed_gives_the_same_bytes_on_any_machine(forms: dict[str, shapes.Form], digest: str) -> None:
    images, labels = shapes.pictures(forms, 2, seed=5)
    assert (images.dtype, images.shape) == (np.uint8, (2 * len(forms), SIDE, SIDE, 3))
    assert hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest() == digest


def test_only_the_frozen_random_sample_and_randint_are_used() -> None:
    used = re.findall(r"(?:rng|random)\.(\w+)", Path(shapes.__file__).read_text())
    assert set(used) == {"random_sample", "randint", "RandomState"}


def test_numpys_global_state_is_neither_used_nor_changed() -> None:
    np.random.seed(0)
    first, after = shapes.pictures(shapes.TARGETS, 2, seed=0)[0], np.random.random_sample()
    np.random.seed(0)
    assert np.random.random_sample() == after, "drawing pictures must not consume global random numbers"
    np.testing.assert_array_equal(shapes.pictures(shapes.TARGETS, 2, seed=0)[0], first)


def test_source_and_target_classes_share_no_name() -> None:
    assert not set(shapes.TARGETS) & set(shapes.SOURCES)
    assert (len(shapes.TARGETS), len(shapes.SOURCES)) == (2, 24)


@pytest.mark.parametrize("target", shapes.TARGETS)
@pytest.mark.parametrize("source", shapes.SOURCES)
def test_no_source_form_is_a_target_form_turned_or_mirrored(source: str, target: str) -> None:
    x, y = np.meshgrid(*[np.linspace(-1.2, 1.2, 240)] * 2)
    wanted, other = FORMS[target](x, y), FORMS[source](x, y)
    poses = [pose for turns in range(4) for pose in (np.rot90(other, turns), np.rot90(other, turns)[:, ::-1])]
    overlap = max((wanted & pose).sum() / (wanted | pose).sum() for pose in poses)
    assert overlap < 0.75, f"{source} shares {overlap:.0%} of its area with {target}: at least a quarter must differ"


def enclosed(silhouette: np.ndarray) -> int:
    """Pixels of the largest patch of ground that the object surrounds."""
    patches, count = ndimage.label(~silhouette)
    outside = {*patches[0], *patches[-1], *patches[:, 0], *patches[:, -1]}
    return max((int((patches == patch).sum()) for patch in range(1, count + 1) if patch not in outside), default=0)


def test_keys_and_rings_have_a_hole_and_fish_and_discs_have_none() -> None:
    forms = {name: FORMS[name] for name in ("fish", "key", "disc", "ring")}
    images, labels = shapes.pictures(forms, 25, seed=4)
    ground, _ = shapes.pictures(dict.fromkeys(forms, nothing), 25, seed=4)
    holes = np.array([enclosed(mask) for mask in (images != ground).any(axis=-1)])
    # The smallest key's hole has a radius of 0.2 x 0.45 of half the side: two pixels, an area of some fourteen. Smaller
    # holes come where an object happens to match its ground.
    for label, name in enumerate(forms):
        right = (holes[labels == label] >= 5) == (name in ("key", "ring"))
        assert right.sum() >= 24, f"{name}: enclosed pixels {holes[labels == label]}"
