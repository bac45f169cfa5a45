"""Batches of pictures: prepared, augmented and streamed in an order that the seed fixes."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache

import keras
import numpy as np

from convspec.data.augmentation import Augmentation

Prepare = Callable[[np.ndarray], np.ndarray]


def rescale(images: np.ndarray) -> np.ndarray:
    """0..255 to 0..1 (section 5.2.4)."""
    return images / np.float32(255)


def identity(inputs: np.ndarray) -> np.ndarray:
    """For inputs that are prepared already: recorded features."""
    return inputs


class Batches(keras.utils.PyDataset):
    """All inputs once, in order, never augmented: for evaluation and for the base's features."""

    view: object = None

    def __init__(self, inputs: np.ndarray, labels: np.ndarray, batch_size: int, prepare: Prepare) -> None:
        super().__init__()
        self.inputs, self.labels, self.batch_size, self.prepare = inputs, labels, batch_size, prepare

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        return self.prepare(self.inputs[chosen].astype(np.float32)), self.labels[chosen]


def picture_rng(seed: int, number: int, index: int) -> np.random.Generator:
    """What decides how picture `index` is augmented in pass `number` of training with `seed`."""
    return np.random.default_rng([seed, number, index])


class View(Batches):
    """The same pictures in the same order, each as training with `seed` shows it in pass `number`."""

    def __init__(self, batches: Batches, augmentation: Augmentation, seed: int, number: int) -> None:
        super().__init__(batches.inputs, batches.labels, batches.batch_size, batches.prepare)
        self.augmentation, self.seed, self.number = self.view = augmentation, seed, number

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = range(len(self.inputs))[batch * self.batch_size : (batch + 1) * self.batch_size]
        drawn = [(self.inputs[index], picture_rng(self.seed, self.number, index)) for index in chosen]
        views = np.stack([self.augmentation(image, draw) for image, draw in drawn])
        return self.prepare(views.astype(np.float32)), self.labels[chosen.start : chosen.stop]


def stream(
    batches: Batches | Sequence[Batches],
    seed: int,
    augmentation: Augmentation | None = None,
    start: int = 0,
    threads: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Training batches of `batches`' inputs without end, from batch `start` on (listings 5.7 and 5.14).

    Each pass over the inputs has its own order, and each picture in each pass its own transform; both depend
    on the seed and the position alone, so a stream that starts later continues the same sequence, and any number of
    `threads` (None: one a core), which prepare batches ahead, gives the same batches. Of several `batches`, views of
    the same pictures, each pass shows the next.
    """
    sources: list[Batches] = [batches] if isinstance(batches, Batches) else list(batches)
    labels, size, prepare = sources[0].labels, sources[0].batch_size, sources[0].prepare
    count = len(labels)

    @lru_cache(maxsize=4)
    def order(number: int) -> np.ndarray:
        return np.random.default_rng([seed, number]).permutation(count)

    def prepared(batch: int) -> tuple[np.ndarray, np.ndarray]:
        views, chosen = [], []
        for number, within in (divmod(batch * size + slot, count) for slot in range(size)):
            index = order(number)[within]
            image = sources[number % len(sources)].inputs[index]
            if augmentation is not None:
                image = augmentation(image, picture_rng(seed, number, index))
            views.append(image)
            chosen.append(index)
        return prepare(np.stack(views).astype(np.float32)), labels[chosen]

    threads = threads or os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        ahead: deque[Future] = deque()
        try:
            while True:
                while len(ahead) <= threads:
                    ahead.append(pool.submit(prepared, start))
                    start += 1
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
