"""Timings of features and training steps beside the same model written in the backend itself, without Keras.

Run it once on each backend (KERAS_BACKEND). Two sides run in turn in one process on the same weights and pictures, in
memory and not augmented. The model is that of the rung `fine_tuned`, with random weights: the package's own base on
pictures of 48 x 48, or at full scale VGG16 on 150 x 150. The bare model is compiled where the backend compiles, and has
the backend's own optimizer.
"""

import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from convspec import backend, features, models, progress, training
from convspec.arithmetic import multiply_adds
from convspec.data.batches import Batches, rescale, stream
from convspec.ladder.recipe import Recipe
from convspec.plugin.session import Session

from .conftest import Side, find_recipe

PICTURES = {"mini": 200, "full": 40}
STEPS = {"mini": 20, "full": 4}  # of one fit, whose beginning and end cost as much in a run of thousands
if backend.accelerators():  # which are done with those before the tenth of a second that every call takes
    PICTURES["full"], STEPS["full"] = 1_000, 100
DECAY, EPSILON = 0.9, 1e-7  # Keras's, of RMSprop
Functions = tuple[Callable[[np.ndarray], Any], Callable[[np.ndarray, np.ndarray], Any]]  # features, a training step


@pytest.fixture(scope="module")
def recipe(convspec_session: Session) -> Recipe:
    return find_recipe("fine_tuned", convspec_session, own_base=True)


@pytest.fixture
def model(recipe: Recipe) -> keras.Model:
    """Return the rung's model, thawed and compiled."""
    keras.utils.set_random_seed(0)
    base = models.conv_base(str(recipe.base), None, (recipe.size, recipe.size, 3))
    model = models.end_to_end(base)
    models.thaw_from(base, str(recipe.thaw))
    training.compile_model(model, recipe.learning_rate)
    return model


@pytest.fixture(scope="module")
def batches(recipe: Recipe) -> Batches:
    count = PICTURES[recipe.scale]
    drawn = np.random.default_rng(0).integers(0, 256, (count, recipe.size, recipe.size, 3), np.uint8)
    return Batches(drawn, np.arange(count) % 2, recipe.batch_size, rescale)


class Bare:
    """Weights and layout of a model of convolutions, poolings and two dense layers."""

    def __init__(self, model: keras.Model, learning_rate: float) -> None:
        base, *head = model.layers[-4:]
        self.rate = learning_rate
        layers = [layer for layer in base.layers if not isinstance(layer, keras.layers.InputLayer)]
        self.pools = [isinstance(layer, keras.layers.MaxPooling2D) for layer in layers]
        weighted = [layer for layer in [*layers, *head] if layer.weights]
        weights = [weight for layer in weighted for weight in layer.weights]
        self.weights = [keras.ops.convert_to_numpy(weight) for weight in weights]
        self.first = 2 * [layer.trainable for layer in weighted].index(True)  # of the weights that are trained

    def pairs(self, weights: Any) -> list[tuple[Any, Any]]:
        return list(zip(weights[::2], weights[1::2], strict=True))


def bare_tensorflow(bare: Bare) -> Functions:
    import tensorflow as tf

    weights = [tf.Variable(weight) for weight in bare.weights]
    trained = weights[bare.first :]
    slots = [tf.Variable(tf.zeros_like(weight)) for weight in trained]

    def maps(x: Any) -> Any:
        pairs = iter(bare.pairs(weights))
        for pool in bare.pools:
            if pool:
                x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            else:
                kernel, bias = next(pairs)
                x = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "SAME"), bias))
        return x

    @tf.function
    def step(x: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            (hidden, offset), (last, end) = bare.pairs(weights)[-2:]
            x = tf.nn.relu(tf.reshape(maps(x), (x.shape[0], -1)) @ hidden + offset)
            logits = (x @ last + end)[:, 0]
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        for weight, slot, gradient in zip(trained, slots, tape.gradient(loss, trained), strict=True):
            slot.assign(DECAY * slot + (1 - DECAY) * gradient**2)
            weight.assign_sub(bare.rate * gradient / tf.sqrt(slot + EPSILON))
        return loss

    extract = tf.function(maps)
    return lambda x: extract(tf.convert_to_tensor(x)), lambda x, y: step(*map(tf.convert_to_tensor, (x, y)))


def bare_jax(bare: Bare) -> Functions:
    import jax
    from jax import lax, numpy

    weights = [numpy.asarray(weight) for weight in bare.weights]
    frozen, trained = weights[: bare.first], weights[bare.first :]
    state = {"trained": trained, "slots": [numpy.zeros_like(weight) for weight in trained]}

    def maps(weights: Any, x: Any) -> Any:
        pairs = iter(bare.pairs(weights))
        for pool in bare.pools:
            if pool:
                x = lax.reduce_window(x, -numpy.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
            else:
                kernel, bias = next(pairs)
                convolved = lax.conv_general_dilated(
                    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
                )
                x = jax.nn.relu(convolved + bias)
        return x

    def loss(trained: Any, x: Any, labels: Any) -> Any:
        weights = [*frozen, *trained]
        (hidden, offset), (last, end) = bare.pairs(weights)[-2:]
        x = jax.nn.relu(maps(weights, x).reshape(len(x), -1) @ hidden + offset)
        logits = (x @ last + end)[:, 0]
        return numpy.mean(jax.nn.softplus(logits) - labels * logits)

    def update(trained: Any, slots: Any, x: Any, labels: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(trained, x, labels)
        slots = [DECAY * slot + (1 - DECAY) * gradient**2 for slot, gradient in zip(slots, gradients, strict=True)]
        trained = [
            weight - bare.rate * gradient / numpy.sqrt(slot + EPSILON)
            for weight, gradient, slot in zip(trained, gradients, slots, strict=True)
        ]
        return value, trained, slots

    extract, compiled = jax.jit(maps), jax.jit(update, donate_argnums=(0, 1))

    def step(x: np.ndarray, labels: np.ndarray) -> Any:
        value, state["trained"], state["slots"] = compiled(state["trained"], state["slots"], x, labels)
        return value

    return lambda x: extract([*frozen, *state["trained"]], x), step


def bare_torch(bare: Bare) -> Functions:
    """Build both in PyTorch, with channels last in memory, as in Keras, and first in the order of axes."""
    import torch
    from torch.nn import functional

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights = [
        torch.tensor(weight.transpose(3, 2, 0, 1) if weight.ndim == 4 else weight, device=device)
        for weight in bare.weights
    ]
    trained = [weight.requires_grad_() for weight in weights[bare.first :]]
    optimizer = torch.optim.RMSprop(trained, lr=bare.rate, alpha=DECAY, eps=EPSILON)

    def maps(x: np.ndarray) -> Any:
        pairs, tensor = iter(bare.pairs(weights)), torch.from_numpy(x).to(device).permute(0, 3, 1, 2)
        for pool in bare.pools:
            if pool:
                tensor = functional.max_pool2d(tensor, 2)
            else:
                tensor = functional.relu(functional.conv2d(tensor, *next(pairs), padding="same"))
        return tensor.permute(0, 2, 3, 1)

    def step(x: np.ndarray, labels: np.ndarray) -> Any:
        (hidden, offset), (last, end) = bare.pairs(weights)[-2:]
        flat = functional.relu(maps(x).flatten(1) @ hidden + offset)
        logits = (flat @ last + end)[:, 0]
        loss = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(labels).to(device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return torch.no_grad()(maps), step


BARE = {"tensorflow": bare_tensorflow, "jax": bare_jax, "torch": bare_torch}


@pytest.fixture
def bare(model: keras.Model, recipe: Recipe) -> Functions:
    """Return two functions without Keras: a batch's features, and a training step that returns the loss."""
    return BARE[backend.BACKEND](Bare(model, recipe.learning_rate))


def test_recording_features_beside_the_bare_base(
    record: Callable[..., None], recipe: Recipe, model: keras.Model, batches: Batches, bare: Any, tmp_path: Path
) -> None:
    base = model.get_layer(str(recipe.base))
    prepared = [batches[number][0] for number in range(len(batches))]
    extract, _ = bare

    def ours() -> np.ndarray:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))  # recorded features are not computed again
        return features.extract(base, batches, folder, clock=progress.Clock())

    def theirs() -> list[np.ndarray]:
        return [np.asarray(keras.ops.convert_to_numpy(extract(batch))) for batch in prepared]

    np.testing.assert_allclose(np.concatenate(theirs()), ours(), rtol=1e-3, atol=1e-4)
    record(
        f"features on {backend.BACKEND}",
        Side("recorded", ours, len(batches.inputs)),
        Side(f"bare {backend.BACKEND}", theirs, len(batches.inputs)),
        pictures=len(batches.inputs),
        flop=2 * multiply_adds(base),
    )


@pytest.mark.parametrize("rival", ["bare", "Keras"])
def test_a_step_of_training_beside_the_bare_step(
    rival: str, record: Callable[..., None], recipe: Recipe, model: keras.Model, batches: Batches, bare: Any
) -> None:
    """The other rival is Keras's own `fit` on the same batches, without convspec's clock, history and threads."""
    steps = STEPS[recipe.scale]
    prepared = [
        (inputs, labels.astype(np.float32)) for inputs, labels in (batches[number] for number in range(len(batches)))
    ]
    _, step = bare

    def ours() -> None:
        training.fit(model, stream(batches, 0), 1, steps, None, clock=progress.Clock(), history={})

    around = cycle(prepared)
    if rival == "bare":
        theirs = Side(f"bare {backend.BACKEND}", lambda: float([step(*next(around)) for _ in range(steps)][-1]), steps)
        probabilities = model.predict(prepared[0][0], verbose=0)[:, 0]
        expected = -np.log(np.where(prepared[0][1] > 0, probabilities, 1 - probabilities)).mean()
        assert float(step(*prepared[0])) == pytest.approx(expected, rel=1e-4), "the same model, or nothing is compared"
    else:

        def fit() -> object:
            return model.fit((pair for pair in around), steps_per_epoch=steps, verbose=0, shuffle=False)

        theirs = Side("Keras alone", fit, steps)
    record(
        f"a step of training on {backend.BACKEND}",
        Side("convspec", ours, steps),
        theirs,
        pictures=steps * recipe.batch_size,
    )
