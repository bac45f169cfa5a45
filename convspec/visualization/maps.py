"""Activations and class activation maps of a picture (listings 5.25 to 5.31 and 5.40 to 5.44).

Pictures are (height, width, channels), colours RGB; for a model, prepared as in its training.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal, TextIO, get_args
from weakref import WeakKeyDictionary

import cv2
import keras
import numpy as np
from keras import ops

from convspec import BadInput
from convspec.backend import compiled, value_and_gradient
from convspec.progress import bar
from convspec.visualization.trace import Trace, check_finite, input_shape, to_array

VIRIDIS = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[None], cv2.COLORMAP_VIRIDIS)[0, :, ::-1]  # OpenCV's are BGR
BATCH = 32  # pictures in one pass
GradientOf = Literal["score", "probability"]


def _batch(images: np.ndarray, model: keras.Model, single: bool = False) -> np.ndarray:
    """Return one picture or several as float32 (n, height, width, channels); BadInput for several where `single`."""
    shape = input_shape(model)
    try:
        array = np.asarray(images, np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(f"image must be an array, or several of one shape, {shape}, of numbers: {error}") from error
    array = array[None] if array.ndim == 3 else array
    sides = zip(shape, array.shape[1:], strict=False)
    fits = array.ndim == 4 and len(array) and all(side in (None, n) for side, n in sides)
    if not fits or (single and len(array) > 1):
        remedy = "resize it" if array.shape[-1:] == shape[-1:] else f"give it {shape[-1]} channels"
        remedy = "take one" if fits else remedy
        raise BadInput(f"image must have the model's input shape {shape}, got {np.shape(images)}: {remedy}")
    check_finite(array, "image")
    return array


def _class_indices(trace: Trace, class_index: int | Sequence[int] | None, count: int) -> np.ndarray:
    """Return int32 (count,), -1 for the predicted class; BadInput for a class that the model doesn't have."""
    logits = trace.logits(trace.inputs, trace.outputs)
    shape = tuple(logits.shape[1:])
    if len(shape) != 1:
        raise BadInput(f"model must end in a score for each class, {trace.model_name} has {shape}: add a head")
    check_finite(to_array(logits), f"{trace.model_name}'s output for the first image")
    indices = np.asarray(-1 if class_index is None else class_index)
    classes = max(*shape, 2)
    if indices.dtype.kind not in "iu" or (class_index is not None and not ((indices >= 0) & (indices < classes)).all()):
        raise BadInput(f"class_index must be from 0 to {classes - 1}, got {class_index!r}")
    if indices.shape not in ((), (count,)):
        raise BadInput(f"class_index must be one, or one for each of {count} images, got {len(indices)}")
    return np.broadcast_to(indices, count).astype(np.int32)


def _predict(logits: Any) -> Any:
    """Return the predicted class of each row, int32 (n,): of one unit, 1 where it is above 0."""
    return ops.cast(logits[:, 0] > 0 if logits.shape[-1] == 1 else ops.argmax(logits, axis=-1), "int32")


def _scores(outputs: Any, classes: Any) -> Any:
    """Return the output for each row's class, as float32 (n,); NaN if any of the row is.

    Of one unit, class 1 has its output and class 0 the negated one.
    """
    outputs = ops.cast(outputs, "float32")
    if outputs.shape[-1] == 1:
        return ops.where(classes == 1, outputs[:, 0], -outputs[:, 0])
    return ops.sum(outputs * ops.one_hot(classes, outputs.shape[-1]), axis=-1)


def activations(model: keras.Model, image: np.ndarray) -> dict[str, np.ndarray]:
    """Return the output of each layer for a picture, in the order of the layers (listings 5.27 and 5.28).

    Outputs are float32 without a batch axis, (height, width, channels) for maps. Layers of a nested model are there
    under their own names; the nested model itself, layers with several outputs and operations that make one number of
    the whole batch are not. Raises BadInput for a picture that doesn't have the model's input shape.
    """
    trace = Trace(model, _batch(image, model, single=True)[0])
    outputs = {name: output for name, output in trace.outputs.items() if ops.is_tensor(output) and len(output.shape)}
    return {name: to_array(output)[0] for name, output in outputs.items()}


def dead_share(outputs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Return for each layer with maps, of `activations`, the share of its channels, 0 to 1, that are 0 everywhere."""
    return {name: float(np.mean(~maps.any(axis=(0, 1)))) for name, maps in outputs.items() if maps.ndim == 3}


def viridis(channel: np.ndarray) -> np.ndarray:
    """Colour one channel, (height, width), from its lowest value, dark violet, to its highest, yellow.

    Returns RGB, uint8 (height, width, 3), as Matplotlib's `matshow` does in listings 5.29 and 5.30. Raises BadInput for
    another shape, NaN and infinity.
    """
    channel = np.asarray(channel, np.float64)
    if channel.ndim != 2 or not channel.size:
        raise BadInput(f"channel must be (height, width), got {channel.shape}: take one, maps[:, :, 4]")
    check_finite(channel, "channel")
    scaled = (channel - channel.min()) / (np.ptp(channel) or 1)
    return VIRIDIS[np.minimum(256 * scaled, 255).astype(int)]


def channel_tiles(maps: np.ndarray) -> np.ndarray:
    """Tile all channels of a layer, 16 a row, each scaled on its own and in viridis (listing 5.31).

    Takes (height, width, channels) and returns RGB, uint8 (rows * height, 16 * width, 3). Each channel has mean 128 and
    standard deviation 64 of 0, dark violet, to 255, yellow; a constant one is 128, and black if it is dead, 0
    everywhere. The rest of the last row is white. Raises BadInput for another shape, NaN and infinity.
    """
    maps = np.asarray(maps, np.float64)
    if maps.ndim != 3 or not maps.size:
        raise BadInput(f"maps must be (height, width, channels), got {maps.shape}")
    check_finite(maps, "maps")
    flat = np.ptp(maps, axis=(0, 1)) == 0
    scaled = (maps - maps.mean(axis=(0, 1))) / np.where(flat, 1, maps.std(axis=(0, 1))) * 64 + 128
    coloured = VIRIDIS[np.where(flat, 128, np.clip(scaled, 0, 255)).astype(int)]
    coloured[:, :, ~maps.any(axis=(0, 1))] = 0
    return tile(np.moveaxis(coloured, 2, 0), 16, fill=255)


def tile(
    pictures: Sequence[np.ndarray] | np.ndarray, columns: int = 8, margin: int = 0, fill: int = 0, down: bool = False
) -> np.ndarray:
    """Tile pictures with margins (listing 5.39), row by row or down the columns.

    Args:
        pictures: Of one shape, (height, width) or (height, width, channels).
        columns: Pictures in a row.
        margin: Pixels between pictures.
        fill: Value of the margins, and of places without a picture.
        down: Fill one column after the other, of `columns` pictures each, as the listing does.

    Raises:
        BadInput: For no pictures, pictures of several shapes, and numbers that make no grid.
    """
    shapes = {np.shape(picture) for picture in pictures}
    if len(shapes) > 1:
        raise BadInput(f"tile takes pictures of one shape, got {', '.join(map(str, sorted(shapes)))}")
    pictures = np.asarray(pictures)
    if pictures.ndim not in (3, 4) or not len(pictures) or columns < 1 or margin < 0:
        raise BadInput(f"tile takes pictures of one shape, got {pictures.shape}, columns {columns}, margin {margin}")
    height, width = (side + margin for side in pictures.shape[1:3])
    sides = [-(-len(pictures) // columns), columns]
    rows, across = reversed(sides) if down else sides
    grid = np.full((rows * height - margin, across * width - margin, *pictures.shape[3:]), fill, pictures.dtype)
    for place, picture in enumerate(pictures):
        row, column = reversed(divmod(place, columns)) if down else divmod(place, columns)
        top, left = row * height, column * width
        grid[top : top + height - margin, left : left + width - margin] = picture
    return grid


def class_activation_map(
    model: keras.Model,
    image: np.ndarray,
    class_index: int | None = None,
    layer_name: str | None = None,
    of: GradientOf = "score",
) -> np.ndarray:
    """Map where a picture looks like a class: Grad-CAM (Selvaraju et al. 2017, listings 5.42 and 5.43).

    Each map of the layer is weighted by the mean gradient of the class's score, taken before a final softmax or
    sigmoid. Of one sigmoid unit, class 1 has its score and class 0 the negated score.

    The listing takes the gradient of the probability. Of a softmax that is p times that of the score, less the mean of
    all classes' weighted by their probabilities: what speaks for the likely rivals as well drops out, and where the
    model is certain in float32 nothing is left.

    Args:
        model: Sequential or functional, ending in a score for each class, or in one unit for two classes.
        image: (height, width, channels), or a batch of one, prepared for the model.
        class_index: None for the predicted class.
        layer_name: None for the last convolution of more than one pixel.
        of: What the gradient is of, the class's score or its "probability": the model's output as it is.

    Returns:
        float32 (height, width) of the layer's maps, 0 to 1; 0 everywhere if nothing speaks for the class.

    Raises:
        BadInput: For a picture of another shape, an unknown layer or class, and NaN in the model.
    """
    return class_activation_maps(model, _batch(image, model, single=True), class_index, layer_name, of=of)[0]


def class_activation_maps(
    model: keras.Model,
    images: np.ndarray,
    class_index: int | Sequence[int] | None = None,
    layer_name: str | None = None,
    of: GradientOf = "score",
) -> np.ndarray:
    """Map several pictures, (n, height, width, channels), as `class_activation_map` does one.

    What is compiled is kept as long as the model.

    Args:
        model: As for `class_activation_map`, like `layer_name` and `of`.
        images: Prepared for the model.
        class_index: One for all pictures, or one for each.
        layer_name: None for the last convolution of more than one pixel.
        of: "score" or "probability".

    Returns:
        float32 (n, height, width), each map scaled to 0 to 1 on its own.
    """
    images = _batch(images, model)
    if len(images) == 1:
        cam = _GradCam(model, images[0], layer_name, of)
        classes = _class_indices(cam.trace, class_index, 1)
        names = list(cam.trace.outputs)
        until = {name: cam.trace.outputs[name] for name in names[: names.index(cam.layer_name) + 1]}
        results = [cam.weigh(classes, cam.trace.inputs, until)]
    else:
        compiled_cams = _COMPILED.setdefault(model, {})
        activations = (getattr(layer, "activation", None) for layer in model._flatten_layers())
        key = layer_name, of, images.shape[1:], *map(id, [*model.layers, *model.weights]), *activations
        cam = compiled_cams.get(key) or _GradCam(model, images[0], layer_name, of)
        classes = _class_indices(cam.trace, class_index, len(images))
        compiled_cams[key] = cam  # not one whose outputs have NaN, which better weights would not mend
        slices = (slice(start, start + BATCH) for start in range(0, len(images), BATCH))
        results = [cam.run(images[some], classes[some]) for some in slices]
    heatmaps, scores = (np.concatenate([to_array(part) for part in parts]) for parts in zip(*results, strict=True))
    check_finite(scores, f"{model.name}'s scores for these images")
    check_finite(heatmaps, f"{model.name}'s maps of {cam.layer_name!r} for these images")
    return np.stack([_normalise(heatmap) for heatmap in heatmaps])


class _GradCam:
    """Grad-CAM of one layer; `run`, compiled, is for batches of other pictures than the one traced."""

    def __init__(self, model: keras.Model, image: np.ndarray, layer_name: str | None, of: GradientOf) -> None:
        if of not in get_args(GradientOf):
            raise BadInput(f"of must be one of {', '.join(get_args(GradientOf))}, got {of!r}")
        self.trace = Trace(model, image)
        self.of, self.weights = of, model.weights  # kept, so that others never have their ids
        self.layer_name = self.trace.find_maps(layer_name)
        outputs_of = partial(self.trace.replay, end=self.layer_name)
        self.run = compiled(lambda images, classes: self.weigh(classes, images, outputs_of(images)), model.variables)

    def weigh(self, classes: Any, images: Any, known: dict[str, Any]) -> tuple[Any, Any]:
        """Return the mean over channels of the maps times their mean gradients, (n, height, width), and the scores.

        `known` has the outputs up to the layer's.
        """
        maps = known[self.layer_name]

        def score(whole: Any) -> Any:
            replaced = known | {self.layer_name: ops.cast(whole, maps.dtype)}
            logits = self.trace.logits(images, replaced)
            outputs = logits if self.of == "score" else self.trace.logits(images, replaced, without=())
            return _scores(outputs, ops.where(classes < 0, _predict(logits), classes))

        whole = ops.cast(maps, "float32")
        scores, gradient = value_and_gradient(score, whole)
        return ops.mean(whole * ops.mean(gradient, axis=(1, 2), keepdims=True), axis=-1), scores


_COMPILED: WeakKeyDictionary[keras.Model, dict[tuple, _GradCam]] = WeakKeyDictionary()


def occlusion_map(
    model: keras.Model,
    image: np.ndarray,
    class_index: int | None = None,
    patch: int | None = None,
    progress: TextIO | None = None,
) -> np.ndarray:
    """Map how far the class's score falls where a square is covered (Zeiler and Fergus 2014).

    A slow check of `class_activation_map` that needs no gradient. The square has the picture's mean colour and moves
    by half its width; a pixel has the mean fall of the squares that cover it.

    Args:
        model: As for `class_activation_map`.
        image: As for `class_activation_map`.
        class_index: None for the predicted class.
        patch: Width of the square in pixels; None for a fifth of the picture's shorter side.
        progress: Where a progress bar is drawn.

    Returns:
        float32 (height, width) of the picture, 0 to 1; 0 everywhere if covering never lowers the score.

    Raises:
        BadInput: As for `class_activation_map`, and for a square larger than the picture.
    """
    (picture,) = _batch(image, model, single=True)
    sides = picture.shape[:2]
    patch = max(min(sides) // 5, 1) if patch is None else patch
    if not 1 <= patch <= min(sides):
        raise BadInput(f"patch must be from 1 to {min(sides)}, the image's shorter side, got {patch}")
    trace = Trace(model, picture)
    index = _class_indices(trace, class_index, 1)
    if class_index is None:
        index = ops.convert_to_numpy(_predict(trace.logits(trace.inputs, trace.outputs)))
    starts = ({*range(0, side - patch + 1, max(patch // 2, 1)), side - patch} for side in sides)
    places = list(product(*map(sorted, starts)))
    batch = min(BATCH, len(places))
    classes = np.repeat(index, batch + 1)
    score = compiled(lambda images: _scores(trace.logits(images), classes), model.variables)
    falls, counts = np.zeros((2, *sides))
    with bar(len(places), "covering parts", "square", progress) as shown:
        for start in range(0, len(places), batch):
            corners = places[start : start + batch]
            covered = np.stack([picture] * (batch + 1))  # the last stays whole: any other difference is rounding
            for one, (top, left) in zip(covered, corners, strict=False):
                one[top : top + patch, left : left + patch] = picture.mean(axis=(0, 1))
            *scores, whole = to_array(score(covered))
            for fall, (top, left) in zip(whole - scores, corners, strict=False):
                falls[top : top + patch, left : left + patch] += fall
                counts[top : top + patch, left : left + patch] += 1
            shown.update(len(corners))
    check_finite(falls, f"{model.name}'s scores for this image")
    return _normalise(falls / counts)


def _normalise(heatmap: np.ndarray) -> np.ndarray:
    positive = np.maximum(heatmap, 0).astype(np.float32)
    return positive / (positive.max() or 1)


def superimpose(image: np.ndarray, heatmap: np.ndarray, intensity: float = 0.4) -> np.ndarray:
    """Lay a heatmap over a picture, blue for 0 to red for 1 (JET), as listing 5.44 does.

    `image` is RGB, 0 to 255, (height, width, 3), or (height, width, 1) for grey; the heatmap, (rows, columns) from 0 to
    1, is resized to it and its colours, times `intensity`, are added. Returns RGB, uint8 (height, width, 3). Raises
    BadInput for other shapes and values.
    """
    image, heatmap = np.asarray(image, np.float64), np.asarray(heatmap, np.float32)
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or not image.size:
        raise BadInput(f"image must be (height, width, 3) or (height, width, 1), got {image.shape}")
    if not (image.min() >= 0 and image.max() <= 255):
        raise BadInput(f"image must have values from 0 to 255, got {image.min():g} to {image.max():g}")
    if heatmap.ndim != 2 or not heatmap.size or not (heatmap.min() >= 0 and heatmap.max() <= 1):
        raise BadInput(f"heatmap must be (rows, columns) with values from 0 to 1, got {heatmap.shape}: normalise it")
    if not 0 <= intensity < np.inf:
        raise BadInput(f"intensity must be a number from 0 up, got {intensity}")
    resized = cv2.resize(heatmap, (image.shape[1], image.shape[0]))
    coloured = cv2.applyColorMap((255 * resized).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]  # OpenCV's are BGR
    return np.clip(np.rint(coloured * np.float64(intensity) + image), 0, 255).astype(np.uint8)
