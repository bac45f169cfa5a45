"""The pictures that the package draws: the same bytes everywhere, and labels that are true."""

import hashlib
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage, stats

from convspec.data import shapes

SIDE = shapes.SIZE
FORMS = shapes.TARGETS | shapes.SOURCES


def nothing(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.zeros(u.shape, bool)


@cache
def silhouettes(form: shapes.Form) -> np.ndarray:
    """Where each of 200 pictures differs from the same scene without its object: no random draw depends on the form."""
    with_object, without = (shapes.pictures({"": drawn}, 200, seed=0)[0] for drawn in (form, nothing))
    return (with_object != without).any(axis=-1)


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


def test_the_size_is_as_asked() -> None:
    images, _ = shapes.pictures(shapes.TARGETS, 1, seed=0, size=31)
    assert images.shape == (2, 31, 31, 3)


def test_different_seeds_give_different_pictures() -> None:
    first, other = (shapes.pictures(shapes.TARGETS, 3, seed)[0] for seed in (0, 1))
    assert not any(np.array_equal(one, another) for one in first for another in other)


def test_no_two_pictures_of_a_seed_are_the_same() -> None:
    images, _ = shapes.pictures(shapes.TARGETS, 20, seed=0)
    assert len({image.tobytes() for image in images}) == 40


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


@pytest.mark.parametrize("name", FORMS)
def test_each_form_fills_its_square_and_stays_within_it(name: str) -> None:
    line = np.linspace(-1.5, 1.5, 301)
    x, y = np.meshgrid(line, line)
    inside = FORMS[name](x, y)
    extent = max(np.ptp(x[inside]), np.ptp(y[inside]))
    assert extent > 1.4, "no form may be recognisable by being small"
    assert max(np.abs(x[inside]).max(), np.abs(y[inside]).max()) < 1.1, "each fills about [-1, 1] x [-1, 1]"


def test_classes_are_interleaved_so_that_any_number_of_rounds_is_balanced() -> None:
    _, labels = shapes.pictures(dict(list(FORMS.items())[:5]), 3, seed=0)
    assert labels.tolist() == [0, 1, 2, 3, 4] * 3
    assert labels.dtype == np.int64


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


# The figures of the next tests follow from what draw() promises of its uniform distributions. Counts of n pictures
# scatter: the standard deviation s of n uniform numbers is itself known to s (0.2 / n)^1/2, 3 % for n = 200. Bounds are
# four times that, 13 %, and a little for pixels, wider where other things vary too. The seeds are fixed.
def test_objects_lie_anywhere_within_three_tenths_of_the_half_side() -> None:
    centres = np.array([ndimage.center_of_mass(mask) for mask in silhouettes(FORMS["disc"])])
    reach = 0.3 * SIDE / 2
    middle = (SIDE - 1) / 2
    assert np.abs(centres - middle).max() < reach + 1, "a pixel for the outline, where the object may match the ground"
    for axis in (0, 1):
        p = stats.kstest(centres[:, axis], stats.uniform(middle - reach, 2 * reach).cdf).pvalue
        assert p > 0.001, f"places along axis {axis} are not uniform: p = {p:.2g}"


def test_objects_differ_in_scale_by_two_thirds() -> None:
    radii = np.sqrt(silhouettes(FORMS["disc"]).sum(axis=(1, 2)) / np.pi)
    # Uniform from 0.45 to 0.75: from its 5th percentile, 0.465, to its 95th, 0.735, it grows by 1.58. Aspect and shear
    # keep the area; half a pixel of outline makes 1.58 into 1.55 or so.
    assert 1.4 < np.quantile(radii, 0.95) / np.quantile(radii, 0.05) < 1.7


def test_objects_point_in_every_direction() -> None:
    angles = []
    for mask in silhouettes(lambda u, v: (np.abs(u) < 0.9) & (np.abs(v) < 0.12)):
        rows, columns = np.nonzero(mask)
        (a, b), (_, d) = np.cov(columns, rows)
        angles.append(np.rad2deg(np.arctan2(2 * b, a - d) / 2) % 180)
    counts, _ = np.histogram(angles, bins=6, range=(0, 180))
    # t uniform in (-1, 1), the tangent of half the angle, makes directions at most twice as frequent as others: each
    # sixth of them has at least 0.13 of the pictures, 26 +- 4.8 of 200. Four standard deviations below that is 7.
    assert counts.min() >= 7, f"pictures by direction, in steps of 30 degrees: {counts}"


def test_colours_of_ground_and_object_cover_the_whole_range() -> None:
    images, _ = shapes.pictures({"disc": FORMS["disc"]}, 200, seed=0)
    masks = silhouettes(FORMS["disc"])
    for part, chosen in (("ground", ~masks), ("object", masks)):
        means = np.array([image[where].mean(axis=0) for image, where in zip(images, chosen, strict=True)])
        # A channel uniform from 0 to 255 has a standard deviation of 74; light takes a fifth of it, and texture and
        # clutter up to half of the rest.
        assert means.std(axis=0).min() > 30, f"{part}: standard deviation by channel {means.std(axis=0).round()}"
        spread = np.corrcoef(means.T)[np.triu_indices(3, 1)]
        assert spread.max() < 0.5, f"{part}: the channels must vary apart, not only from dark to light ({spread})"


def test_light_differs_in_strength_and_falls_from_any_side(monkeypatch: pytest.MonkeyPatch) -> None:
    def white(rng: np.random.RandomState, *_: object) -> np.ndarray:
        return np.ones(3)

    monkeypatch.setattr(shapes, "_colour", white)
    monkeypatch.setattr(shapes, "_contrasting", white)
    images, _ = shapes.pictures({"disc": FORMS["disc"]}, 200, seed=0)
    strength = images[:, 20:28, 20:28].mean(axis=(1, 2, 3)) / 255
    # Uniform from 0.65 to 1: standard deviation 0.101, and 0.825 +- 0.007 on average. Values above 1 are cut off.
    assert strength.mean() == pytest.approx(0.825, abs=0.03)
    assert strength.std() == pytest.approx(0.101, rel=0.15)
    for name, dim, bright in (
        ("left to right", images[:, :, :24], images[:, :, 24:]),
        ("top to bottom", images[:, :24], images[:, 24:]),
    ):
        fall = (bright.mean(axis=(1, 2, 3)) - dim.mean(axis=(1, 2, 3))) / images.mean(axis=(1, 2, 3))
        # The halves' middles are one half-side apart: fall is the slope, uniform to +-0.35, standard deviation 0.202;
        # cutting off what would be whiter than white takes a part of it.
        assert 0.15 < fall.std() < 0.23, f"{name}: {fall.std():.3f}"
        assert abs(fall.mean()) < 4 * 0.202 / 200**0.5, f"{name}: light has no favourite side"
