"""The smallest pictures that the chapter's small convnets take, and an error below."""

from collections.abc import Callable

import keras
import pytest

from convspec import BadInput, models
from convspec.arithmetic import receptive_field

CONVNETS: dict[str, tuple[Callable[..., keras.Model], int]] = {
    "mnist_convnet": (models.mnist_convnet, 18),
    "mnist_convnet_without_pooling": (models.mnist_convnet_without_pooling, 7),
    "small_convnet": (models.small_convnet, 46),
}
each_convnet = pytest.mark.parametrize("name", CONVNETS)


@each_convnet
def test_the_smallest_picture_is_as_large_as_what_one_last_feature_sees(name: str) -> None:
    """Without padding the last feature map has a first pixel only where the picture holds its receptive field."""
    make, smallest = CONVNETS[name]
    windows = [
        (config["kernel_size"][0], 1) if "kernel_size" in config else (config["pool_size"][0], config["strides"][0])
        for layer in make().get_config()["layers"]
        if (config := layer["config"]).get("kernel_size") or config.get("pool_size")
    ]
    assert receptive_field(windows) == smallest
    before_the_head = make(input_shape=(smallest, smallest, 1)).layers[len(windows) - 1]
    assert before_the_head.output.shape[1:3] == (1, 1)


@each_convnet
@pytest.mark.parametrize("turned", [False, True])
def test_a_small_convnet_refuses_one_pixel_less_and_names_both_sizes(name: str, turned: bool) -> None:
    make, smallest = CONVNETS[name]
    height, width = (99, smallest - 1) if turned else (smallest - 1, 99)
    with pytest.raises(BadInput, match=rf"at least {smallest} x {smallest}, got {height} x {width}"):
        make(input_shape=(height, width, 3))
