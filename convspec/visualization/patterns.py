"""Filter patterns by gradient ascent (listings 5.32 to 5.39)."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TextIO

import keras
import numpy as np
from keras import ops

from convspec import BadInput
from convspec.backend import compiled, value_and_gradient
from convspec.data.batches import Prepare
from convspec.progress import bar
from convspec.visualization.trace import DEFAULT_SIDE, RELUS, Trace, activation_of, check_finite, input_shape, to_array

EPSILON = 1e-5  # listings 5.34 and 5.37: against division by zero


def deprocess_image(array: np.ndarray) -> np.ndarray:
    """Make any array visible (listing 5.37): uint8 of mean 127 and standard deviation 25.

    The array itself isn't changed. Raises BadInput for NaN and infinity.
    """
    check_finite(array := np.asarray(array, np.float64), "array")
    deviation = (array - array.mean()) / (array.std() + EPSILON)
    return (np.clip(deviation * 0.1 + 0.5, 0, 1) * 255).astype(np.uint8)


def inputs_are_bgr(prepare: Prepare) -> bool:
    """Return whether a model's inputs, as `prepare` makes them of RGB pictures, are BGR: VGG16's are."""
    black, red = prepare(np.array([[[[0, 0, 0], [255, 0, 0]]]], np.float32))[0, 0]
    return bool(red[0] == black[0])


def input_range(prepare: Prepare, channels: int) -> tuple[float, float]:
    """Return what `prepare` makes of black and of white, in the mean over the channels."""
    low, high = (float(prepare(np.full((1, 1, 1, channels), shade, np.float32)).mean()) for shade in (0, 255))
    return low, high


def filter_pictures(model: keras.Model, prepare: Prepare, *arguments: Any, **options: Any) -> np.ndarray:
    """Return `filter_patterns` in grey or RGB, for a model whose inputs are pictures as `prepare` makes them."""
    channels = input_shape(model)[-1]
    patterns = filter_patterns(model, *arguments, value_range=input_range(prepare, channels), **options)
    return patterns[..., ::-1] if channels == 3 and inputs_are_bgr(prepare) else patterns


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
    """Draw the picture that each filter responds to most, by gradient ascent (listings 5.32 to 5.38).

    Ascends the mean of the filter's map from grey noise by `step` times the gradient over its root mean square. A
    filter that is 0 on the noise has no gradient, and stays noise in the listing; here it ascends its ReLU's input.

    Args:
        model: Sequential or functional, with one input.
        layer_name: A layer with maps.
        filters: Indices of its channels.
        size: Pixels of a side of the patterns; it need not be the model's own.
        steps: Steps of ascent.
        step: Size of a step, on the scale of 0 to 255.
        seed: Of the noise, which is the same for all filters.
        value_range: Black and white in the model's inputs; noise (128 to 148 of 255) and `step` are scaled to it.
        batch: Patterns in one pass.
        as_pictures: Return uint8 by `deprocess_image`, else float32 inputs of the model.
        progress: Where a progress bar is drawn.

    Returns:
        (filters, size, size, channels), channels in the model's order, see `inputs_are_bgr`.

    Raises:
        BadInput: For a layer without maps, an unknown filter, a size that leaves no maps, and NaN in the model.
    """
    low, high = value_range
    scale = (high - low) / 255
    if min(size, batch) < 1 or min(steps, step) < 0 or not scale > 0:
        values = f"got {size}, {batch}, {steps}, {step} and {value_range}"
        raise BadInput(f"size and batch must be at least 1, steps and step 0, and value_range must rise, {values}")
    trace = trace_grey(model, low + 128 * scale)
    trace.find_maps(layer_name)
    depth = trace.outputs[layer_name].shape[-1]
    indices = np.asarray(filters)
    known = indices.dtype.kind in "iu" and indices.size and ((indices >= 0) & (indices < depth)).all()
    if indices.ndim != 1 or not known:
        raise BadInput(f"filters must be a list of some of 0 to {depth - 1}, as {layer_name} has, got {filters!r}")
    selections = np.eye(depth, dtype=np.float32)[indices]
    noise = np.random.default_rng(seed).random((1, size, size, input_shape(model)[-1]))
    noise = (low + scale * (128 + 20 * noise)).astype(np.float32)
    _check_maps(trace, layer_name, noise.shape)
    ascend = compiled(_ascent(trace, layer_name, step * scale), model.variables)
    patterns = []
    with bar(len(filters) * steps, f"patterns of {layer_name}", "step", progress) as shown:
        for start in range(0, len(filters), batch):
            selection = selections[start : start + batch]
            inputs: Any = np.repeat(noise, len(selection), axis=0)
            for _ in range(steps):
                inputs = ascend(inputs, selection)
                shown.update(len(selection))
            patterns.append(to_array(inputs))
    check_finite(inputs := np.concatenate(patterns), f"{layer_name}'s patterns")
    return np.stack([deprocess_image(pattern) for pattern in inputs]) if as_pictures else inputs


def trace_grey(model: keras.Model, grey: float) -> Trace:
    """Record the forward pass of a grey picture, of any size where the model takes any."""
    height, width, channels = input_shape(model)
    return Trace(model, np.full((height or DEFAULT_SIDE, width or DEFAULT_SIDE, channels), grey, np.float32))


def _check_maps(trace: Trace, name: str, shape: tuple[int, ...]) -> None:
    """Raise BadInput where inputs of a shape leave nothing of the maps; TensorFlow itself doesn't refuse them."""
    height, width = trace.inputs.shape[1:3]
    remedy = "take a larger one" if shape[1] < max(height, width) else f"its layers take {height} x {width} only"
    with suppress(ValueError, RuntimeError):  # the one of Keras, the other of layers that PyTorch runs
        if min(trace.replay(keras.KerasTensor(shape), name)[name].shape[1:3]) >= 1:
            return
    raise BadInput(f"size must leave something of {name!r} in {trace.model_name}, got {shape[1]}: {remedy}")


def _ascent(trace: Trace, name: str, step: float) -> Callable[[Any, Any], Any]:
    """Return a function of inputs and their filters, one-hot (n, channels), that takes one step of ascent."""
    activation = activation_of(trace.layers[name])

    def ascend(inputs: Any, selection: Any) -> Any:
        def mean_activations(inputs: Any) -> Any:
            maps = ops.cast(trace.replay(inputs, name, without=RELUS)[name], "float32")
            means = ops.sum(ops.mean(maps, axis=(1, 2)) * selection, axis=-1)
            if activation not in RELUS:
                return means
            active = ops.sum(ops.mean(activation(maps), axis=(1, 2)) * selection, axis=-1)
            return ops.where(active > 0, active, means)

        _, gradient = value_and_gradient(mean_activations, inputs)
        root_mean_square = ops.sqrt(ops.mean(ops.square(gradient), axis=(1, 2, 3), keepdims=True))
        return inputs + step * gradient / (root_mean_square + EPSILON)

    return ascend
