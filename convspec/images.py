"""Pictures from files, and batches of them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path
from typing import TextIO

import keras
import numpy as np
from PIL import Image

from convspec import BadInput
from convspec.augmentation import Augmentation
from convspec.progress import bar as progress_bar

Prepare = Callable[[np.ndarray], np.ndarray]


class UnreadableImage(BadInput):
    """A file that cannot be decoded as a picture."""


def load_image(path: Path | str, size: int | None = None) -> np.ndarray:
    """Decode `path` as RGB, uint8 (height, width, 3), resized to size x size by the nearest pixel.

    Equals `keras.utils.load_img(path, target_size=(size, size))`, which the chapter uses (listings 5.7 and 5.12).
    Raises UnreadableImage, naming the file, for anything that is not a whole picture.
    """
    try:
        with Image.open(path) as picture:
            rgb = picture.convert("RGB")
            return np.asarray(rgb if size is None else rgb.resize((size, size), Image.Resampling.NEAREST))
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnreadableImage(f"{str(path)!r} is not a readable picture: {error}") from error


def load_images(paths: Sequence[Path], size: int, progress: TextIO | None = None) -> tuple[np.ndarray, dict[int, str]]:
    """Decode many files on all cores: uint8 (n, size, size, 3), and for each position left black, the reason."""
    images = np.zeros((len(paths), size, size, 3), np.uint8)
    failures: dict[int, str] = {}

    def decode(position: int) -> None:
        try:
            images[position] = load_image(paths[position], size)
        except UnreadableImage as error:
            failures[position] = str(error)

    with ThreadPoolExecutor(cpu_count()) as pool, progress_bar(len(paths), "reading pictures", "file", progress) as bar:
        for _ in pool.map(decode, range(len(paths))):
            bar.update()
    return images, dict(sorted(failures.items()))


def rescale(images: np.ndarray) -> np.ndarray:
    """0..255 to 0..1 (section 5.2.4)."""
    return images / np.float32(255)


def unchanged(inputs: np.ndarray) -> np.ndarray:
    """For inputs that are prepared already: recorded features."""
    return inputs


class Batches(keras.utils.PyDataset):
    """All inputs once, in order, never augmented: for evaluation and for the base's features."""

    def __init__(self, inputs: np.ndarray, labels: np.ndarray, batch_size: int, prepare: Prepare) -> None:
        super().__init__()
        self.inputs, self.labels, self.batch_size, self.prepare = inputs, labels, batch_size, prepare

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch_size)

    def __getitem__(self, batch: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = slice(batch * self.batch_size, (batch + 1) * self.batch_size)
        return self.prepare(self.inputs[chosen].astype(np.float32)), self.labels[chosen]


def stream(
    batches: Batches, seed: int, augmentation: Augmentation | None = None, start: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Training batches of `batches`' inputs without end, from batch `start` on (listings 5.7 and 5.14).

    Each pass over the inputs has its own order, and each picture in each pass its own transform; both depend
    on the seed and the position alone, so a stream that starts later continues the same sequence.
    """
    count, position = len(batches.inputs), start * batches.batch_size
    current, order = -1, np.arange(count)
    while True:
        batch, chosen = [], []
        for number, within in (divmod(position + slot, count) for slot in range(batches.batch_size)):
            if number != current:
                current, order = number, np.random.default_rng([seed, number]).permutation(count)
            index = order[within]
            image = batches.inputs[index]
            if augmentation is not None:
                image = augmentation(image, np.random.default_rng([seed, number, index]))
            batch.append(image)
            chosen.append(index)
        yield batches.prepare(np.stack(batch).astype(np.float32)), batches.labels[chosen]
        position += batches.batch_size
