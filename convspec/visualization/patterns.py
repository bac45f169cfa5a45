"""Filter patterns by gradient ascent (listings 5.32 to 5.39)."""

from collections.abc import Sequence
from typing import Any, TextIO

import keras
import numpy as np
from keras import ops

from convspec import BadInput
from convspec.backend import compiled, value_and_gradient
from convspec.progress import bar as progress_bar
from convspec.visualization.trace import ANY_SIZE, INPUT, Trace, check_finite, input_shape, to_array

EPSILON = 1e-5  # listings 5.34 and 5.37: against division by zero


def deprocess_image(array: np.ndarray) -> np.ndarray:
    """Listing 5.37: values of any range as uint8 around 127, a tenth of the range to the standard deviation.

    The array itself is left as it is. Raises BadInput where it holds NaN or infinity.
    """
    check_finite(array := np.asarray(array, np.float64), "array")
    deviation = (array - array.mean()) / (array.std() + EPSILON)
    return (np.clip(deviation * 0.1 + 0.5, 0, 1) * 255).astype(np.uint8)


def filter_patterns(
    model: keras.Model,
    layer_name: str,
    filters: Sequence[int],
    size: int = 150,
    steps: int = 40,
    step: float = 1.0,
    *,
    seed: int = 0,
    value_range: tuple[float, float] = (0.0, 255.0),
    batch: int = 16,
    as_pictures: bool = True,
    progress: TextIO | None = None,
) -> np.ndarray:
    """The picture that each of `filters` responds to most, by gradient ascent from grey noise (listings 5.32-5.38).

    Each ascends the mean of its own filter's map, by `steps` times its gradient divided by the gradient's root mean
    square, `batch` of them in a pass; only the layers that `layer_name` needs are run, so that `size`, in pixels, need
    not be the model's own. `value_range` is that of black and white in the model's inputs; start (128 to 148 of 255)
    and `step` are scaled to it. All filters start from the same noise, of `seed`. A bar on `progress` counts steps.
    Returns uint8 (filters, size, size, channels), each made visible by `deprocess_image`, or float32 inputs of the
    model if not `as_pictures`; channels in the model's order, which is BGR for some weights, VGG16's among them.
    A filter that is dead, 0 everywhere on the noise, has no gradient, and the listing leaves it as noise: here it
    ascends what its ReLU is given until it is alive.
    Raises BadInput for a layer without maps, a filter that it does not have, a size that leaves nothing of its maps,
    and NaN in the model.
    """
    low, high = value_range
    scale = (high - low) / 255
    if min(size, batch) < 1 or min(steps, step) < 0 or not scale > 0:
        raise BadInput(
            "size and batch must be at least 1, steps and step 0, and value_range must rise, got"
            f" {size}, {batch}, {steps}, {step} and {value_range}"
        )
    height, width, channels = input_shape(model)
    grey = np.full((height or ANY_SIZE, width or ANY_SIZE, channels), low + 128 * scale, np.float32)
    trace = Trace(model, grey)
    name = trace.maps(layer_name)
    depth = trace.output(name).shape[-1]
    if not len(filters) or not all(isinstance(f, int | np.integer) and 0 <= f < depth for f in filters):
        raise BadInput(f"filters must be some of 0 to {depth - 1}, which {layer_name} has, got {filters!r}")
    try:  # shapes first: TensorFlow's convolution hands on what is too small for it
        (maps,) = trace.replay({INPUT: keras.KerasTensor((1, size, size, channels))}, name)
        left = min(maps.shape[1:3])
    except ValueError:
        left = 0
    if left < 1:
        raise BadInput(f"size must leave something of {name!r} in {model.name}, got {size}: take a larger one")

    before = trace.before_relu(name)

    def ascended(inputs: Any, own: Any) -> Any:
        def mean_activations(inputs: Any) -> Any:
            maps = ops.cast(trace.replay({INPUT: inputs}, before)[0], "float32")
            active = maps if before == name else ops.relu(maps)
            given, means = (ops.sum(ops.mean(maps, axis=(1, 2)) * own, axis=-1) for maps in (maps, active))
            return means if before == name else ops.where(means > 0, means, given)

        _, gradient = value_and_gradient(mean_activations, inputs)
        root_mean_square = ops.sqrt(ops.mean(ops.square(gradient), axis=(1, 2, 3), keepdims=True))
        return inputs + step * scale * gradient / (root_mean_square + EPSILON)

    ascend = compiled(ascended, model.variables)
    noise = np.random.default_rng(seed).random((1, size, size, channels))
    noise = (low + scale * (128 + 20 * noise)).astype(np.float32)
    found = []
    with progress_bar(len(filters) * steps, f"patterns of {layer_name}", "step", progress) as bar:
        for start in range(0, len(filters), batch):
            own = np.eye(depth, dtype=np.float32)[list(filters[start : start + batch])]
            inputs: Any = np.repeat(noise, len(own), axis=0)
            for _ in range(steps):
                inputs = ascend(inputs, own)
                bar.update(len(own))
            found.append(to_array(inputs))
    patterns = np.concatenate(found)
    check_finite(patterns, f"{layer_name}'s patterns")
    return np.stack([deprocess_image(pattern) for pattern in patterns]) if as_pictures else patterns
