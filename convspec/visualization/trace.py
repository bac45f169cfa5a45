"""Record a forward pass call by call; replay parts of it.

Models are Sequential or functional, with one input, channels last; nested models are followed layer by layer.
"""

import inspect
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import partial, reduce
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree

from convspec import BadInput

CONVOLUTIONS = (layers.Conv2D, layers.Conv2DTranspose, layers.DepthwiseConv2D, layers.SeparableConv2D)
SCORING = (keras.activations.softmax, keras.activations.sigmoid, ops.softmax, ops.sigmoid)
RELUS = (keras.activations.relu, keras.activations.relu6, ops.relu, ops.relu6)
# Layers, and operations from keras.ops, that may stand behind a softmax and leave its values as they are.
_RESHAPING = ("Activation", "Cast", "Flatten", "Identity", "Reshape", "Squeeze")
DEFAULT_SIDE = 224  # pixels, for models that take any size: all bases of the package have maps left in their last layer


def input_shape(model: keras.Model) -> tuple[int | None, int | None, int]:
    """Return (height, width, channels); BadInput for a model that can't be followed or takes no picture."""
    inputs: list = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or not _is_graph(model):
        raise BadInput(f"model must be Sequential or functional, built, and take one image; {model.name} does not")
    return inputs[0].shape[1:]


def _is_graph(layer: Any) -> bool:
    """Return whether a call runs a graph of layers and nothing else; a `call` of its own might do more."""
    return isinstance(layer, keras.Function | keras.Sequential) and type(layer).call.__module__.startswith("keras.")


class _EndReached(Exception):
    """Ends a replay at the call that is asked for."""


class Trace:
    """Recorded forward pass of one picture, (height, width, channels); dropout and augmentation are off.

    `layers` and `outputs`, of a batch of one, are by name and in order; a name that occurs again becomes "name:2" and
    so on. Operations from keras.ops are there like layers.
    """

    def __init__(self, model: keras.Model, image: np.ndarray) -> None:
        if any(getattr(layer, "data_format", None) == "channels_first" for layer in model._flatten_layers()):
            raise BadInput(f"{model.name} has layers with channels first: build it with data_format='channels_last'")
        self.model_name = model.name
        self.layers: dict[str, Any] = {}
        self.end: str | None = None  # the call whose output is that of the model, but for shape and dtype
        self._sources: dict[str, str] = {}  # of each call that only reshapes: the one whose output it takes
        self._graph = keras.Function(model.inputs, model.outputs)  # unlike the model, may be kept beside it
        self.inputs = ops.convert_to_tensor(image[None])
        recorded = self.replay(self.inputs)
        self.outputs = {name: tree.map_structure(ops.stop_gradient, output) for name, output in recorded.items()}

    def replay(
        self, inputs: Any, end: str | None = None, known: Mapping[str, Any] | None = None, without: tuple[Any, ...] = ()
    ) -> dict[str, Any]:
        """Run other pictures through the model.

        Args:
            inputs: (n, height, width, channels); a KerasTensor computes only shapes.
            end: The last call to make; None for all.
            known: Outputs of calls that are not made again.
            without: Activations that the layer of `end` leaves out.

        Returns:
            The outputs by name, the known ones first.
        """
        outputs = dict(known or {})
        counts: Counter[str] = Counter()

        def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if _is_graph(layer):
                output = args[0] if args else kwargs["inputs"]
                if isinstance(layer, keras.Sequential):
                    return reduce(lambda before, inner: call(inner, before), layer.layers, output)
                # Private: the public ways through a graph end at a nested model (`layer.output`) or build another one
                # (`clone_model`).
                output = layer._run_through_graph(output, operation_fn=lambda inner: partial(call, inner))
                return leaves[0] if len(leaves := tree.flatten(output)) == 1 else output
            counts[layer.name] += 1
            name = layer.name if counts[layer.name] == 1 else f"{layer.name}:{counts[layer.name]}"
            self.layers.setdefault(name, layer)
            if name not in outputs:
                if isinstance(layer, keras.Layer) and "training" in inspect.signature(layer.call).parameters:
                    kwargs["training"] = False
                made = _without_activation(layer, without) if name == end else layer
                made = made.compute_output_spec if isinstance(inputs, keras.KerasTensor) else made
                if args and _reshapes(layer) and (sources := [n for n in outputs if outputs[n] is args[0]]):
                    self._sources[name] = sources[0]
                outputs[name] = made(*args, **kwargs)
            if name == end:
                raise _EndReached
            return outputs[name]

        with suppress(_EndReached):
            result = call(self._graph, inputs)
            self._shape = getattr(result, "shape", ())[1:]
            self.end = scoring = next((name for name, output in outputs.items() if output is result), None)
            while scoring in self._sources:
                scoring = self._sources[scoring]
            if scoring and _without_activation(layer := self.layers[scoring], SCORING) is not layer:
                self.end = scoring
        return outputs

    def logits(self, inputs: Any, known: Mapping[str, Any] | None = None, without: tuple[Any, ...] = SCORING) -> Any:
        """Return the model's output before a final softmax or sigmoid; `known` and `without` as for `replay`."""
        if (end := self.end) is None:
            raise BadInput(f"model must end in one output of a layer, {self.model_name} does not")
        known = {name: output for name, output in (known or {}).items() if name != end}
        return ops.reshape(self.replay(inputs, end, known, without)[end], (-1, *self._shape))

    def _convolutions(self) -> list[str]:
        """Return the convolutions, in order, but for those of one pixel: Dense layers may be written as such."""
        convolutions = [name for name, layer in self.layers.items() if isinstance(layer, CONVOLUTIONS)]
        return [name for name in convolutions if max(self.outputs[name].shape[1:3]) > 1]

    def first_convolutions(self) -> list[str]:
        """Return the first convolution at each size of maps above one pixel: in VGG16 that of each block."""
        sizes: dict[tuple[int, ...], str] = {}
        for name in self._convolutions():
            sizes.setdefault(tuple(self.outputs[name].shape[1:3]), name)
        return list(sizes.values())

    def find_maps(self, layer_name: str | None) -> str:
        """Return `layer_name` if its output is a stack of maps, or the last convolution if None.

        Raises BadInput, with the choices, where there is none.
        """
        maps = [n for n, output in self.outputs.items() if ops.is_tensor(output) and len(output.shape) == 4]
        if layer_name in maps:
            return layer_name
        if layer_name is not None:
            raise BadInput(f"{self.model_name} has no layer {layer_name!r} with maps; choose from {', '.join(maps)}")
        if not (convolutions := self._convolutions()):
            others = f": give layer_name, one of {', '.join(maps)}" if maps else ", nor any other layer"
            raise BadInput(f"{self.model_name} has no convolution with maps{others}")
        return convolutions[-1]


def _reshapes(layer: Any) -> bool:
    """Return whether the layer leaves the values that it takes as they are, but for their shape and dtype."""
    linear = keras.activations.linear
    return type(layer).__name__ in _RESHAPING and getattr(layer, "activation", linear) is linear


def activation_of(layer: Any) -> Any:
    """Return the activation that a layer or an operation from keras.ops has or is; None for neither."""
    if isinstance(layer, layers.ReLU):
        return None if layer.negative_slope or layer.threshold else {None: ops.relu, 6: ops.relu6}.get(layer.max_value)
    own = {"Softmax": ops.softmax, "Sigmoid": ops.sigmoid, "Relu": ops.relu, "Relu6": ops.relu6}
    return own.get(type(layer).__name__) or getattr(layer, "activation", None)


def _without_activation(layer: Any, activations: tuple[Any, ...]) -> Any:
    """Return the layer without its activation, if that is one of `activations`."""
    if activation_of(layer) not in activations:
        return layer
    if not hasattr(layer, "activation"):
        return lambda inputs, **_: inputs
    # A shallow copy has the layer's own variables and leaves the layer alone. `copy.copy` and `from_config` would make
    # variables of their own, which do not follow those of the model and use up random numbers.
    linear = object.__new__(type(layer))
    vars(linear).update(vars(layer) | {"activation": keras.activations.linear})
    return linear


def check_finite(array: np.ndarray, name: str) -> None:
    """Raise BadInput, with `name` and the count, where NaN or infinity is in the array."""
    if not np.isfinite(array).all():
        raise BadInput(f"{name} must be finite, got {np.sum(~np.isfinite(array))} of {array.size} NaN or infinite")


def to_array(tensor: Any) -> np.ndarray:
    """Return a tensor of the backend as a float32 array."""
    return np.asarray(ops.convert_to_numpy(tensor), np.float32)
