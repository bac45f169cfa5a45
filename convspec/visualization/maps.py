"""What a convnet sees: activations, filter patterns and class activation maps (section 5.4).

Images are (height, width, channels), colours RGB, and where a model looks at one, prepared as it was trained on. Models
are Sequential or functional, with one input; a model nested in another is taken layer by layer, as if it were not.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, TextIO

import cv2
import keras
import numpy as np
from keras import ops

from convspec import BadInput
from convspec.backend import compiled, value_and_gradient
from convspec.progress import bar as progress_bar
from convspec.visualization.trace import INPUT, LOGITS, Trace, check_finite, input_shape, to_array


def _checked(images: np.ndarray, model: keras.Model) -> np.ndarray:
    """The images as float32 (n, height, width, channels); one alone counts as a batch."""
    shape, array = input_shape(model), np.asarray(images, np.float32)
    array = array[None] if array.ndim == 3 else array
    sides = zip(shape, array.shape[1:], strict=False)
    if array.ndim != 4 or not len(array) or any(side not in (None, n) for side, n in sides):
        raise BadInput(f"image must have the model's input shape {shape}, got {np.shape(images)}: resize it")
    check_finite(array, "image")
    return array


def _one(image: np.ndarray, model: keras.Model) -> np.ndarray:
    """The image as float32 (height, width, channels); a batch of one counts as an image, as in listing 5.28."""
    array = _checked(image, model)
    if len(array) > 1:
        raise BadInput(f"image must have the model's input shape {input_shape(model)}, got {np.shape(image)}: take one")
    return array[0]


def _chosen(trace: Trace, class_index: int | Sequence[int] | None, images: int) -> np.ndarray:
    """A class for each image, int32, -1 for the one predicted; BadInput where there is no such class."""
    shape = tuple(trace.output(LOGITS).shape[1:])
    if len(shape) != 1:
        raise BadInput(f"model must end in a score for each class, {trace.model.name} has {shape}: add a head")
    check_finite(to_array(trace.output(LOGITS)), f"{trace.model.name}'s output for the first image")
    given = np.asarray(-1 if class_index is None else class_index)
    classes = max(*shape, 2)
    if given.dtype.kind not in "iu" or (class_index is not None and not ((given >= 0) & (given < classes)).all()):
        raise BadInput(f"class_index must be from 0 to {classes - 1}, got {class_index!r}")
    if given.shape not in ((), (images,)):
        raise BadInput(f"class_index must be one, or one for each of {images} images, got {len(given)}")
    return np.broadcast_to(given, images).astype(np.int32)


def _scores(logits: Any, classes: Any) -> Any:
    """Of logits (n, units) those of the `classes` (n,), of the one predicted where that is -1: (n,), float32.

    Of one unit, class 1 has its logit and class 0 the negated one.
    """
    logits = ops.cast(logits, "float32")
    if logits.shape[-1] == 1:
        one = ops.where(classes < 0, logits[:, 0] > 0, classes == 1)
        return ops.where(one, logits[:, 0], -logits[:, 0])
    best = ops.cast(ops.argmax(logits, axis=-1), "int32")
    own = ops.one_hot(ops.where(classes < 0, best, classes), logits.shape[-1])
    return ops.sum(logits * own, axis=-1)  # NaN if any logit is


def activations(model: keras.Model, image: np.ndarray) -> dict[str, np.ndarray]:
    """What each layer gives for `image`, in one pass and in the order of the layers (listings 5.27 and 5.28).

    Returns float32 arrays without a batch axis, (height, width, channels) for maps, under the layers' names; those of a
    nested model are there, the nested model itself is not. Layers with several outputs are left out.
    Raises BadInput for an image that is not of the model's input shape.
    """
    trace = Trace(model, _one(image, model))
    return {name: to_array(call.output)[0] for name, call in trace.calls.items() if ops.is_tensor(call.output)}


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
    check_finite(maps, "maps")
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
    return class_activation_maps(model, _one(image, model)[None], class_index, layer_name)[0]


def class_activation_maps(
    model: keras.Model,
    images: np.ndarray,
    class_index: int | Sequence[int] | None = None,
    layer_name: str | None = None,
    batch: int = 32,
) -> np.ndarray:
    """`class_activation_map` of each of several images, (n, height, width, channels), `batch` of them in a pass that is
    compiled once for a model, a layer and a number of images.

    `class_index` is one for all, or one for each. Returns float32 (n, height, width), each map scaled for itself.
    """
    images = _checked(images, model)
    if len(images) == 1:
        way = _ToMaps(model, images[0], layer_name)
    else:  # kept with the model, as Keras keeps what it compiles
        kept, key = vars(model).setdefault("_to_maps", {}), (layer_name, *map(id, model.layers))
        way = kept[key] if key in kept else kept.setdefault(key, _ToMaps(model, images[0], layer_name))
    classes = _chosen(way.trace, class_index, len(images))
    if len(images) == 1:  # has been there
        found = [way.weighed(classes, *map(way.trace.output, (way.name, *way.around)))]
    else:
        starts = range(0, len(images), batch)
        found = [way.run(images[start : start + batch], classes[start : start + batch]) for start in starts]
    heatmaps, scores = (
        np.concatenate([to_array(tensor) for tensor in tensors]) for tensors in zip(*found, strict=True)
    )
    check_finite(scores, f"{model.name}'s scores for these images")
    check_finite(heatmaps, f"{model.name}'s maps of {way.name!r} for these images")
    return np.stack([_normalised(heatmap) for heatmap in heatmaps])


class _ToMaps:
    """The way from images to the maps of a layer, and from those to the score; `run` goes it compiled."""

    def __init__(self, model: keras.Model, image: np.ndarray, layer_name: str | None) -> None:
        self.trace = Trace(model, image)
        self.name = self.trace.maps(layer_name)
        self.around = self.trace.beside(self.name, LOGITS)
        self.run = compiled(self._through, model.variables)

    def weighed(self, classes: Any, maps: Any, *others: Any) -> tuple[Any, Any]:
        """The mean over the channels of the maps, each times its mean gradient: (n, height, width); and the scores."""
        beside = dict(zip(self.around, others, strict=True))

        def scored(whole: Any) -> Any:
            (logits,) = self.trace.replay({self.name: ops.cast(whole, maps.dtype), **beside}, LOGITS)
            return _scores(logits, classes)

        whole = ops.cast(maps, "float32")
        scores, gradient = value_and_gradient(scored, whole)
        return ops.mean(whole * ops.mean(gradient, axis=(1, 2), keepdims=True), axis=-1), scores

    def _through(self, images: Any, classes: Any) -> tuple[Any, Any]:
        return self.weighed(classes, *self.trace.replay({INPUT: images}, self.name, *self.around))


def occlusion_map(
    model: keras.Model,
    image: np.ndarray,
    class_index: int | None = None,
    patch: int | None = None,
    batch: int = 32,
    progress: TextIO | None = None,
) -> np.ndarray:
    """The slow check of `class_activation_map`, without a gradient: how far the class's score falls where a square is
    covered (Zeiler and Fergus 2014).

    The square, `patch` pixels wide (a fifth of the shorter side if None), has the image's mean colour and moves by half
    its width; each pixel has the mean fall of the squares that cover it. A bar on `progress` counts squares.
    Returns float32 (height, width) of the image, 0 to 1: all 0 where covering never lowers the score.
    """
    picture = _one(image, model)
    sides = picture.shape[:2]
    patch = max(min(sides) // 5, 1) if patch is None else patch
    if not 1 <= patch <= min(sides):
        raise BadInput(f"patch must be from 1 to {min(sides)}, the image's shorter side, got {patch}")
    trace = Trace(model, picture)
    (chosen,) = _chosen(trace, class_index, 1)
    places = list(product(*(_starts(side, patch) for side in sides)))
    batch = min(batch, len(places))
    classes = np.repeat(chosen if class_index is not None else _predicted(trace), batch + 1)
    score = compiled(lambda images: _scores(trace.replay({INPUT: images}, LOGITS)[0], classes), model.variables)
    covered = np.zeros((2, *sides))
    with progress_bar(len(places), "covering parts", "square", progress) as bar:
        for start in range(0, len(places), batch):
            here = places[start : start + batch]
            several = np.stack([picture] * (batch + 1))  # the last stays whole: what else differs is rounding
            for one, (top, left) in zip(several, here, strict=False):
                one[top : top + patch, left : left + patch] = picture.mean(axis=(0, 1))
            *scores, whole = to_array(score(several))
            for fall, (top, left) in zip(whole - scores, here, strict=False):
                covered[:, top : top + patch, left : left + patch] += np.reshape([fall, 1], (2, 1, 1))
            bar.update(len(here))
    falls, times = covered
    check_finite(falls, f"{model.name}'s scores for this image")
    return _normalised(falls / times)


def _predicted(trace: Trace) -> int:
    logits = to_array(trace.output(LOGITS))[0]
    return int(logits.argmax()) if len(logits) > 1 else int(logits[0] > 0)


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
    check_finite(image, "image")
    resized = cv2.resize(heatmap, (image.shape[1], image.shape[0]))
    coloured = cv2.applyColorMap((255 * resized).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    return np.clip(np.rint(coloured * intensity + image), 0, 255).astype(np.uint8)
