"""The way of an image through a model, layer by layer, whatever is nested in it: kept, and gone again in part.

Models are Sequential or functional, with one input, channels last; a model nested in another is taken apart.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops, tree

from convspec import BadInput

CONVOLUTIONS = (layers.Conv2D, layers.Conv2DTranspose, layers.DepthwiseConv2D, layers.SeparableConv2D)
FINAL = (keras.activations.softmax, keras.activations.sigmoid)
INPUT, LOGITS = ":input", ":logits"


class Call(NamedTuple):
    """One call of a layer, or of an operation that is no layer, on tensors."""

    layer: Any
    args: tuple
    kwargs: dict[str, Any]
    output: Any


def input_shape(model: keras.Model) -> tuple[int | None, int | None, int]:
    """(height, width, channels); BadInput for a model that cannot be followed, or whose input is no image."""
    inputs: list = getattr(model, "inputs", None) or []
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise BadInput(f"model must be Sequential or functional, built, and take one image; {model.name} does not")
    return inputs[0].shape[1:]


class Trace:
    """What was called for one image, in order, and what each call gave.

    `calls` has the layers' names as keys; where layers share a name, or one is called again, "name:2" and so on. What
    goes in is INPUT, and LOGITS, where the model ends in one output, is what its last layer gives without a softmax or
    sigmoid. Raises BadInput for a model that cannot be followed.
    """

    def __init__(self, model: keras.Model, image: np.ndarray) -> None:
        self.model = model
        self.input = ops.convert_to_tensor(image[None])
        self.calls: dict[str, Call] = {}
        self._origin = {id(self.input): INPUT}
        output = self._through(model, self.input)
        name = self._origin.get(id(output))
        self._ends: dict[str, Call] = {}
        if name not in (None, INPUT):
            self._ends[LOGITS] = self._without_activation(self.calls[name], FINAL)

    def _through(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            (output,) = args
            for inner in layer.layers:
                output = self._through(inner, output)
            return output
        if isinstance(layer, keras.Function):
            output = layer._run_through_graph(args[0], operation_fn=lambda inner: partial(self._through, inner))
            return leaves[0] if len(leaves := tree.flatten(output)) == 1 else output
        if isinstance(layer, keras.Layer) and "training" in inspect.signature(layer.call).parameters:
            kwargs["training"] = False
        # A tensor of its own, even where the layer hands on its input; and in PyTorch, no memory for a gradient.
        output = tree.map_structure(ops.stop_gradient, layer(*args, **kwargs))
        count = sum(name.partition(":")[0] == layer.name for name in self.calls)
        name = f"{layer.name}:{count + 1}" if count else layer.name
        self.calls[name] = Call(layer, args, kwargs, output)
        self._origin.update((id(leaf), name) for leaf in tree.flatten(output))
        return output

    @staticmethod
    def _without_activation(call: Call, activations: tuple[Any, ...]) -> Call:
        """The call without the softmax or sigmoid that it is, or the one of `activations` in which its layer ends."""
        layer = call.layer
        if type(layer).__name__ in ("Softmax", "Sigmoid"):  # a layer, or an operation out of keras.ops
            return call._replace(layer=lambda x, **_: x, output=call.args[0])
        if getattr(layer, "activation", None) not in activations:
            return call

        def linear(*args: Any, **kwargs: Any) -> Any:  # the layer itself, as a copy would draw its weights first
            activation, layer.activation = layer.activation, keras.activations.linear
            try:
                return layer(*args, **kwargs)
            finally:
                layer.activation = activation

        return call._replace(layer=linear, output=ops.stop_gradient(linear(*call.args, **call.kwargs)))

    def before_relu(self, name: str) -> str:
        """A name for what the call gives without the ReLU in which its layer ends; `name` itself where there is none.

        Where a ReLU gives 0 everywhere no gradient says which way is up; what it is given has one.
        """
        if getattr(self.calls[name].layer, "activation", None) is not keras.activations.relu:
            return name
        self._ends[f"{name}:linear"] = self._without_activation(self.calls[name], (keras.activations.relu,))
        return f"{name}:linear"

    def _call(self, name: str) -> Call:
        if name in self.calls or name in self._ends:
            return self._ends.get(name) or self.calls[name]
        raise BadInput(f"model must end in one output of a layer, {self.model.name} does not")

    def _sources(self, name: str) -> Iterator[str]:
        """The calls whose outputs the call was given, and INPUT."""
        call = self._call(name)
        for leaf in tree.flatten((call.args, call.kwargs)):
            if id(leaf) in self._origin:
                yield self._origin[id(leaf)]

    def _way(self, to: Sequence[str], given: Sequence[str]) -> list[str]:
        """The calls between those `given` and those to come `to`, in order: what depends on the ones, and the others
        on it.
        """
        needed, found = list(to), set(given)
        while needed:
            if (name := needed.pop()) not in found and name != INPUT:
                found.add(name)
                needed += self._sources(name)
        way: list[str] = []
        for name in (*self.calls, *self._ends):
            if name in found and name not in given and any(n in given or n in way for n in self._sources(name)):
                way.append(name)
        return way

    def output(self, name: str) -> Any:
        """What the call gave for the image; or INPUT, the image itself, as a batch of one."""
        return self.input if name == INPUT else self._call(name).output

    def replay(self, given: Mapping[str, Any], *wanted: str) -> list[Any]:
        """What the calls `wanted` give where others, or INPUT, give what is `given`: calls on the way between them are
        made again, and no others. With KerasTensors given they are KerasTensors: shapes alone are worked out.
        """
        new: dict[int, Any] = {}

        def renew(name: str, output: Any) -> None:
            leaves = zip(tree.flatten(self.output(name)), tree.flatten(output), strict=True)
            new.update((id(old), leaf) for old, leaf in leaves)

        def renewed(structure: Any) -> Any:
            return tree.map_structure(lambda leaf: new.get(id(leaf), leaf), structure)

        shapes_alone = any(isinstance(leaf, keras.KerasTensor) for leaf in tree.flatten(dict(given)))
        for name, output in given.items():
            renew(name, output)
        for name in self._way(wanted, list(given)):
            layer, args, kwargs, _ = self._call(name)
            renew(name, (layer.compute_output_spec if shapes_alone else layer)(*renewed(args), **renewed(kwargs)))
        return [renewed(self.output(name)) for name in wanted]

    def beside(self, name: str, until: str) -> list[str]:
        """What `until` depends on beside the call `name`: calls from before it whose outputs go around it."""
        way = self._way([until], [name])
        return list(dict.fromkeys(s for n in way for s in self._sources(n) if s not in way and s != name))

    def maps(self, layer_name: str | None) -> str:
        """The name of a call whose output is a stack of maps: `layer_name`, or the last convolution if None.

        Raises BadInput, with the choices, where there is none of that name, or no convolution.
        """
        found = {n: c for n, c in self.calls.items() if ops.is_tensor(c.output) and len(c.output.shape) == 4}
        if layer_name is None:
            # Dense layers may be written as convolutions of maps of one pixel, which have nowhere to point at.
            wide = [name for name, call in found.items() if max(call.output.shape[1:3]) > 1]
            layer_name = next((n for n in reversed(wide) if isinstance(found[n].layer, CONVOLUTIONS)), None)
            if layer_name is None:
                raise BadInput(
                    f"{self.model.name} has no convolution with maps: give layer_name, one of {', '.join(found)}"
                )
        if layer_name not in found:
            raise BadInput(f"{self.model.name} has no layer {layer_name!r} with maps; choose from {', '.join(found)}")
        return layer_name


ANY_SIZE = 224  # pixels a side, of which every base of the chapter's leaves some in its last layer


def check_finite(array: np.ndarray, name: str) -> None:
    if not np.isfinite(array).all():
        raise BadInput(f"{name} must be finite, got {np.sum(~np.isfinite(array))} of {array.size} NaN or infinite")


def to_array(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor), np.float32)
