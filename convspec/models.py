"""The chapter's architectures; bases, freezing and thawing.

Two classes end in one sigmoid unit, more in a softmax. Pictures are (height, width, channels).
"""

import random
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, tree
from keras.src.backend.common import global_state

from convspec import BadInput, MissingData
from convspec.arithmetic import receptive_field
from convspec.data.batches import rescale

MINI_WEIGHTS = Path(__file__).with_name("mini_base.weights.h5")
FIRST_LAYER, LAST_STAGE = "first layer", "last stage"  # names that `first_thawed` takes for those of any base


def _classifier(units: int, classes: int) -> list[layers.Layer]:
    if classes < 2:
        raise BadInput(f"classes must be at least 2, got {classes}")
    outputs, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    # Probabilities are float32 in mixed precision, too: half of it rounds those near 1 to 1, where the loss is 0.
    return [layers.Dense(units, activation="relu"), layers.Dense(outputs, activation=activation, dtype="float32")]


def _dropout(rate: float) -> layers.Layer:
    # With a seed, drawn as Keras draws one, the generator is a variable of the model on every backend, so that a
    # checkpoint has it. Without one, PyTorch takes a generator of its own.
    return layers.Dropout(rate, seed=random.randint(1, 10**9))


def _flattened(input_shape: tuple[int, ...]) -> list[layers.Layer]:
    return [keras.Input(input_shape)] + ([layers.Flatten()] if len(input_shape) > 1 else [])


def _convolutions(name: str, input_shape: tuple[int, ...], filters: tuple[int, ...], pooled: int) -> list[layers.Layer]:
    """Return the input and the convolutions, the first `pooled` of them pooled; BadInput if no output would be left."""
    stack: list[layers.Layer] = []
    for position, depth in enumerate(filters):
        stack.append(layers.Conv2D(depth, (3, 3), activation="relu"))
        if position < pooled:
            stack.append(layers.MaxPooling2D((2, 2)))
    smallest = receptive_field((2, 2) if isinstance(layer, layers.MaxPooling2D) else (3, 1) for layer in stack)
    if None in input_shape[:2] or min(input_shape[:2]) < smallest:
        height, width = input_shape[:2]
        raise BadInput(f"{name} takes pictures of at least {smallest} x {smallest}, got {height} x {width}")
    return [keras.Input(input_shape), *stack]


def dense_baseline(input_shape: tuple[int, ...] = (784,), classes: int = 10) -> keras.Model:
    """Return chapter 2's dense network: 784-512-10, 407,050 parameters; pictures of more dimensions are flattened."""
    return keras.Sequential(_flattened(input_shape) + _classifier(512, classes), name="dense_baseline")


def mnist_convnet(input_shape: tuple[int, int, int] = (28, 28, 1), classes: int = 10) -> keras.Model:
    """Return the convnet of listings 5.1 and 5.2: 93,322 parameters, 55,744 before the head; pictures from 18 x 18."""
    stack = _convolutions("mnist_convnet", input_shape, (32, 64, 64), pooled=2)
    return keras.Sequential([*stack, layers.Flatten(), *_classifier(64, classes)], name="mnist_convnet")


def mnist_convnet_without_pooling(input_shape: tuple[int, int, int] = (28, 28, 1)) -> keras.Model:
    """Return section 5.1.2's counterexample: three convolutions, no pooling, 22 x 22 x 64 = 30,976 outputs."""
    return keras.Sequential(_convolutions("mnist_convnet_without_pooling", input_shape, (32, 64, 64), pooled=0))


def small_convnet(
    input_shape: tuple[int, int, int] = (150, 150, 3),
    dropout: float = 0.0,
    classes: int = 2,
    filters: tuple[int, ...] = (32, 64, 128, 128),
) -> keras.Model:
    """Return the convnet of listing 5.5, or 5.13 with `dropout` before the head: 3,453,121 parameters.

    Args:
        input_shape: Of a picture; at least 46 x 46 with four filters.
        dropout: Rate before the head; 0 has no such layer.
        classes: Two end in one sigmoid unit, more in a softmax.
        filters: Of each convolution, one at least; the Dense layer has four units for each of the last one's.

    Raises:
        BadInput: For pictures that are too small, fewer than two classes and no filters.
    """
    if not filters:
        raise BadInput(f"filters must have a number for each convolution, got {filters}")
    stack = [*_convolutions("small_convnet", input_shape, filters, pooled=len(filters)), layers.Flatten()]
    if dropout:
        stack.append(_dropout(dropout))
    return keras.Sequential(stack + _classifier(4 * filters[-1], classes), name="small_convnet")


def feature_classifier(feature_shape: tuple[int, ...], dropout: float = 0.5, classes: int = 2) -> keras.Model:
    """Return the head of listing 5.18 for cached features: 2,097,665 parameters on VGG16's 4 x 4 x 512."""
    dense, last = _classifier(256, classes)
    stack = [*_flattened(feature_shape), dense, _dropout(dropout), last]
    return keras.Sequential(stack, name="feature_classifier")


def end_to_end(base: keras.Model, classes: int = 2) -> keras.Model:
    """Return the base with a head and no dropout (listing 5.20): 16,812,353 parameters on VGG16.

    Raises BadInput for a base that takes pictures of any size, or several inputs or outputs.
    """
    tensors = [getattr(base, each, ()) for each in ("inputs", "outputs")]
    if any(len(each) != 1 for each in tensors) or isinstance(getattr(base, "output", None), list | dict):
        raise BadInput(
            f"{base.name} must be Sequential or functional, built, with one input and one output, in no list"
        )
    if None in base.output_shape[1:]:
        raise BadInput(f"{base.name} must be built for pictures of one size, got input_shape {base.input_shape[1:]}")
    stack = [keras.Input(base.input_shape[1:]), base, layers.Flatten(), *_classifier(256, classes)]
    return keras.Sequential(stack, name="end_to_end")


def _mini(input_shape: tuple[int | None, int | None, int], **_: Any) -> keras.Model:
    """Return the package's own small base, for 48 x 48 pictures: VGG's pattern and names, fewer filters."""
    if any(side is not None and side < 16 for side in input_shape[:2]):  # four times halved
        raise ValueError(f"Input size must be at least 16x16; Received: input_shape={input_shape}")
    x = inputs = keras.Input(input_shape)
    for block, (depth, convolutions) in enumerate(((16, 1), (32, 1), (64, 2), (96, 2)), start=1):
        for convolution in range(1, convolutions + 1):
            name = f"block{block}_conv{convolution}"
            x = layers.Conv2D(depth, (3, 3), padding="same", activation="relu", name=name)(x)
        x = layers.MaxPooling2D((2, 2), name=f"block{block}_pool")(x)
    return keras.Model(inputs, x, name="mini")


# NASNet is left out as no layer inside of it is on every path, so that it cannot be thawed in part, and EfficientNet
# (not V2) as Keras builds another network without its own weights than with them.
_LEFT_OUT = ("NASNet", "EfficientNetB")
_KINDS = {
    {"InceptionV3": "inception_v3"}.get(kind, kind.lower()): getattr(keras.applications, kind)
    for kind in dir(keras.applications)
    if kind[0].isupper() and not kind.startswith(_LEFT_OUT)
}
BASES: dict[str, Callable[..., keras.Model]] = {**_KINDS, "mini": _mini}
# Takes pictures of 0..255 to what the base's own weights were trained on; leaves them alone if the base does that.
PREPROCESSING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    name: getattr(keras.applications, build.__module__.rpartition(".")[2]).preprocess_input
    for name, build in _KINDS.items()
} | {"mini": rescale}
_SIZES = {
    "xception": (71, 299), "inception_v3": (75, 299), "inceptionresnetv2": (75, 299), "efficientnetv2b1": (32, 240),
    "efficientnetv2b2": (32, 260), "efficientnetv2b3": (32, 300), "efficientnetv2s": (32, 384),
    "efficientnetv2m": (32, 480), "efficientnetv2l": (32, 480), "mini": (16, 48),
}  # fmt: skip


def find_base(name: str) -> str:
    """Return the key of BASES for a name in any spelling, such as EfficientNetV2B0 or efficientnet_v2_b0.

    Raises BadInput, with the choices, for any other.
    """
    plain = {re.sub(r"[\W_]", "", text).casefold(): text for text in BASES}
    if (key := plain.get(re.sub(r"[\W_]", "", name).casefold())) is None:
        raise BadInput(f"unknown base {name!r}; choose from {', '.join(BASES)}")
    return key


def sizes(name: str) -> tuple[int, int]:
    """Return the smallest side in pixels that a base takes, and the one its weights were made for.

    `name` is a key of BASES.
    """
    return _SIZES.get(name, (32, 224))


def default_weights(name: str, folder: Path | None = None, include_top: bool = False) -> str | Path:
    """Return the base's file in the data `folder`, as saved by Keras 3 or as published, else "imagenet".

    The mini base has its file in the package.
    """
    name, part = find_base(name), "" if include_top else "_notop"
    if name == "mini":
        return MINI_WEIGHTS
    ends = (f"{part}.weights.h5", f"_weights_tf_dim_ordering_tf_kernels{part}.h5") if folder else ()
    files = (Path(folder or "", f"{name}{end}") for end in ends)
    return next((file for file in files if file.is_file()), "imagenet")


@contextmanager
def _building(precision: str | None) -> Iterator[None]:
    """Set the dtype policy, and count Keras's names, such as conv2d_5, from the first, as all processes do."""
    counts = "object_name_uids"  # private: the public ways count on, or forget all of Keras's state
    names, policy = global_state.get_global_attribute(counts), keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision or policy)
    global_state.set_global_attribute(counts, None)
    try:
        yield
    finally:
        global_state.set_global_attribute(counts, names)
        keras.config.set_dtype_policy(policy)


def conv_base(
    name: str = "vgg16",
    weights: str | Path | None = None,
    input_shape: tuple[int | None, int | None, int] = (150, 150, 3),
    precision: str | None = None,
    include_top: bool = False,
) -> keras.Model:
    """Return a convolutional base without its classifier (listing 5.16), or with it (listing 5.40).

    VGG16's has 14,714,688 parameters and turns (150, 150, 3) into (4, 4, 512); with its classifier, for (224, 224, 3),
    it has 138,357,544.

    Args:
        name: Key of BASES, in any spelling that `find_base` takes.
        weights: None (random), "imagenet" (fetched by Keras) or a file, see `default_weights`.
        input_shape: Height, width and channels; sides of None take any size.
        precision: Dtype policy of the layers, such as "mixed_bfloat16"; None takes Keras's own.
        include_top: Keep the classifier of ImageNet's 1,000 classes, for `input_shape`; VGG16's weights for it fit
            (224, 224, 3) only.

    Raises:
        BadInput: For an unknown base, an input that it cannot take, a file of another architecture, and the mini base's
            classifier, as it has none.
        MissingData: For weights that are not on this machine and cannot be fetched.
    """
    name = find_base(name)
    file, part = None if weights == "imagenet" else weights, "" if include_top else "_notop"
    if name == "mini" and include_top:
        raise BadInput("the mini base has no classifier: take another base, or a model's file")
    if name == "mini" and weights == "imagenet":
        raise BadInput(f"the mini base has no ImageNet weights; its own are in {str(MINI_WEIGHTS)!r}")
    if file is not None and not Path(file).is_file():
        raise MissingData(f"no weights file {str(file)!r}; give a file, or 'imagenet'")
    with warnings.catch_warnings(), _building(precision):
        warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square")  # weights are for one size
        try:
            base = BASES[name](weights=None if file else weights, include_top=include_top, input_shape=input_shape)
        except ValueError as error:
            raise BadInput(f"a {name} base cannot take input_shape {input_shape}: {error}") from error
        except Exception as error:  # keras.utils.get_file raises a bare Exception where the network fails
            if "fetch failure" not in str(error):
                raise
            raise MissingData(
                f"{name}'s ImageNet weights are not on this machine and could not be fetched; give a file with"
                f" --convspec-weights, or put {name}{part}.weights.h5 into the data folder ({error})"
            ) from error
    for layer in base.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0  # drops whole branches in training, even where it is frozen: features would be random
    if file is None:
        return base
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Skipping")  # layers that the file lacks stay random otherwise
            base.load_weights(file)
    except (ValueError, OSError, KeyError, UserWarning) as error:
        reason = " ".join(str(error).split())[:200]
        top = "with" if include_top else "without"
        raise BadInput(f"{str(file)!r} does not hold the weights of a {name} base {top} its top: {reason}") from error
    return base


def freeze(base: keras.Model) -> None:
    """Exclude all of the base's weights from training (section 5.3.1). Compile the model afterwards."""
    base.trainable = False


def thaw_from(base: keras.Model, layer_name: str) -> None:
    """Make `layer_name` and all layers after it trainable, and freeze those before (listing 5.22). Compile afterwards.

    Raises BadInput for a layer that the base does not have.
    """
    first = _position(base, layer_name)
    base.trainable = True
    for position, layer in enumerate(base.layers):
        layer.trainable = position >= first


def first_thawed(base: keras.Model, thaw: str) -> str:
    """Return the name of the first layer to thaw: `thaw` itself, but for FIRST_LAYER and LAST_STAGE.

    The last stage is that of the smallest maps that a layer with weights makes. It begins where one tensor has all
    that the rest of the base needs; of several such places, where that tensor has the fewest values.
    """
    if thaw == FIRST_LAYER:
        return base.layers[1].name
    if thaw != LAST_STAGE:
        return thaw
    if None in base.input_shape[1:]:
        raise BadInput(f"the last stage of {base.name} can be found for pictures of a given size only: name a layer")
    operations, cuts = base.operations, _cuts(base)
    weighted = [isinstance(each, layers.Layer) and bool(each.weights) for each in operations]
    sides = [max(each.output.shape[1:3]) if own else 0 for each, own in zip(operations, weighted, strict=True)]
    smallest = next(side for side in reversed(sides) if side)
    larger = max((position for position, side in enumerate(sides) if side > smallest), default=0)
    first = next(cut for cut in cuts if cut >= larger)
    end = next(position for position in range(first + 1, len(sides)) if sides[position])
    # An inverted bottleneck's first convolution widens, its second halves the maps: go back to where branches met.
    merged = max((cut for cut in cuts if cut <= first and len(tree.flatten(operations[cut].input)) > 1), default=0)
    if sum(isinstance(each, layers.Conv2D) for each in operations[merged + 1 : first + 1]) > 1:
        merged = first
    places = [cut for cut in cuts if merged <= cut < end]
    return operations[min(places, key=lambda cut: (prod(operations[cut].output.shape[1:]), -cut)) + 1].name


def _cuts(base: keras.Model) -> list[int]:
    """Return the positions in `base.operations` whose output is all that the operations behind need, and a layer's."""
    operations = base.operations
    last_use = {id(tensor): at for at, each in enumerate(operations) for tensor in tree.flatten(each.input)}
    cuts, needed = list[int](), 0  # up to where outputs of earlier operations are needed
    for position, operation in enumerate(operations[:-1]):
        if needed <= position and isinstance(operations[position + 1], layers.Layer):
            cuts.append(position)
        needed = max(needed, last_use[id(operation.output)])
    return cuts


def _position(base: keras.Model, layer_name: str) -> int:
    names = [layer.name for layer in base.layers]
    if layer_name not in names:
        raise BadInput(f"{base.name} has no layer {layer_name!r}; choose from {', '.join(names)}")
    return names.index(layer_name)


def linear_probe(base: keras.Model, size: int, classes: int = 2, extra_sizes: tuple[int, ...] = ()) -> keras.Model:
    """Return the base, the mean and maximum of each of its feature maps, and one linear layer on those.

    Args:
        base: Must take any size if there are `extra_sizes`.
        size: Height and width of the pictures.
        classes: Two end in one sigmoid unit, more in a softmax.
        extra_sizes: At which the base sees each picture, too; the linear layer has the features of all sizes.

    Raises:
        BadInput: For a size that the base does not take.
    """
    for side in (size, *extra_sizes):
        if any(own not in (None, side) for own in base.input_shape[1:3]):
            raise BadInput(f"{base.name} takes {base.input_shape[1:]} only, got size {side}: build it for any size")
    inputs = keras.Input((size, size, 3))
    pooled = []
    for resized in [inputs, *(layers.Resizing(side, side, antialias=True)(inputs) for side in extra_sizes)]:
        maps = layers.Activation("linear", dtype="float32")(base(resized))  # whatever precision the base works in
        pooled += [layers.GlobalAveragePooling2D()(maps), layers.GlobalMaxPooling2D()(maps)]
    features = layers.Concatenate(name="pooled")(pooled)
    return keras.Model(inputs, _classifier(1, classes)[-1](features), name="linear_probe")


def cut_before(base: keras.Model, layer_name: str) -> tuple[keras.Model, keras.Model]:
    """Cut the base in two, which share its layers: up to the input of `layer_name`, and from there on.

    What is frozen before the cut needs to see each picture only once. Raises BadInput for a layer that the base does
    not have, its input, and one that another path goes around.
    """
    if not (position := _position(base, layer_name)):
        raise BadInput(f"{base.name} cannot be cut before {layer_name!r}, its input: take a later layer")
    cut = base.layers[position].input
    if not any(base.operations[place].output is cut for place in _cuts(base)):
        raise BadInput(f"{base.name} cannot be cut before {layer_name!r}, which is not on every path")
    return keras.Model(base.input, cut, name=base.name), keras.Model(cut, base.output, name=f"from_{layer_name}")
