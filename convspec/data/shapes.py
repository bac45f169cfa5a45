"""The dataset `shapes`: small coloured scenes drawn from a seed, for the ladder at `--convspec-scale mini`.

Two target classes (`fish`, `key`) and a disjoint set of source classes, on which the package's own
small base is trained. Pose, scale, colour, texture, clutter and light vary from picture to picture.

Every picture is the same bytes on any machine: randomness comes from NumPy's frozen `RandomState`
(NEP 19), and the arithmetic uses only +, -, *, / and comparisons, which IEEE 754 fixes to the last
bit. Sines, logarithms and matrix products, which differ between machines, are not used.
"""

from collections.abc import Callable

import numpy as np

SIZE = 48
OVERSAMPLING = 2  # each pixel averages 2 x 2 samples, so that edges are smooth

Form = Callable[[np.ndarray, np.ndarray], np.ndarray]  # tells which of the points (u, v) lie inside


def _disc(u: np.ndarray, v: np.ndarray, x: float, y: float, rx: float, ry: float) -> np.ndarray:
    a, b = (u - x) / rx, (v - y) / ry
    return a * a + b * b < 1


def _box(u: np.ndarray, v: np.ndarray, x0: float, x1: float, y0: float, y1: float) -> np.ndarray:
    return (u > x0) & (u < x1) & (v > y0) & (v < y1)


def _polygon(u: np.ndarray, v: np.ndarray, *corners: tuple[float, float]) -> np.ndarray:
    """Fill by the even-odd rule: a ray from a point inside crosses the outline an odd number of times."""
    inside = np.zeros(u.shape, bool)
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        if y0 != y1:
            crosses = (y0 > v) != (y1 > v)
            inside ^= crosses & (u < (x1 - x0) * (v - y0) / (y1 - y0) + x0)
    return inside


# Corners of a five-pointed star, a pentagon and a hexagon in the unit circle, as literals: no sines.
_STAR = ((0.0, -1.0), (0.235, -0.324), (0.951, -0.309), (0.38, 0.124), (0.588, 0.809),
         (0.0, 0.4), (-0.588, 0.809), (-0.38, 0.124), (-0.951, -0.309), (-0.235, -0.324))  # fmt: skip
_PENTAGON = ((0.0, -1.0), (0.951, -0.309), (0.588, 0.809), (-0.588, 0.809), (-0.951, -0.309))
_HEXAGON = ((1.0, 0.0), (0.5, 0.866), (-0.5, 0.866), (-1.0, 0.0), (-0.5, -0.866), (0.5, -0.866))

# Each form fills about [-1, 1] x [-1, 1] before its pose is applied.
TARGETS: dict[str, Form] = {
    "fish": lambda u, v: _disc(u, v, -0.25, 0, 0.72, 0.42) | _polygon(u, v, (0.3, 0), (1, -0.5), (1, 0.5)),
    "key": lambda u, v: (
        (_disc(u, v, -0.6, 0, 0.45, 0.45) & ~_disc(u, v, -0.6, 0, 0.2, 0.2))
        | _box(u, v, -0.2, 1, -0.13, 0.13)
        | _box(u, v, 0.45, 0.62, 0, 0.42)
        | _box(u, v, 0.8, 0.97, 0, 0.42)
    ),
}
SOURCES: dict[str, Form] = {
    "disc": lambda u, v: _disc(u, v, 0, 0, 0.85, 0.85),
    "ring": lambda u, v: _disc(u, v, 0, 0, 0.9, 0.9) & ~_disc(u, v, 0, 0, 0.5, 0.5),
    "ellipse": lambda u, v: _disc(u, v, 0, 0, 1, 0.5),
    "crescent": lambda u, v: _disc(u, v, 0, 0, 0.9, 0.9) & ~_disc(u, v, 0.45, 0, 0.75, 0.75),
    "half_disc": lambda u, v: _disc(u, v, 0, 0.4, 0.95, 0.95) & (v < 0.4),
    "square": lambda u, v: _box(u, v, -0.75, 0.75, -0.75, 0.75),
    "frame": lambda u, v: _box(u, v, -0.8, 0.8, -0.8, 0.8) & ~_box(u, v, -0.45, 0.45, -0.45, 0.45),
    "triangle": lambda u, v: _polygon(u, v, (0, -0.9), (0.9, 0.7), (-0.9, 0.7)),
    "pentagon": lambda u, v: _polygon(u, v, *_PENTAGON),
    "hexagon": lambda u, v: _polygon(u, v, *_HEXAGON),
    "star": lambda u, v: _polygon(u, v, *_STAR),
    "cross": lambda u, v: _box(u, v, -0.3, 0.3, -0.9, 0.9) | _box(u, v, -0.9, 0.9, -0.3, 0.3),
    "bars": lambda u, v: _box(u, v, -0.9, 0.9, -0.7, -0.2) | _box(u, v, -0.9, 0.9, 0.2, 0.7),
    "arrow": lambda u, v: _box(u, v, -1, 0.2, -0.2, 0.2) | _polygon(u, v, (0.1, -0.65), (1, 0), (0.1, 0.65)),
    "chevron": lambda u, v: _polygon(u, v, (-0.6, -0.9), (0.1, -0.9), (0.8, 0), (0.1, 0.9), (-0.6, 0.9), (0.1, 0)),
    "hourglass": lambda u, v: (
        _polygon(u, v, (-0.8, -0.8), (0.8, -0.8), (0, 0)) | _polygon(u, v, (-0.8, 0.8), (0.8, 0.8), (0, 0))
    ),
    "dumbbell": lambda u, v: (
        _disc(u, v, -0.65, 0, 0.35, 0.35) | _disc(u, v, 0.65, 0, 0.35, 0.35) | _box(u, v, -0.5, 0.5, -0.13, 0.13)
    ),
    "letter_l": lambda u, v: _box(u, v, -0.7, -0.2, -0.9, 0.9) | _box(u, v, -0.7, 0.7, 0.4, 0.9),
    "letter_t": lambda u, v: _box(u, v, -0.85, 0.85, -0.8, -0.35) | _box(u, v, -0.22, 0.22, -0.8, 0.9),
    "letter_u": lambda u, v: _box(u, v, -0.75, 0.75, -0.8, 0.8) & ~_box(u, v, -0.3, 0.3, -0.9, 0.35),
    "comb": lambda u, v: (
        _box(u, v, -0.9, 0.9, -0.6, -0.2)
        | _box(u, v, -0.9, -0.55, -0.3, 0.6)
        | _box(u, v, -0.17, 0.17, -0.3, 0.6)
        | _box(u, v, 0.55, 0.9, -0.3, 0.6)
    ),
    "drop": lambda u, v: _disc(u, v, -0.3, 0, 0.55, 0.55) | _polygon(u, v, (-0.1, -0.52), (1, 0), (-0.1, 0.52)),
    "lollipop": lambda u, v: _disc(u, v, -0.5, 0, 0.48, 0.48) | _box(u, v, -0.1, 1, -0.13, 0.13),
    "kite": lambda u, v: _polygon(u, v, (-0.9, 0), (-0.3, -0.6), (1, 0), (-0.3, 0.6)),
}


def _uniform(rng: np.random.RandomState, low: float, high: float, shape: tuple[int, ...] = ()) -> np.ndarray:
    # RandomState.uniform scales in C, where some compilers fuse multiply and add: scaled here instead.
    return low + (high - low) * np.asarray(rng.random_sample(shape))


def _colour(rng: np.random.RandomState) -> np.ndarray:
    return rng.random_sample(3)


def _texture(rng: np.random.RandomState, x: np.ndarray, y: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Vary the colour `base` by stripes, checks, a ramp or nothing; shape (height, width, 3)."""
    kind, period, strength = rng.randint(4), _uniform(rng, 0.3, 1.0), _uniform(rng, 0.1, 0.5)
    a, b = _uniform(rng, -1, 1, (2,))
    along = (a * x + b * y) / period
    mix = (
        np.floor(along * 3) % 2,
        (np.floor(x / period * 2) + np.floor(y / period * 2)) % 2,
        np.clip(along * period * 0.5 + 0.5, 0, 1),
        np.zeros(x.shape),
    )[kind]
    return base + (mix * strength)[..., None] * (_colour(rng) - base)


def _contrasting(rng: np.random.RandomState, other: np.ndarray) -> np.ndarray:
    """Draw a colour that differs from `other` by at least a third of the range in some channel."""
    while True:
        colour = _colour(rng)
        if np.abs(colour - other).max() > 0.35:
            return colour


def _posed(
    rng: np.random.RandomState, x: np.ndarray, y: np.ndarray, scale: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates (u, v) of a form at a random place, angle, scale, aspect and shear."""
    # The half-angle form gives an exact rotation without sines; a sign covers the other half-turn.
    t = _uniform(rng, -1, 1)
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    sign = 1 - 2 * rng.randint(2)
    dx, dy = _uniform(rng, -reach, reach, (2,))
    aspect, shear = _uniform(rng, 0.8, 1.25), _uniform(rng, -0.25, 0.25)
    px, py = x - dx, y - dy
    u, v = (cos * px + sin * py) * sign, (cos * py - sin * px)
    return (u + shear * v) / (scale * aspect), v / (scale / aspect)


def draw(form: Form, rng: np.random.RandomState, size: int = SIZE) -> np.ndarray:
    """Draw one picture of `form`: uint8, shape (size, size, 3)."""
    samples = size * OVERSAMPLING
    line = (np.arange(samples) + 0.5) / samples * 2 - 1
    x, y = np.meshgrid(line, line)
    ground = _colour(rng)
    scene = _texture(rng, x, y, ground)
    for _ in range(rng.randint(2, 6)):
        u, v = _posed(rng, x, y, _uniform(rng, 0.08, 0.2), 1.0)
        blot = (_disc(u, v, 0, 0, 1, 1), _box(u, v, -1, 1, -1, 1), _box(u, v, -3, 3, -0.3, 0.3))[rng.randint(3)]
        scene[blot] = _colour(rng)
    u, v = _posed(rng, x, y, _uniform(rng, 0.45, 0.75), 0.3)
    inside = form(u, v)
    scene[inside] = _texture(rng, x, y, _contrasting(rng, ground))[inside]
    # Light falls off to one side; the camera adds noise.
    a, b = _uniform(rng, -0.35, 0.35, (2,))
    scene = scene * (_uniform(rng, 0.65, 1.0) * (1 + a * x + b * y))[..., None]
    scene = scene.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3)
    picture = (scene[:, 0, :, 0] + scene[:, 0, :, 1] + scene[:, 1, :, 0] + scene[:, 1, :, 1]) / 4
    noise = _uniform(rng, -1, 1, (size, size, 3)) * 0.06
    return np.floor(np.clip(picture + noise, 0, 1) * 255 + 0.5).astype(np.uint8)


def pictures(forms: dict[str, Form], per_class: int, seed: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """Draw `per_class` pictures of each form, classes interleaved.

    Returns images, uint8 (n, size, size, 3), and labels, int64 (n,): the position of the form in `forms`.
    """
    rng = np.random.RandomState(seed)
    labels = np.tile(np.arange(len(forms), dtype=np.int64), per_class)
    listed = list(forms.values())
    return np.stack([draw(listed[label], rng, size) for label in labels]), labels
