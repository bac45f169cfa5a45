"""Batches of pictures, prepared, augmented and streamed in an order that the seed fixes."""

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import keras
import numpy as np

from convspec import backend
from convspec.data.augmentation import Augmentation

Prepare = Callable[[np.ndarray], np.ndarray]
BatchStream = Generator[tuple[np.ndarray, np.ndarray], None, None]  # inputs and labels, without end


def rescale(images: np.ndarray) -> np.ndarray:
    """Scale 0..255 to 0..1 (section 5.2.4)."""
    return np.divide(images, np.float32(255), dtype=np.float32)


def identity(inputs: np.ndarray) -> np.ndarray:
    """Return inputs that need no preparation, such as cached features."""
    return inputs


def _prepare(pictures: np.ndarray, prepare: Prepare) -> np.ndarray:
    # Two copies in float32 would take longer than the division.
    return prepare(pictures if prepare is rescale else pictures.astype(np.float32))


class Batches(keras.utils.PyDataset):
    """All inputs once, in order and never augmented, for evaluation and feature extraction."""

    view: object = None

    def __init__(self, inputs: np.ndarray, labels: np.ndarray, batch_size: int, prepare: Prepare) -> None:
        super().__init__()
        self.inputs, self.batch_size, self.prepare = inputs, batch_size, prepare
        self.labels = labels.astype(np.int32)  # JAX has no other integers, and since 0.11 warns

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        return _prepare(self.inputs[chosen], self.prepare), self.labels[chosen]


def picture_rng(seed: int, number: int, index: int) -> np.random.Generator:
    """Return the generator that augments picture `index` in pass `number` of training with `seed`."""
    return np.random.default_rng([seed, number, index])


class View(Batches):
    """The same pictures in the same order, each augmented as in pass `number` of training with `seed`."""

    def __init__(self, batches: Batches, augmentation: Augmentation, seed: int, number: int) -> None:
        super().__init__(batches.inputs, batches.labels, batches.batch_size, batches.prepare)
        self.augmentation, self.seed, self.number = self.view = augmentation, seed, number

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = range(len(self.inputs))[batch * self.batch_size : (batch + 1) * self.batch_size]
        views = np.stack(
            [self.augmentation(self.inputs[index], picture_rng(self.seed, self.number, index)) for index in chosen]
        )
        return _prepare(views, self.prepare), self.labels[chosen.start : chosen.stop]


def stream(
    batches: Batches | Sequence[Batches],
    seed: int,
    augmentation: Augmentation | None = None,
    start: int = 0,
    threads: int | None = None,
) -> BatchStream:
    """Yield training batches without end, each pass over the inputs in an order of its own (listings 5.7 and 5.14).

    Orders and transforms depend on the seed and the position alone.

    Args:
        batches: Inputs, labels, batch size and preparation. Of several, views of the same pictures, each pass shows
            the next.
        seed: Fixes the order of each pass and the transform of each picture in it.
        augmentation: Transform of each picture; None for none.
        start: First batch to yield, so that a stream can be continued.
        threads: Threads that prepare batches ahead; None for half the cores, as training keeps the others busy.
    """
    sources: list[Batches] = [batches] if isinstance(batches, Batches) else list(batches)
    labels, size, prepare = sources[0].labels, sources[0].batch_size, sources[0].prepare
    count = len(labels)

    @lru_cache(maxsize=4)
    def order(number: int) -> np.ndarray:
        return np.random.default_rng([seed, number]).permutation(count)

    def prepare_batch(batch: int) -> tuple[np.ndarray, np.ndarray]:
        views, chosen = [], []
        for number, within in (divmod(batch * size + slot, count) for slot in range(size)):
            index = order(number)[within]
            picture = sources[number % len(sources)].inputs[index]
            views.append(augmentation(picture, picture_rng(seed, number, index)) if augmentation else picture)
            chosen.append(index)
        return _prepare(np.stack(views), prepare), labels[chosen]

    threads = threads or max(backend.cores() // 2, 1)
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future] = deque()
        try:
            while True:
                while len(ahead) <= threads:
                    ahead.append(pool.submit(prepare_batch, start))
                    start += 1
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
