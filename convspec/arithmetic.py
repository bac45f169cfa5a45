"""Output sizes, padding, parameters, receptive fields and multiply-adds of layers, in pure Python.

Sizes, kernels, strides and positions are counted in pixels along one axis; height and width never mix.
Every function raises ValueError, with the argument's name and value, for impossible input.
"""

from collections.abc import Iterable
from math import prod
from numbers import Integral
from typing import Any, NamedTuple

PADDINGS = ("valid", "same")
COUNTED = ("Conv2D", "Conv2DTranspose", "DepthwiseConv2D", "SeparableConv2D", "Dense")  # what multiply_adds knows

Kernel = int | tuple[int, int]  # one number for a square kernel, or (height, width)


class Window(NamedTuple):
    """Sliding window of a convolution or pooling layer along one axis."""

    kernel: int
    stride: int = 1
    padding: str = "valid"
    dilation: int = 1


class Field(NamedTuple):
    """Receptive fields of a layer's outputs in the input of a stack of layers, along one axis."""

    outputs: int  # positions in the layer's output
    size: int  # input positions from the first to the last that one output sees: the receptive field
    jump: int  # input positions between the fields of two neighbouring outputs
    start: int  # first input position of output 0's field; negative where that lies in the padding


def _at_least_1(**arguments: int) -> list[int]:  # Python's, as NumPy's may overflow
    for name, value in arguments.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number, at least 1, got {value!r}")
    return [*map(int, arguments.values())]


def _area(kernel: Kernel) -> int:
    sides = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side >= 1 for side in sides):
        raise ValueError(f"kernel must be one whole number or (height, width), each at least 1, got {kernel!r}")
    return prod(map(int, sides))


def conv_output_size(size: int, kernel: int, stride: int = 1, padding: str = "valid", dilation: int = 1) -> int:
    """Return the output positions along one axis of a convolution (section 5.1.1, figures 5.5 to 5.7).

    Args:
        size: Input positions.
        kernel: Width of the kernel.
        stride: Input positions from one window to the next.
        padding: "valid" or "same".
        dilation: Input positions from one weight of the kernel to the next.

    Raises:
        ValueError: For an argument below 1, an unknown padding, a dilated kernel larger than a valid input, and "same"
            with stride and dilation both over 1. (Keras' Conv2D refuses both over 1 with "valid" too; DepthwiseConv2D
            does not.)
    """
    size, kernel, stride, dilation = _at_least_1(size=size, kernel=kernel, stride=stride, dilation=dilation)
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {PADDINGS}, got {padding!r}")
    if padding == "same":
        if stride > 1 and dilation > 1:
            raise ValueError(
                f'padding "same" allows stride or dilation over 1, not both: got stride {stride}, dilation {dilation}'
            )
        return (size - 1) // stride + 1
    extent = dilation * (kernel - 1) + 1
    if extent > size:
        raise ValueError(
            f"kernel must fit in a valid input of size {size}, got {kernel} (extent {extent} at dilation {dilation})"
        )
    return (size - extent) // stride + 1


def pool_output_size(size: int, pool: int, stride: int | None = None, padding: str = "valid") -> int:
    """Return the output positions along one axis of a pooling layer (section 5.1.2).

    Arguments are as in `conv_output_size`; the default stride is the pool size.
    """
    size, pool = _at_least_1(size=size, pool=pool)
    if padding == "valid" and pool > size:
        raise ValueError(f"pool must fit in a valid input of size {size}, got {pool}")
    return conv_output_size(size, pool, pool if stride is None else stride, padding)


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> tuple[int, int]:
    """Return the rows that padding "same" adds (before, after); an odd row goes below or to the right (figure 5.6)."""
    size, kernel, stride, dilation = _at_least_1(size=size, kernel=kernel, stride=stride, dilation=dilation)
    outputs = conv_output_size(size, kernel, stride, "same", dilation)
    total = max((outputs - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
    return total // 2, total - total // 2


def conv2d_parameters(kernel: Kernel, in_channels: int, filters: int, bias: bool = True) -> int:
    """Return the number of weights and biases of a Conv2D (or Conv2DTranspose) layer."""
    in_channels, filters = _at_least_1(in_channels=in_channels, filters=filters)
    return _area(kernel) * in_channels * filters + bias * filters


def depthwise_conv2d_parameters(kernel: Kernel, in_channels: int, multiplier: int = 1, bias: bool = True) -> int:
    """Return the number of weights and biases of a DepthwiseConv2D layer: `multiplier` filters for each channel."""
    in_channels, multiplier = _at_least_1(in_channels=in_channels, multiplier=multiplier)
    return (_area(kernel) + bias) * in_channels * multiplier


def separable_conv2d_parameters(
    kernel: Kernel, in_channels: int, filters: int, multiplier: int = 1, bias: bool = True
) -> int:
    """Return the number of weights and biases of a SeparableConv2D layer: depthwise without bias, then 1x1."""
    depthwise = depthwise_conv2d_parameters(kernel, in_channels, multiplier, bias=False)
    return depthwise + conv2d_parameters(1, int(in_channels) * int(multiplier), filters, bias)


def dense_parameters(inputs: int, units: int, bias: bool = True) -> int:
    """Return the number of weights and biases of a Dense layer."""
    inputs, units = _at_least_1(inputs=inputs, units=units)
    return inputs * units + bias * units


def batch_normalization_parameters(channels: int, center: bool = True, scale: bool = True) -> tuple[int, int]:
    """Return the parameters (trainable, total) of a BatchNormalization layer.

    Beta and gamma train, the moving mean and variance do not.
    """
    (channels,) = _at_least_1(channels=channels)
    trainable = (center + scale) * channels
    return trainable, trainable + 2 * channels


def receptive_field(layers: Iterable[tuple[int, int]]) -> int:
    """Return the input positions along one axis that one output of a stack sees.

    Layers are (kernel, stride), input first. Three unpooled 3x3 convolutions see 7 (section 5.1.2). A dilated kernel
    counts as dilation * (kernel - 1) + 1.
    """
    field = 1
    for kernel, stride in reversed(list(layers)):
        width, step = _at_least_1(kernel=kernel, stride=stride)
        field = (field - 1) * step + width
    return field


def receptive_fields(size: int, layers: Iterable[Window]) -> list[Field]:
    """Return the receptive fields of each layer of a stack, input first, in `size` input positions.

    Output i sees Field.size positions from start + i * jump on, those outside the image being padding; with
    dilation, or a stride over the kernel, it may skip some in between.
    """
    (outputs,), seen, jump, start = _at_least_1(size=size), 1, 1, 0
    fields = []
    for kernel, stride, padding, dilation in layers:
        if padding == "same":
            start -= same_padding(outputs, kernel, stride, dilation)[0] * jump
        outputs = conv_output_size(outputs, kernel, stride, padding, dilation)
        seen, jump = seen + int(dilation) * (int(kernel) - 1) * jump, jump * int(stride)
        fields.append(Field(outputs, seen, jump, start))
    return fields


def multiply_adds(layer: Any) -> int:
    """Return the multiply-adds (half the FLOPs) of a built Keras layer or model on one image.

    A convolution uses each weight of its kernel once at every output position, a transposed one at every input
    position, a Dense layer once for each vector; the zeros of padding count, as they are multiplied too. Biases,
    activations, pooling and normalisation count nothing, and a layer that a model uses twice counts once.
    Raises ValueError for a layer that has seen no keras.Input, as inside of a subclassed model, an input of unknown
    size, and a layer with weights that are used in another way.
    """
    if hasattr(layer, "layers"):
        return sum(multiply_adds(inner) for inner in layer.layers)
    kernels = [tuple(weight.shape) for weight in layer.weights if len(weight.shape) > 1]
    if not layer.built or (kernels and not hasattr(layer, "output")):  # which Keras knows of symbolic inputs alone
        raise ValueError(f"layer must be built, got {layer.name}, which has seen no keras.Input")
    if not kernels:
        return 0
    kind = type(layer).__name__
    if kind not in COUNTED:
        raise ValueError(f"layer must be one of {COUNTED}, or without a matrix of weights, got {layer.name} ({kind})")
    shape = layer.input.shape if kind == "Conv2DTranspose" else layer.output.shape
    if None in shape[1:]:
        raise ValueError(f"layer must have a known size, got {layer.name} with shape {shape}")
    positions = shape[2:] if getattr(layer, "data_format", None) == "channels_first" else shape[1:-1]
    return prod(positions) * sum(prod(kernel) for kernel in kernels)
