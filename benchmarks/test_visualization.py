"""Timings of section 5.4: filter patterns and class activation maps.

Patterns are compared with the machine's matrix product and with one by one, maps with a forward pass, and both with
tf-keras-vis where it is installed (the extra `compare`). Sides run in turn, as in test_transfer.py. Claims are made of
VGG16, at `--convspec-scale full`: at mini the base does so little arithmetic that compiling decides.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from convspec import backend, machine, models
from convspec.arithmetic import multiply_adds
from convspec.plugin.session import Session, skip_or_fail_on_bad_data
from convspec.visualization.maps import class_activation_maps
from convspec.visualization.patterns import filter_patterns

from .conftest import Side, find_recipe

LAYER = "block3_conv1"
PATTERN = 64  # pixels
PICTURES = 32
FILTERS = {"mini": 8, "full": 64}
STEPS = {"mini": 4, "full": 10}  # of the listing's 40, each like the others
RANGE = {"mini": (0.0, 1.0), "full": (-128.0, 127.0)}  # black and white in the inputs of the weights


@pytest.fixture
def base(convspec_session: Session) -> Callable[[int], keras.Model]:
    """Return a function that builds the scale's base with its weights for pictures of a size."""
    recipe = find_recipe("fine_tuned", convspec_session, own_base=True)

    def built(size: int) -> keras.Model:
        with skip_or_fail_on_bad_data(convspec_session.config):
            weights = convspec_session.weights(recipe)
            return models.conv_base(str(recipe.base), weights, (size, size, 3))

    return built


@pytest.fixture
def pictures(convspec_session: Session) -> np.ndarray:
    """Return noise in the shape of the fine-tuned rung's inputs."""
    size = find_recipe("fine_tuned", convspec_session, own_base=True).size
    return np.random.default_rng(0).random((PICTURES, size, size, 3), np.float32)


def patterns(base: keras.Model, scale: str, filters: int, batch: int) -> Callable[[], np.ndarray]:
    return lambda: filter_patterns(
        base, LAYER, range(filters), PATTERN, STEPS[scale], value_range=RANGE[scale], batch=batch
    )


def flop(base: keras.Model, scale: str) -> float:
    """Return the FLOP of one pattern: in each step the layers up to LAYER, and as much for the input's gradient."""
    cut = keras.Model(base.input, base.get_layer(LAYER).output)
    return 2 * 2 * multiply_adds(cut) * STEPS[scale]


def test_patterns_do_nearly_the_arithmetic_that_the_machine_can(
    record: Callable[..., None], convspec_session: Session, base: Callable[[int], keras.Model]
) -> None:
    """Compiling included; 0.6 of a matrix product is claimed of VGG16 on a CPU."""
    scale = convspec_session.scale
    model = base(PATTERN)
    count, each = FILTERS[scale], flop(model, scale)
    product, flop_of_product = machine.probes("float32")["matrix_product"]
    products = max(round(count * each / flop_of_product), 1)
    record(
        "filter patterns",
        Side(f"{count} patterns of {LAYER}", patterns(model, scale, count, 16), count * each),
        Side("matrix products", lambda: [product() for _ in range(products)], products * flop_of_product),
        pictures=count,
        flop=each,
        max_ratio={"full": 1 / 0.6}.get(scale),
    )


def test_patterns_sixteen_at_a_time_take_less_than_one_by_one(
    record: Callable[..., None], convspec_session: Session, base: Callable[[int], keras.Model]
) -> None:
    """Five times less is claimed of a GPU, which one pattern does not keep busy."""
    scale = convspec_session.scale
    model = base(PATTERN)
    record(
        "filter patterns",
        Side("sixteen at a time", patterns(model, scale, 16, 16), 16),
        Side("one by one", patterns(model, scale, 16, 1), 16),
        pictures=16,
        flop=flop(model, scale),
        max_ratio={"full": 1 / 5 if backend.accelerators() else 1.1}.get(scale),
    )


def test_class_activation_maps_cost_hardly_more_than_a_forward_pass(
    record: Callable[..., None], convspec_session: Session, base: Callable[[int], keras.Model], pictures: np.ndarray
) -> None:
    """Compiling included: only layers above the last convolution need a gradient."""
    model = models.end_to_end(base(pictures.shape[1]))
    record(
        f"class activation maps of {PICTURES} pictures",
        Side("class activation maps", lambda: class_activation_maps(model, pictures), PICTURES),
        Side("a forward pass", lambda: model.predict_on_batch(pictures), PICTURES),
        pictures=PICTURES,
        flop=2 * multiply_adds(model),
        max_ratio={"full": 1.15}.get(convspec_session.scale),
    )


def tf_keras_vis(name: str) -> Any:
    """Return a module of the package, which runs on TensorFlow only."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf-keras-vis needs Keras on TensorFlow: KERAS_BACKEND=tensorflow")
    return pytest.importorskip(f"tf_keras_vis.{name}", reason="needs tf-keras-vis: pip install -e '.[compare]'")


def test_class_activation_maps_beside_tf_keras_vis(
    record: Callable[..., None], convspec_session: Session, base: Callable[[int], keras.Model], pictures: np.ndarray
) -> None:
    """A flat model: tf-keras-vis cannot look into one that is nested in another."""
    gradcam = tf_keras_vis("gradcam")
    trunk = base(pictures.shape[1])
    outputs = layers.Dense(1, activation="sigmoid")(
        layers.Dense(256, activation="relu")(layers.Flatten()(trunk.output))
    )
    model = keras.Model(trunk.input, outputs)
    theirs = gradcam.Gradcam(model)
    record(
        f"class activation maps of {PICTURES} pictures",
        Side("convspec", lambda: class_activation_maps(model, pictures, 1), PICTURES),
        Side("tf-keras-vis", lambda: theirs(lambda output: output[:, 0], pictures, expand_cam=False), PICTURES),
        pictures=PICTURES,
        flop=2 * multiply_adds(model),
    )


def test_patterns_beside_tf_keras_vis(
    record: Callable[..., None], convspec_session: Session, base: Callable[[int], keras.Model]
) -> None:
    """The same steps on as many patterns at once, without the regularizers of tf-keras-vis, which cost time."""
    theirs = tf_keras_vis("activation_maximization")
    scale = convspec_session.scale
    model = base(PATTERN)
    cut = keras.Model(model.input, model.get_layer(LAYER).output)
    noise = np.random.default_rng(0).random((16, PATTERN, PATTERN, 3), np.float32)
    own = np.eye(cut.output_shape[-1], dtype=np.float32)[:16, None, None]

    def maximized() -> Any:
        return theirs.ActivationMaximization(cut)(
            lambda maps: maps * own,
            noise,
            input_range=RANGE[scale],
            input_modifiers=[],
            regularizers=[],
            steps=STEPS[scale],
            optimizer=keras.optimizers.RMSprop(1.0),
        )

    record(
        "filter patterns",
        Side("convspec", patterns(model, scale, 16, 16), 16),
        Side("tf-keras-vis", maximized, 16),
        pictures=16,
        flop=flop(model, scale),
    )
