"""Near copies: pictures that show the same, re-encoded, cropped, brightened, mirrored or moments apart."""

import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import cv2
import numpy as np
from PIL import Image
from scipy.cluster.hierarchy import DisjointSet
from scipy.fft import dctn

from convspec.data import decode
from convspec.data.appearance import DAMAGED
from convspec.data.folders import Copies, Pair
from convspec.progress import bar

SIDE = 32  # pixels of the thumbnails that are compared
FREQUENCIES = 8  # of them in each direction: what is compared first, each picture with each
BLOCK = 64  # pictures compared with all at once; more would take memory where all are alike
MAX_NEIGHBOURS = 5  # of each picture that are looked at closely; further copies are reached through them
MIN_CONTRAST = 4.0  # grey levels; pictures of a plain colour are no copies, nor are those of less than SIDE pixels
# Correlations that make a near copy, set on 200 photographs cropped, re-encoded and brightened, among 4,000 others: of
# the low frequencies, of the thumbnails laid upon one another, and of their detail.
ALIKE, ALIGNED, DETAILED = 0.85, 0.94, 0.77
_STEPS = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 1e-3)


def find_copies(paths: Sequence[Path], progress: TextIO | None = None, truncated: decode.Truncated = "skip") -> Copies:
    """Compare each picture with each other one, as thumbnails, and return those that are near copies."""
    loaded = decode.load_images(paths, SIDE, "area", truncated=truncated, progress=progress)
    thumbnails, failures, incomplete = loaded
    grey = cv2.cvtColor(thumbnails.reshape(-1, SIDE, 3), cv2.COLOR_RGB2GRAY).reshape(-1, SIDE, SIDE)
    with warnings.catch_warnings(action="ignore"):
        grey[[place in failures or _is_small(path) for place, path in enumerate(paths)]] = 0
    pairs: list[Pair] = []
    groups = DisjointSet(range(len(paths)))
    with (
        ThreadPoolExecutor(decode.cores()) as pool,
        bar(len(paths), "looking for near copies", "picture", progress) as shown,
    ):
        for candidates in _candidates(grey):
            unlinked = [pair for pair in candidates if not groups.connected(pair.first, pair.second)]
            verdicts = pool.map(lambda pair: _is_copy(grey[pair.first], grey[pair.second], pair.mirrored), unlinked)
            for pair, same in zip(unlinked, verdicts, strict=True):
                if same and groups.merge(pair.first, pair.second):
                    pairs.append(pair)
            shown.update(min(BLOCK, len(paths) - shown.n))
    return Copies(tuple(sorted(pairs)), failures, incomplete)


def _is_small(path: Path) -> bool:
    with suppress(*DAMAGED), Image.open(path) as picture:  # of a picture read in part the size may not be told
        return min(picture.size) < SIDE
    return False


def _candidates(grey: np.ndarray) -> Iterator[list[Pair]]:
    """Yield pairs whose low frequencies are alike, the likeliest of a block first."""
    count = len(grey)
    frequencies = np.zeros((count, FREQUENCIES**2), np.float32)  # of plain pictures: like nothing
    for start in range(0, count, BLOCK):
        block = grey[start : start + BLOCK].astype(np.float32)
        low = dctn(block, axes=(1, 2), norm="ortho")[:, :FREQUENCIES, :FREQUENCIES].reshape(len(block), -1)
        low[:, 0] = 0  # brightness
        low[block.std((1, 2)) < MIN_CONTRAST] = 0
        frequencies[start : start + BLOCK] = low / np.maximum(np.linalg.norm(low, axis=1, keepdims=True), 1e-9)
    mirrored = frequencies * np.tile((-1.0) ** np.arange(FREQUENCIES), FREQUENCIES).astype(np.float32)
    for start in range(0, count, BLOCK):
        block = frequencies[start : start + BLOCK]
        scored: list[tuple[float, Pair]] = []
        for flip, others in ((False, frequencies), (True, mirrored)):
            likeness = block @ others[start:].T
            rows, columns = np.nonzero(np.triu(likeness, 1) > ALIKE)
            scores = likeness[rows, columns]
            order = np.lexsort((-scores, rows))
            rank = np.arange(len(rows)) - np.searchsorted(rows, rows)  # in its row; `rows` is sorted
            kept = order[rank < MAX_NEIGHBOURS]
            places = zip(scores[kept], rows[kept] + start, columns[kept] + start, strict=True)
            scored += [(float(score), Pair(int(first), int(second), flip)) for score, first, second in places]
        yield [pair for _, pair in sorted(scored, reverse=True)]


def _is_copy(first: np.ndarray, second: np.ndarray, mirrored: bool) -> bool:
    """Return whether one thumbnail, moved and stretched a little, shows what the other does, in detail."""
    one, other = (picture.astype(np.float32) for picture in (first, second[:, ::-1] if mirrored else second))
    unmoved = np.eye(2, 3, dtype=np.float32)
    if _agree(one, other, unmoved):
        return True
    for still, moving in ((one, other), (other, one)):
        try:
            _, warp = cv2.findTransformECC(still, moving, unmoved.copy(), cv2.MOTION_AFFINE, _STEPS, None, 3)
        except cv2.error:  # it does not converge: they have nothing in common
            continue
        moved = np.abs(warp - unmoved)
        if moved[:, :2].max() < 0.2 and moved[:, 2].max() < SIDE / 5 and _agree(still, moving, warp):
            return True
    return False


def _agree(still: np.ndarray, moving: np.ndarray, warp: np.ndarray) -> bool:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(moving, warp, (SIDE, SIDE), flags=flags)
    inside = cv2.erode(cv2.warpAffine(np.ones_like(moving), warp, (SIDE, SIDE), flags=flags), np.ones((3, 3))) > 0.99
    with np.errstate(invalid="ignore"):  # NaN where one is plain inside, which is like nothing
        if np.corrcoef(still[inside], moved[inside])[0, 1] >= ALIGNED:
            details = [picture - cv2.GaussianBlur(picture, (0, 0), 1.5) for picture in (still, moved)]
            return bool(np.corrcoef(*(detail[inside] for detail in details))[0, 1] >= DETAILED)
    return False
