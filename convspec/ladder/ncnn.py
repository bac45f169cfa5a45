"""Compute a frozen base with ncnn, on a CPU faster than Keras; needs the extra "ncnn".

Its convolutions with 3 x 3 kernels are Winograd's (Lavin and Gray, arXiv:1509.09308), in float32.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import keras
import numpy as np

from convspec import BadInput, backend, features

try:
    import ncnn
except ImportError as error:
    raise BadInput('ncnn is not installed: pip install "convspec[ncnn]"') from error

TOLERANCE = 1e-5  # of the largest feature; two ways to add up float32 differ by about 1.5e-6


class Network:
    """A chain of convolutions and max poolings such as VGG16's, computed by ncnn, a picture in each thread.

    Has the name and the `predict_on_batch` of the Keras model that it stands in for, such a chain or a linear probe's
    trunk. Raises BadInput for a model with other layers or another precision.
    """

    def __init__(self, trunk: keras.Model) -> None:
        base, self._pool = trunk, None
        if isinstance(trunk.layers[1], keras.Model):  # of a linear probe, which pools the base's maps
            base, self._pool = trunk.layers[1], keras.Model(trunk.layers[2].input, trunk.output)
        layers = check(base)
        names = [layer.name for layer in base.layers]
        lines = [f"Input {names[0]} 0 1 {names[0]}"]
        for source, name, layer in zip(names, names[1:], layers, strict=False):
            lines.append(f"{layer.kind} {name} 1 1 {source} {name} {layer.settings}")
        self.name, self._input, self._output = trunk.name, names[0], names[-1]
        self._net = ncnn.Net()
        options = self._net.opt
        options.use_fp16_packed = options.use_fp16_storage = options.use_fp16_arithmetic = False
        options.use_bf16_storage = False
        options.num_threads = 1  # a picture a thread: several on one wait for each other, long on a busy machine
        self._threads = ThreadPoolExecutor(backend.cores())
        with TemporaryDirectory() as folder:
            param, model = Path(folder, "base.param"), Path(folder, "base.bin")
            param.write_text("\n".join(["7767517", f"{len(lines)} {len(lines)}", *lines, ""]))
            weights = [weight for layer in layers for weight in layer.weights]
            model.write_bytes(b"".join(np.ascontiguousarray(weight, "<f4").tobytes() for weight in weights))
            if self._net.load_param(str(param)) or self._net.load_model(str(model)):
                raise BadInput(f"ncnn {ncnn.__version__} does not read {base.name}: leave --convspec-engine out")
        self._compare_with(trunk)

    def predict_on_batch(self, inputs: np.ndarray) -> np.ndarray:
        """Return the output for pictures (n, height, width, channels), as the Keras model does."""
        maps = np.ascontiguousarray(list(self._threads.map(self._compute, np.asarray(inputs, np.float32))))
        return keras.ops.convert_to_numpy(self._pool.predict_on_batch(maps)) if self._pool else maps

    def _compute(self, picture: np.ndarray) -> np.ndarray:
        pixels = np.ascontiguousarray(picture.transpose(2, 0, 1))
        extractor = self._net.create_extractor()
        extractor.input(self._input, ncnn.Mat(pixels))
        failed, output = extractor.extract(self._output)
        assert not failed, f"ncnn could not compute {self.name}: {failed}"
        return np.array(output).transpose(1, 2, 0)

    def _compare_with(self, base: keras.Model) -> None:
        drawn = np.random.default_rng(0).random((1, *base.input_shape[1:]), np.float32)
        expected = keras.ops.convert_to_numpy(base.predict_on_batch(drawn))
        difference, largest = np.abs(self.predict_on_batch(drawn) - expected).max(), np.abs(expected).max()
        if not difference <= TOLERANCE * largest:
            raise BadInput(
                f"ncnn {ncnn.__version__} computes {base.name} otherwise than Keras does: features differ by"
                f" {difference:.1e}, the largest is {largest:.1e}; leave --convspec-engine out"
            )


def check(base: keras.Model) -> list["_Layer"]:
    """Return the base's layers as ncnn has them, without the input; BadInput for one that it is not given."""
    return [_convert(layer, base.name) for layer in base.layers[1:]]


class _Layer(NamedTuple):
    kind: str
    settings: str  # by number
    weights: tuple[np.ndarray, ...] = ()  # before them a 0, for float32


def _convert(layer: keras.Layer, base: str) -> _Layer:
    settings, plain = layer.get_config(), layer.compute_dtype == "float32"
    if type(layer) is keras.layers.MaxPooling2D and plain and settings["padding"] == "valid":
        (height, width), (down, right) = layer.pool_size, layer.strides
        return _Layer("Pooling", f"0=0 1={width} 11={height} 2={right} 12={down} 5=1")
    if type(layer) is keras.layers.Conv2D and plain and settings["activation"] == "relu" and layer.use_bias:
        height, width, _, filters = layer.kernel.shape
        odd = height % 2 == width % 2 == 1
        if layer.strides == layer.dilation_rate == (1, 1) and layer.groups == 1 and odd:
            kernel, bias = layer.get_weights()
            rows, columns = (height // 2, width // 2) if settings["padding"] == "same" else (0, 0)
            numbers = f"0={filters} 1={width} 11={height} 4={columns} 14={rows} 5=1 6={kernel.size} 9=1"
            return _Layer("Convolution", numbers, (np.zeros(1), kernel.transpose(3, 2, 0, 1), bias))
    raise BadInput(
        "--convspec-engine ncnn computes chains of Conv2D with ReLU and MaxPooling2D in float32, such as vgg16, vgg19"
        f" and mini; {base} has {layer.name!r}, a {type(layer).__name__} in {layer.compute_dtype}: leave the option out"
    )


ENGINE = features.Engine(
    lambda base, batches, first: features.predict_batches(Network(base), batches, first),
    lambda trunk, batches: features.stream_through(Network(trunk), batches),
    (("ncnn", ncnn.__version__),),
    mixed=False,
    name="ncnn",
)
