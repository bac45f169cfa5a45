"""Command-line options: their definitions, their values, and the checks that come before the first test."""

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from convspec import BadInput, require_extras

Scale = Literal["mini", "full"]
Mode = Literal["literal", "fast", "both"]
Precision = Literal["float32", "tf32", "mixed_bfloat16", "mixed_float16"]
Engine = Literal["local", "ray"]

DEFAULT_SEEDS: dict[Scale, int] = {"mini": 5, "full": 1}
AUTO_SEEDS = (3, 5, 8, 12)  # after each, --seeds auto looks whether the verdict is certain


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text!r}")
    return int(text)


def _seeds(text: str) -> tuple[int, ...]:
    return AUTO_SEEDS if text == "auto" else (_positive(text),)


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < (share := float(text)) < 1:
            return share
    raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, such as 0.01 for one point, got {text!r}")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


FLAG = {"action": "store_true", "default": False}
LADDER_OPTIONS: dict[str, dict[str, Any]] = {
    "--scale": {"choices": get_args(Scale), "default": "mini"},
    "--dataset": {"metavar": "NAME_OR_DIR"},
    "--data-root": {"metavar": "DIR", "type": Path},
    "--weights": {"metavar": "FILE_OR_imagenet"},
    "--rungs": {"metavar": "A,B", "type": _names},
    "--mode": {"choices": get_args(Mode), "default": "literal"},
    "--precision": {"choices": get_args(Precision)},
    "--devices": {"metavar": "N", "type": _positive, "default": 1},
    "--engine": {"choices": get_args(Engine), "default": "local"},
    "--require-gpu": FLAG,
    "--require-data": FLAG,
    "--strict-images": FLAG,
}
OPTIONS: dict[str, dict[str, Any]] = LADDER_OPTIONS | {  # the others serve the gate of any model, without Keras
    "--seeds": {"metavar": "N", "type": _seeds},
    "--margin": {"metavar": "M", "type": _share, "default": 0.01},
    "--update-baselines": FLAG,
    "--report": {"metavar": "DIR", "type": Path},
}
HELP = {
    "--scale": "mini (default): pictures drawn by convspec, minutes on two cores; full: MNIST, Dogs vs. Cats, VGG16",
    "--dataset": "run every rung on these pictures: shapes, mnist, dogs_vs_cats, or a folder with a subfolder for each"
    " class, or with train, validation and test that have such subfolders (default: each rung's own)",
    "--data-root": "folder of data sets and weights, unless CONVSPEC_DATA names one (default: the user's cache folder)",
    "--weights": "weights of the base (default: BASE_notop.weights.h5 in the data folder, else imagenet, from Keras)",
    "--rungs": "run only these rungs of the ladder (default: all seven)",
    "--mode": "literal (default): every rung as in its listings; fast: frozen layers see each picture once, and"
    " feature extraction ends in a linear probe; both: one beside the other",
    "--precision": "what models compute in; each has its own baselines (default: Keras's, with the backend's TF32)",
    "--devices": "train on N GPUs at once that share every batch; on TensorFlow or JAX (default: 1)",
    "--engine": "ray: spread all runs, or the features of a single run, over a Ray cluster ($RAY_ADDRESS, else this"
    " machine); times are then those of machines that share work (default: local)",
    "--require-gpu": "fail, instead of running on the CPU, where there is no GPU",
    "--require-data": "fail, instead of skipping, where pictures or weights are missing",
    "--strict-images": "fail at the first unreadable picture (default: skip and name them, and fail above 5 %%)",
    "--seeds": "train each rung with seeds 0 to N-1 (default: 5 at mini, 1 at full); auto: with 3, and with up to 12"
    " until the verdict on its accuracy is certain",
    "--margin": "the drop in accuracy that still passes the gate against the baseline (default: 0.01, one point)",
    "--update-baselines": "add this session's runs to fixtures/baselines, after comparing them with those there",
    "--report": "folder for index.html, ladder.json, ladder.png, ladder.md, models, checkpoints (default: .convspec)",
}


def add_options(parser: pytest.Parser) -> None:
    """Add all options as one group of pytest's help."""
    group = parser.getgroup("convspec", "transfer learning with convnets")
    for name, settings in OPTIONS.items():
        group.addoption(name, help=HELP[name], **settings)


class Settings:
    """Values of the options, and the folders that follow from them."""

    def __init__(self, config: pytest.Config) -> None:
        option, root = config.option, config.rootpath
        self.scale: Scale = option.scale
        self.dataset: str | None = option.dataset
        self.data_root: Path | None = option.data_root
        self.weights: str | None = option.weights
        self.rungs: list[str] | None = option.rungs
        self.mode: Mode = option.mode
        self.precision: Precision | None = option.precision
        self.devices: int = option.devices
        self.engine: Engine = option.engine
        self.strict_images: bool = option.strict_images
        self.looks: tuple[int, ...] = option.seeds or (DEFAULT_SEEDS[self.scale],)
        self.margin: float = option.margin
        self.update_baselines: bool = option.update_baselines
        self.baselines = root / "fixtures" / "baselines"
        self.folder = root / ".convspec"
        if option.report:
            self.folder = (config.invocation_params.dir / option.report.expanduser()).resolve()


def uses_ladder(config: pytest.Config) -> bool:
    """Return whether a session needs Keras: by an option, in convspec's repository, or for its installed benchmarks."""
    options = {name[2:].replace("-", "_"): settings.get("default") for name, settings in LADDER_OPTIONS.items()}
    return (
        any(config.getoption(dest) != default for dest, default in options.items())
        or (config.rootpath / "convspec" / "plugin" / "hooks.py").is_file()
        or any(argument.partition(".")[0] == "convspec" for argument in config.args)
    )


def prepare_ladder(settings: Settings) -> None:
    """Import the backend, set the precision of --precision, and check every name that an option gives.

    Raises BadInput or MissingData for an unknown name and for packages that are not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every import otherwise
    with require_extras():
        from convspec import backend
        from convspec.data import datasets
        from convspec.ladder.rungs import find_recipe

        if settings.engine == "ray":
            from convspec.ladder import ray  # noqa: F401  raises BadInput where Ray is missing
    if settings.precision:
        backend.set_precision(settings.precision)
    for name in settings.rungs or ():
        find_recipe(name, settings.scale)
    if settings.dataset:
        datasets.check(settings.dataset)
    if settings.weights and settings.weights != "imagenet" and not Path(settings.weights).is_file():
        raise BadInput(f"--weights: no file {settings.weights!r}; give a file, or imagenet")
