"""What follows from sizes alone: output sizes, padding, parameters, receptive fields. Pure Python."""

from collections.abc import Iterable
from math import prod

PADDINGS = ("valid", "same")


def _at_least(minimum: int, **arguments: int) -> None:
    for name, value in arguments.items():
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def conv_output_size(size: int, kernel: int, stride: int = 1, padding: str = "valid", dilation: int = 1) -> int:
    """Output positions along one axis of a convolution (section 5.1.1, figures 5.5 to 5.7).

    Raises ValueError where no output exists or Keras has no such layer: a dilated kernel larger than
    a valid input, an argument below 1, or "same" with stride and dilation both over 1.
    """
    _at_least(1, size=size, kernel=kernel, stride=stride, dilation=dilation)
    if padding not in PADDINGS:
        raise ValueError(f"padding must be one of {PADDINGS}, got {padding!r}")
    if padding == "same":
        if stride > 1 and dilation > 1:
            raise ValueError(f'padding "same" allows stride or dilation over 1, not both: got stride {stride}, dilation {dilation}')
        return -(-size // stride)
    extent = dilation * (kernel - 1) + 1
    if extent > size:
        raise ValueError(f"kernel must fit in a valid input of size {size}, got {kernel} (extent {extent} at dilation {dilation})")
    return (size - extent) // stride + 1


def pool_output_size(size: int, pool: int, stride: int | None = None, padding: str = "valid") -> int:
    """Output positions along one axis of a pooling layer; the stride is the pool size unless given (section 5.1.2)."""
    _at_least(1, pool=pool)
    if padding == "valid" and pool > size:
        raise ValueError(f"pool must fit in a valid input of size {size}, got {pool}")
    return conv_output_size(size, pool, pool if stride is None else stride, padding)


def same_padding(size: int, kernel: int, stride: int = 1) -> tuple[int, int]:
    """Rows added (before, after) by padding "same"; an odd row goes after, below or to the right (figure 5.6)."""
    _at_least(1, size=size, kernel=kernel, stride=stride)
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv2d_parameters(kernel: int | tuple[int, int], in_channels: int, filters: int, bias: bool = True) -> int:
    """Weights and biases of a Conv2D layer with a square or (height, width) kernel."""
    area = prod(kernel) if isinstance(kernel, tuple) else kernel * kernel
    _at_least(1, kernel=area, in_channels=in_channels, filters=filters)
    return area * in_channels * filters + bias * filters


def dense_parameters(inputs: int, units: int, bias: bool = True) -> int:
    """Weights and biases of a Dense layer."""
    _at_least(1, inputs=inputs, units=units)
    return inputs * units + bias * units


def receptive_field(layers: Iterable[tuple[int, int]]) -> int:
    """Input positions along one axis that one output of a stack sees; layers are (kernel, stride), input first.

    Three unpooled 3x3 convolutions see 7 (section 5.1.2).
    """
    field, jump = 1, 1
    for kernel, stride in layers:
        _at_least(1, kernel=kernel, stride=stride)
        field += (kernel - 1) * jump
        jump *= stride
    return field
