"""Record a forward pass layer by layer; replay parts of it.

Models are Sequential or functional, with one input, channels last; nested models are followed layer by layer.
"""

import inspect
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops, tree

from convspec import BadInput

CONVOLUTIONS = (layers.Conv2D, layers.Conv2DTranspose, layers.DepthwiseConv2D, layers.SeparableConv2D)
SCORING = (keras.activations.softmax, keras.activations.sigmoid)
INPUT, LOGITS = ":input", ":logits"
DEFAULT_SIDE = 224  # pixels, for models that take any size: all bases of the package have maps left in their last layer


class Call(NamedTuple):
    """One call of a layer, or of an operation from keras.ops, and its output."""

    layer: Any
    args: tuple
    kwargs: dict[str, Any]
    output: Any


def input_shape(model: keras.Model) -> tuple[int | None, int | None, int]:
    """Return (height, width, channels); BadInput for a model that can't be followed or takes no picture."""
    inputs: list = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise BadInput(f"model must be Sequential or functional, built, and take one image; {model.name} does not")
    return inputs[0].shape[1:]


class Trace:
    """Recorded forward pass of one picture, (height, width, channels), through a model.

    `calls` maps layer names to calls, in order; a name that occurs again becomes "name:2" and so on. INPUT names the
    picture, and LOGITS the model's output before a final softmax or sigmoid. Dropout and augmentation are off.
    """

    def __init__(self, model: keras.Model, image: np.ndarray) -> None:
        self.model_name = model.name
        self.calls: dict[str, Call] = {}
        self._input = ops.convert_to_tensor(image[None])
        self._origin = {id(self._input): INPUT}
        self._linear: dict[str, Call] = {}
        last = self._origin.get(id(self._run(model, self._input)), INPUT)
        if last != INPUT:
            self._linear[LOGITS] = _without_activation(self.calls[last], SCORING)

    def _run(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            (output,) = args
            for inner in layer.layers:
                output = self._run(inner, output)
            return output
        if isinstance(layer, keras.Function):
            # Private: the public ways through a graph end at a nested model (`layer.output`) or make a new one
            # (`clone_model`), and neither can be followed with the values of a picture.
            output = layer._run_through_graph(args[0], operation_fn=lambda inner: partial(self._run, inner))
            return leaves[0] if len(leaves := tree.flatten(output)) == 1 else output
        if isinstance(layer, keras.Layer) and "training" in inspect.signature(layer.call).parameters:
            kwargs["training"] = False
        # A new tensor even where the layer returns its input; in PyTorch it also frees the memory for gradients.
        output = tree.map_structure(ops.stop_gradient, layer(*args, **kwargs))
        count = sum(name.partition(":")[0] == layer.name for name in self.calls)
        name = f"{layer.name}:{count + 1}" if count else layer.name
        self.calls[name] = Call(layer, args, kwargs, output)
        self._origin.update((id(leaf), name) for leaf in tree.flatten(output))
        return output

    def _call(self, name: str) -> Call:
        if name in self.calls or name in self._linear:
            return self._linear.get(name) or self.calls[name]
        raise BadInput(f"model must end in one output of a layer, {self.model_name} does not")

    def output(self, name: str) -> Any:
        """Return the recorded output of a call, or the picture for INPUT, as a batch of one."""
        return self._input if name == INPUT else self._call(name).output

    def before_relu(self, name: str) -> str:
        """Return a name for the call's output before its layer's ReLU; `name` itself where there is none."""
        if getattr(self.calls[name].layer, "activation", None) is not keras.activations.relu:
            return name
        self._linear[f"{name}:linear"] = _without_activation(self.calls[name], (keras.activations.relu,))
        return f"{name}:linear"

    def _sources(self, name: str) -> Iterator[str]:
        """Yield the calls, or INPUT, whose outputs the call takes."""
        call = self._call(name)
        return (self._origin[id(leaf)] for leaf in tree.flatten((call.args, call.kwargs)) if id(leaf) in self._origin)

    def _between(self, given: Mapping[str, Any] | list[str], wanted: tuple[str, ...]) -> list[str]:
        """Return the calls that depend on those `given` and on which those `wanted` depend, in order."""
        after: dict[str, list[str]] = {}
        for name in (*self.calls, *self._linear):
            sources = list(self._sources(name))
            if name not in given and any(source in given or source in after for source in sources):
                after[name] = sources
        needed = set(wanted)
        for name in reversed(after):
            needed.update(after[name] if name in needed else ())
        return [name for name in after if name in needed]

    def bypasses(self, name: str, until: str) -> list[str]:
        """Return the earlier calls from which `until` takes outputs around the call `name`, as shortcuts do."""
        between = self._between([name], (until,))
        sources = (source for after in between for source in self._sources(after))
        return [source for source in dict.fromkeys(sources) if source not in between and source != name]

    def replay(self, given: Mapping[str, Any], *wanted: str) -> list[Any]:
        """Return new outputs of the calls `wanted` after replacing the outputs `given`, of calls or INPUT.

        Only the calls between are made again; all else is as recorded. With KerasTensors given, only shapes are
        computed.
        """
        new: dict[int, Any] = {}

        def replace(name: str, output: Any) -> None:
            recorded = map(id, tree.flatten(self.output(name)))
            new.update(zip(recorded, tree.flatten(output), strict=True))

        def renew(structure: Any) -> Any:
            return tree.map_structure(lambda leaf: new.get(id(leaf), leaf), structure)

        symbolic = any(isinstance(leaf, keras.KerasTensor) for leaf in tree.flatten(dict(given)))
        for name, output in given.items():
            replace(name, output)
        for name in self._between(given, wanted):
            layer, args, kwargs, _ = self._call(name)
            replace(name, (layer.compute_output_spec if symbolic else layer)(*renew(args), **renew(kwargs)))
        return [renew(self.output(name)) for name in wanted]

    def _convolutions(self) -> list[str]:
        """Return the convolutions, in order, but for those of one pixel: Dense layers may be written as such."""
        convolutions = [name for name, call in self.calls.items() if isinstance(call.layer, CONVOLUTIONS)]
        return [name for name in convolutions if max(self.output(name).shape[1:3]) > 1]

    def first_convolutions(self) -> list[str]:
        """Return the first convolution at each size of maps above one pixel: in VGG16 that of each block."""
        sizes: dict[tuple[int, ...], str] = {}
        for name in self._convolutions():
            sizes.setdefault(tuple(self.output(name).shape[1:3]), name)
        return list(sizes.values())

    def find_maps(self, layer_name: str | None) -> str:
        """Return `layer_name` if its output is a stack of maps, or the last convolution if None.

        Raises BadInput, with the choices, where there is none.
        """
        maps = [n for n, call in self.calls.items() if ops.is_tensor(call.output) and len(call.output.shape) == 4]
        if layer_name in maps:
            return layer_name
        if layer_name is not None:
            raise BadInput(f"{self.model_name} has no layer {layer_name!r} with maps; choose from {', '.join(maps)}")
        if not (convolutions := self._convolutions()):
            raise BadInput(f"{self.model_name} has no convolution with maps: give layer_name, one of {', '.join(maps)}")
        return convolutions[-1]


def _without_activation(call: Call, activations: tuple[Any, ...]) -> Call:
    """Return the call without its layer's activation, if that is one of `activations`, or without a Softmax layer."""
    layer = call.layer
    if type(layer).__name__ in ("Softmax", "Sigmoid"):  # a layer, or an operation from keras.ops
        return call._replace(layer=lambda inputs, **_: inputs, output=call.args[0])
    if getattr(layer, "activation", None) not in activations:
        return call
    # A shallow copy has the layer's own variables and leaves the layer alone. `copy.copy` and `from_config` would make
    # variables of their own, which do not follow those of the model and use up random numbers.
    linear = object.__new__(type(layer))
    vars(linear).update(vars(layer) | {"activation": keras.activations.linear})
    return call._replace(layer=linear, output=ops.stop_gradient(linear(*call.args, **call.kwargs)))


def check_finite(array: np.ndarray, name: str) -> None:
    """Raise BadInput, with `name` and the count, where NaN or infinity is in the array."""
    if not np.isfinite(array).all():
        raise BadInput(f"{name} must be finite, got {np.sum(~np.isfinite(array))} of {array.size} NaN or infinite")


def to_array(tensor: Any) -> np.ndarray:
    """Return a tensor of the backend as a float32 array."""
    return np.asarray(ops.convert_to_numpy(tensor), np.float32)
