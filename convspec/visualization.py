"""What a convnet sees: activations, filter patterns and class activation maps (section 5.4).

Images are (height, width, channels), colours RGB, and where a model looks at one, prepared as it was trained on. Models
are Sequential or functional, with one input; a model nested in another is taken layer by layer, as if it were not.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
from keras import layers, ops, tree

from convspec import BadInput
from convspec.gradients import value_and_gradient

CONVOLUTIONS = (layers.Conv2D, layers.Conv2DTranspose, layers.DepthwiseConv2D, layers.SeparableConv2D)
LOGITS = ":logits"
EPSILON = 1e-5  # listings 5.34 and 5.37: against division by zero


class _Call(NamedTuple):
    """One call of a layer, or of an operation that is no layer, on tensors."""

    layer: Any
    args: tuple
    kwargs: dict[str, Any]
    output: Any


class _Trace:
    """The way of one image through a model: what was called, in order, and what each call gave.

    `calls` has the layers' names as keys; where layers share a name, or one is called again, "name:2" and so on.
    """

    def __init__(self, model: keras.Model, image: np.ndarray) -> None:
        self.model = model.name
        self.calls: dict[str, _Call] = {}
        self.input = ops.convert_to_tensor(_checked(image, _input_shape(model))[None])
        output = self._through(model, self.input)
        self.last = next((call for call in reversed(self.calls.values()) if call.output is output), None)

    def _through(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            (output,) = args
            for inner in layer.layers:
                output = self._through(inner, output)
            return output
        if isinstance(layer, keras.Function):
            output = layer._run_through_graph(args[0], operation_fn=lambda inner: partial(self._through, inner))
            return output[0] if isinstance(output, list | tuple) and len(output) == 1 else output
        if isinstance(layer, keras.Layer) and "training" in inspect.signature(layer.call).parameters:
            kwargs["training"] = False
        # A tensor of its own, even where the layer hands on its input; and in PyTorch, no memory for a gradient.
        output = tree.map_structure(ops.stop_gradient, layer(*args, **kwargs))
        count = sum(name.partition(":")[0] == layer.name for name in self.calls)
        self.calls[f"{layer.name}:{count + 1}" if count else layer.name] = _Call(layer, args, kwargs, output)
        return output

    def replay(self, of: Any, instead: Any, until: str) -> Any:
        """What the call `until` gives with the tensor `instead` in the place of `of`: the calls that depend on it are
        made again, and no others. With a KerasTensor instead it is a KerasTensor: the shape alone is worked out."""
        shape_alone = isinstance(instead, keras.KerasTensor)
        values = {id(of): instead}
        for name, call in self.calls.items():
            if any(id(leaf) in values for leaf in tree.flatten((call.args, call.kwargs))):
                args, kwargs = tree.map_structure(lambda leaf: values.get(id(leaf), leaf), (call.args, call.kwargs))
                output = (call.layer.compute_output_spec if shape_alone else call.layer)(*args, **kwargs)
                outputs = zip(tree.flatten(call.output), tree.flatten(output), strict=True)
                values.update((id(old), new) for old, new in outputs)
            if name == until:
                break
        return values.get(id(self.calls[until].output), self.calls[until].output)

    def score(self, class_index: int | None) -> Callable[[Any], Any]:
        """Of logits (n, units), those of a class (n,): of the one predicted if None. The logits, what a softmax or
        sigmoid at the model's end would be given, are from now on what the call LOGITS gives."""
        if self.last is None:
            raise BadInput(f"model must have one output, {self.model} has several")
        before = _without_activation(self.last)
        self.calls[LOGITS] = self.last._replace(layer=before, output=before(*self.last.args, **self.last.kwargs))
        logits = _array(self.calls[LOGITS].output)[0]
        if logits.ndim != 1:
            raise BadInput(f"model must end in a score for each class, {self.model} has {logits.shape}: add a head")
        _finite(logits, f"{self.model}'s output for this image")
        if class_index is None:
            class_index = int(logits.argmax()) if len(logits) > 1 else int(logits[0] > 0)
        classes = max(len(logits), 2)
        if not isinstance(class_index, int | np.integer) or not 0 <= class_index < classes:
            raise BadInput(f"class_index must be from 0 to {classes - 1}, got {class_index!r}")
        if len(logits) > 1:
            return lambda scores: scores[:, class_index]
        return lambda scores: scores[:, 0] if class_index else -scores[:, 0]

    def maps(self, layer_name: str | None) -> tuple[str, _Call]:
        """A call whose output is a stack of maps: that of `layer_name`, or of the last convolution if None."""
        found = {n: c for n, c in self.calls.items() if ops.is_tensor(c.output) and len(c.output.shape) == 4}
        if layer_name is None:
            # Dense layers may be written as convolutions of maps of one pixel, which have nowhere to point at.
            wide = [name for name, call in found.items() if max(call.output.shape[1:3]) > 1]
            layer_name = next((n for n in reversed(wide) if isinstance(found[n].layer, CONVOLUTIONS)), None)
            if layer_name is None:
                raise BadInput(f"{self.model} has no convolution with maps: give layer_name, one of {', '.join(found)}")
        if layer_name not in found:
            raise BadInput(f"{self.model} has no layer {layer_name!r} with maps; choose from {', '.join(found)}")
        return layer_name, found[layer_name]


def _input_shape(model: keras.Model) -> tuple[int | None, int | None, int]:
    inputs: list = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise BadInput(f"model must be Sequential or functional, built, and take one image; {model.name} does not")
    return inputs[0].shape[1:]


def _checked(image: np.ndarray, shape: tuple[int | None, int | None, int]) -> np.ndarray:
    """The image as float32 (height, width, channels); a batch of one counts as an image."""
    array = np.asarray(image, np.float32)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3 or any(side not in (None, n) for side, n in zip(shape, array.shape, strict=True)):
        raise BadInput(f"image must have the model's input shape {shape}, got {np.shape(image)}: resize it")
    _finite(array, "image")
    return array


def _finite(array: np.ndarray, name: str) -> None:
    if not np.isfinite(array).all():
        raise BadInput(f"{name} must be finite, got {np.sum(~np.isfinite(array))} of {array.size} NaN or infinite")


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor), np.float32)


def _without_activation(call: _Call) -> Callable[..., Any]:
    """The layer of `call` without the softmax or sigmoid in which it ends, if it does."""
    layer = call.layer
    if type(layer).__name__ in ("Softmax", "Sigmoid"):  # a layer, or an operation out of keras.ops
        return lambda x, **_: x
    if getattr(layer, "activation", None) not in (keras.activations.softmax, keras.activations.sigmoid):
        return layer
    twin = type(layer).from_config(layer.get_config() | {"activation": "linear"})
    twin.build(call.args[0].shape)
    twin.set_weights(layer.get_weights())
    return twin


def activations(model: keras.Model, image: np.ndarray) -> dict[str, np.ndarray]:
    """What each layer gives for `image`, in one pass and in the order of the layers (listings 5.27 and 5.28).

    Returns float32 arrays without a batch axis, (height, width, channels) for maps, under the layers' names; those of a
    nested model are there, the nested model itself is not. Layers with several outputs are left out.
    Raises BadInput for an image that is not of the model's input shape.
    """
    trace = _Trace(model, image)
    return {name: _array(call.output)[0] for name, call in trace.calls.items() if ops.is_tensor(call.output)}


def dead_share(outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Of what `activations` gave: for each layer with maps the share of its channels, 0 to 1, that are 0 everywhere."""
    return {name: float(np.mean(~maps.any(axis=(0, 1)))) for name, maps in outputs.items() if maps.ndim == 3}


def channel_tiles(maps: np.ndarray, columns: int = 16) -> np.ndarray:
    """All channels of a layer side by side, `columns` a row, each to its own scale (listing 5.31).

    Takes (height, width, channels), gives uint8 (rows * height, columns * width). A channel has mean 128 and a standard
    deviation of 64, cut at 0 and 255; one that is the same everywhere is 128, a dead one, 0 everywhere, is black; white
    is where the last row has no channel left. Raises BadInput for anything that is no stack of finite maps.
    """
    maps = np.asarray(maps, np.float64)
    if maps.ndim != 3 or not maps.size:
        raise BadInput(f"maps must be (height, width, channels), got {maps.shape}")
    _finite(maps, "maps")
    flat = np.ptp(maps, axis=(0, 1)) == 0
    scaled = (maps - maps.mean(axis=(0, 1))) / np.where(flat, 1, maps.std(axis=(0, 1))) * 64 + 128
    scaled = np.where(flat, np.where(maps.any(axis=(0, 1)), 128, 0), np.clip(scaled, 0, 255))
    return tile(np.moveaxis(scaled.astype(np.uint8), -1, 0), columns, fill=255)


def tile(pictures: Sequence[np.ndarray] | np.ndarray, columns: int = 8, margin: int = 0, fill: int = 0) -> np.ndarray:
    """Pictures of one shape as one, in rows of `columns`, `margin` pixels apart, `fill` where there is none.

    With 64 of 64 x 64 and a margin of 5, listing 5.39's grid of 547 x 547; read here like text, there down the columns.
    """
    pictures = np.asarray(pictures)
    if pictures.ndim not in (3, 4) or not len(pictures) or columns < 1 or margin < 0:
        raise BadInput(f"tile takes pictures of one shape, got {pictures.shape}, columns {columns}, margin {margin}")
    height, width = (side + margin for side in pictures.shape[1:3])
    rows = -(-len(pictures) // columns)
    shape = (rows * height - margin, columns * width - margin, *pictures.shape[3:])
    grid = np.full(shape, fill, pictures.dtype)
    for place, picture in enumerate(pictures):
        top, left = place // columns * height, place % columns * width
        grid[top : top + height - margin, left : left + width - margin] = picture
    return grid


def deprocess_image(array: np.ndarray) -> np.ndarray:
    """Listing 5.37: values of any range as uint8 around 127, a tenth of the range to the standard deviation.

    The array itself is left as it is. Raises BadInput where it holds NaN or infinity.
    """
    _finite(array := np.asarray(array, np.float64), "array")
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
) -> np.ndarray:
    """The picture that each of `filters` responds to most, by gradient ascent from grey noise (listings 5.32-5.38).

    Each ascends the mean of its own filter's map, by `steps` times its gradient divided by the gradient's root mean
    square, `batch` of them in a pass; only the layers up to `layer_name` are run, so that `size`, in pixels, need not
    be the model's own. `value_range` is that of black and white in the model's inputs; start (128 to 148 of 255) and
    `step` are scaled to it. All filters start from the same noise, of `seed`.
    Returns uint8 (filters, size, size, channels), each made visible by `deprocess_image`, or float32 inputs of the
    model if not `as_pictures`. A filter that is dead on the noise, without a gradient, is left as noise.
    Raises BadInput for a layer without maps, a filter that it does not have, a size that leaves nothing of its maps,
    and NaN in the model.
    """
    low, high = value_range
    scale = (high - low) / 255
    height, width, channels = _input_shape(model)
    trace = _Trace(model, np.full((height or size, width or size, channels), low + 128 * scale))
    name, call = trace.maps(layer_name)
    depth = call.output.shape[-1]
    if not len(filters) or not all(isinstance(f, int | np.integer) and 0 <= f < depth for f in filters):
        raise BadInput(f"filters must be some of 0 to {depth - 1}, which {layer_name} has, got {filters!r}")
    if min(size, batch) < 1 or min(steps, step, scale) < 0:
        raise BadInput(f"size and batch must be at least 1, steps and step 0, got {size}, {batch}, {steps} and {step}")
    try:  # shapes first: TensorFlow's convolution hands on what is too small for it
        left = trace.replay(trace.input, keras.KerasTensor((1, size, size, channels)), name).shape[1:3]
    except ValueError:
        left = (0, 0)
    if min(left) < 1:
        raise BadInput(f"size must leave something of {name!r} in {model.name}, got {size}: take a larger one")
    noise = np.random.default_rng(seed).random((1, size, size, channels))
    noise = (low + scale * (128 + 20 * noise)).astype(np.float32)
    found = []
    for start in range(0, len(filters), batch):
        chosen = list(filters[start : start + batch])
        x = np.repeat(noise, len(chosen), axis=0)
        own = np.eye(depth, dtype=np.float32)[chosen]

        def mean_activations(inputs: Any, own: np.ndarray = own) -> Any:
            means = ops.mean(ops.cast(trace.replay(trace.input, inputs, name), "float32"), axis=(1, 2))
            return ops.sum(ops.multiply(means, own), axis=-1)

        for _ in range(steps):
            _, gradient = value_and_gradient(mean_activations, x)
            root_mean_square = np.sqrt(np.mean(np.square(gradient), axis=(1, 2, 3), keepdims=True))
            x = x + step * scale * gradient / (root_mean_square + EPSILON)
        found.append(x)
    patterns = np.concatenate(found)
    _finite(patterns, f"{layer_name}'s patterns")
    return np.stack([deprocess_image(pattern) for pattern in patterns]) if as_pictures else patterns


def class_activation_map(
    model: keras.Model, image: np.ndarray, class_index: int | None = None, layer_name: str | None = None
) -> np.ndarray:
    """Where `image` looks like the class to `model`: Grad-CAM (Selvaraju et al. 2017, listings 5.42 and 5.43).

    The maps of `layer_name` (the last convolution with more than one pixel if None), each weighted by the mean of the
    gradient of the class's score with respect to it; the score is the one before a final softmax or sigmoid. Only what
    comes after the layer gets a gradient. `class_index` is the class that the model predicts if None; of one sigmoid
    unit, class 1 has its score and class 0 the negated score.
    Returns float32 (height, width) of the layer's maps, 0 to 1: all 0 where nothing speaks for the class, as where the
    output does not depend on the layer, else with a maximum of 1.
    Raises BadInput for an image of another shape, a layer or class that the model does not have, and NaN in the model.
    """
    trace = _Trace(model, image)
    name, call = trace.maps(layer_name)
    score = trace.score(class_index)

    def scored(maps: Any) -> Any:
        return score(trace.replay(call.output, ops.cast(maps, call.output.dtype), LOGITS))

    maps = _array(call.output)
    _, gradient = value_and_gradient(scored, maps)
    heatmap = (maps * gradient.mean(axis=(1, 2), keepdims=True)).mean(axis=-1)[0]
    _finite(heatmap, f"{model.name}'s map of {name!r} for this image")
    return _normalised(heatmap)


def occlusion_map(
    model: keras.Model, image: np.ndarray, class_index: int | None = None, patch: int | None = None, batch: int = 32
) -> np.ndarray:
    """The slow check of `class_activation_map`, without a gradient: how far the class's score falls where a square is
    covered (Zeiler and Fergus 2014).

    The square, `patch` pixels wide (a fifth of the shorter side if None), has the image's mean colour and moves by half
    its width; each pixel has the mean fall of the squares that cover it.
    Returns float32 (height, width) of the image, 0 to 1: all 0 where covering never lowers the score.
    """
    trace = _Trace(model, image)
    score = trace.score(class_index)
    picture = _array(trace.input)[0]
    patch = max(min(picture.shape[:2]) // 5, 1) if patch is None else patch
    if not 1 <= patch <= min(picture.shape[:2]):
        raise BadInput(f"patch must be from 1 to {min(picture.shape[:2])}, the image's shorter side, got {patch}")
    places = list(product(*(_starts(side, patch) for side in picture.shape[:2])))
    covered = np.zeros((2, *picture.shape[:2]))
    for start in range(0, len(places), batch):
        here = places[start : start + batch]
        several = np.stack([picture] * (len(here) + 1))  # the last stays whole: what else differs is rounding
        for one, (top, left) in zip(several, here, strict=False):
            one[top : top + patch, left : left + patch] = picture.mean(axis=(0, 1))
        *scores, whole = _array(score(trace.replay(trace.input, ops.convert_to_tensor(several), LOGITS)))
        for fall, (top, left) in zip(whole - scores, here, strict=True):
            covered[:, top : top + patch, left : left + patch] += np.reshape([fall, 1], (2, 1, 1))
    falls, times = covered
    _finite(falls, f"{model.name}'s scores for this image")
    return _normalised(falls / times)


def _starts(side: int, patch: int) -> list[int]:
    return sorted({*range(0, side - patch + 1, max(patch // 2, 1)), side - patch})


def _normalised(heatmap: np.ndarray) -> np.ndarray:
    positive = np.maximum(heatmap, 0).astype(np.float32)
    return positive / (positive.max() or 1)


def superimpose(image: np.ndarray, heatmap: np.ndarray, intensity: float = 0.4) -> np.ndarray:
    """The picture with the heatmap over it, from blue for 0 to red for 1 (JET), as listing 5.44 writes it to a file.

    `image` is RGB, 0 to 255, (height, width, 3), or (height, width, 1) for grey; the heatmap, (rows, columns) from 0 to
    1, is resized to it and its colours, times `intensity`, are added. Returns RGB, uint8 (height, width, 3): RGB as the
    image, though OpenCV's own colours are BGR.
    Raises BadInput for shapes or values other than these.
    """
    image, heatmap = np.asarray(image, np.float64), np.asarray(heatmap, np.float32)
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
        raise BadInput(f"image must be (height, width, 3) or (height, width, 1), got {image.shape}")
    if heatmap.ndim != 2 or not heatmap.size or not (heatmap.min() >= 0 and heatmap.max() <= 1):
        raise BadInput(f"heatmap must be (rows, columns) with values from 0 to 1, got {heatmap.shape}: normalise it")
    _finite(image, "image")
    resized = cv2.resize(heatmap, (image.shape[1], image.shape[0]))
    coloured = cv2.applyColorMap((255 * resized).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return np.clip(np.rint(coloured * intensity + image), 0, 255).astype(np.uint8)
