"""Command-line options: their definitions, their values, and the checks that come before the first test."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, get_args

import pytest

from convspec import BadInput, MissingData, require_extras

Scale = Literal["mini", "full"]
Mode = Literal["literal", "exact", "fast", "both"]
Precision = Literal["float32", "tf32", "mixed_bfloat16", "mixed_float16"]
Layout = Literal["classes", "parts"]
Engine = Literal["keras", "ncnn", "ray"]
Truncated = Literal["skip", "fill"]
Measure = Literal["accuracy", "balanced"]

DEFAULT_MARGIN = 0.01  # one point
DEFAULT_SEEDS: dict[Scale, int] = {"mini": 5, "full": 1}
AUTO_SEEDS = (3, 5, 8, 12)  # after each, --convspec-seeds auto looks whether the verdict is certain


def positive(text: str) -> int:
    """Parse a whole number from 1 up."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, got {text!r}")
    return int(text)


def _seeds(text: str) -> tuple[int, ...]:
    return AUTO_SEEDS if text == "auto" else (positive(text),)


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < (share := float(text)) < 1:
            return share
    raise argparse.ArgumentTypeError(f"must be a number between 0 and 1, such as 0.01 for one point, got {text!r}")


def _path(text: str) -> Path | None:
    return Path(text) if text else None  # an empty one would be the current folder


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"must be names of rungs, separated by commas, got {text!r}")
    return names


FLAG = {"action": "store_true"}
LADDER_OPTIONS: dict[str, dict[str, Any]] = {  # by name, without the prefix
    "scale": {"choices": get_args(Scale)},
    "dataset": {"metavar": "NAME_OR_DIR"},
    "layout": {"choices": get_args(Layout)},
    "data-root": {"metavar": "DIR", "type": _path},
    "base": {"metavar": "NAME"},
    "weights": {"metavar": "FILE_OR_imagenet"},
    "rungs": {"metavar": "A,B", "type": _names},
    "mode": {"choices": get_args(Mode)},
    "precision": {"choices": get_args(Precision)},
    "devices": {"metavar": "N", "type": positive},
    "engine": {"choices": get_args(Engine)},
    "require-gpu": FLAG,
    "require-data": FLAG,
    "strict-images": FLAG,
    "truncated": {"choices": get_args(Truncated)},
    "enforce-timings": FLAG,
}
OPTIONS: dict[str, dict[str, Any]] = LADDER_OPTIONS | {  # the others serve the gate of any model, without Keras
    "seeds": {"metavar": "N|auto", "type": _seeds},
    "margin": {"metavar": "M", "type": _share},
    "measure": {"choices": get_args(Measure)},
    "update-baselines": FLAG,
    "report": {"metavar": "DIR", "type": _path},
}
RUNGS = "dense_baseline, mnist_convnet, from_scratch, augmented, feature_extraction, frozen_end_to_end, fine_tuned"
HELP = {
    "scale": "mini (default): embedded pictures, and a small base trained on drawn shapes, minutes on two cores; full:"
    " MNIST, Dogs vs. Cats, and VGG16, trained on photographs",
    "dataset": "run every rung on these pictures: shapes, digits, mnist, dogs_vs_cats, or a folder with a subfolder for"
    " each class, or with train, validation and test that have such subfolders (default: each rung's own)",
    "layout": "what the subfolders of pictures are, where they could be classes or parts such as train and test",
    "data-root": "folder of data sets and weights, unless CONVSPEC_DATA names one (default: the user's cache folder)",
    "base": "mini, or a model of keras.applications such as EfficientNetV2B0, for the rungs with a base; at full with"
    " pictures of its own size (default: mini at mini, VGG16 at full)",
    "weights": "weights of the base (default: BASE_notop.weights.h5 in the data folder, else imagenet, from Keras)",
    "rungs": f"run only these rungs of {RUNGS} (default: all)",
    "mode": "literal (default): every rung as in its listings; exact: the same steps, with frozen layers computed"
    " once where a picture stays the same; fast: frozen layers see each picture or augmented view once, and feature"
    " extraction ends in a linear probe; both: literal beside fast",
    "precision": "what models compute in; each has its own baselines (default: Keras's, with the backend's TF32)",
    "devices": "train on N GPUs at once that share every batch; on TensorFlow or JAX (default: 1)",
    "engine": "keras (default); ncnn: compute frozen layers with ncnn, faster on a CPU, where features are cached or in"
    " exact mode; ray: spread all runs, or the features of a single run, over a Ray cluster ($RAY_ADDRESS, else this"
    " machine), so that recorded times are those of machines that share work",
    "require-gpu": "fail, instead of running on the CPU, where there is no GPU",
    "require-data": "fail, instead of skipping, where pictures or weights are missing",
    "strict-images": "fail at the first unreadable picture (default: skip and name them, and fail above 5 %%)",
    "truncated": "skip (default): leave out pictures whose file ends early; fill: read them as far as they go",
    "enforce-timings": "fail a timing whose whole 95 %% interval lies beyond its bound (default: no timing fails)",
    "seeds": "train each rung with seeds 0 to N-1 (default: 5 at mini, 1 at full); auto: with 3, and with up to 12"
    " until the verdict on its accuracy is certain",
    "margin": "how much accuracy may be lost: by runs against their baseline, and by a recommended rung against the"
    " best (default: 0.01, one point)",
    "measure": "what gates judge: accuracy (default), or balanced accuracy, in which every class counts the same",
    "update-baselines": "add this session's runs to the baselines, after comparing them with those there",
    "report": "folder for index.html, ladder.json, ladder.png, ladder.md, models, checkpoints (default: .convspec where"
    " pytest was started)",
}
DEFAULT_BASELINES = "tests/baselines"
BASELINES = f"folder of baselines, one file a seed, from the root folder (default: {DEFAULT_BASELINES})"


def _dest(name: str) -> str:
    return f"convspec_{name.replace('-', '_')}"


def add_options(parser: pytest.Parser) -> None:
    """Add each option as --convspec-NAME on the command line and as convspec_NAME in an ini file."""
    group = parser.getgroup("convspec", "transfer learning with convnets")
    for name, settings in OPTIONS.items():
        group.addoption(f"--convspec-{name}", dest=_dest(name), default=None, help=HELP[name], **settings)
        kind: Any = "bool" if settings is FLAG else "string"
        parser.addini(_dest(name), HELP[name].replace("%%", "%"), kind, default=None)
    parser.addini("convspec_baselines", BASELINES, default=DEFAULT_BASELINES)


def _value(config: pytest.Config, name: str) -> Any:
    """Return the value of an option from the command line, else the ini file; None where neither has it."""
    settings, value = OPTIONS[name], config.getoption(_dest(name))
    if value:  # else not given, or empty, as "$UNSET" is
        return value
    text = config.getini(_dest(name))
    if not isinstance(text, str) or not text:
        return text or None
    try:
        if text not in settings.get("choices", (text,)):
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(settings['choices'])}, got {text!r}")
        value = settings.get("type", str)(text)
    except argparse.ArgumentTypeError as error:
        raise pytest.UsageError(f"{config.inipath}: {_dest(name)} {error}") from error
    folder = config.inipath.parent if config.inipath else config.rootpath
    if isinstance(value, Path):
        return folder / os.path.expanduser(value)
    named = name in ("dataset", "weights") and (folder / text).exists()  # else a name, such as shapes or imagenet
    return str(folder / text) if named else value


class Settings:
    """Values of the options, and the folders that follow from them."""

    def __init__(self, config: pytest.Config) -> None:
        values = {name: _value(config, name) for name in OPTIONS}
        self.scale: Scale = values["scale"] or "mini"
        self.dataset: str | None = values["dataset"]
        self.layout: Layout | None = values["layout"]
        self.data_root: Path | None = values["data-root"]
        self.base: str | None = values["base"]
        self.weights: str | None = os.path.expanduser(values["weights"] or "") or None
        self.rungs: list[str] | None = values["rungs"]
        self.mode: Mode = values["mode"] or "literal"
        self.precision: Precision | None = values["precision"]
        self.devices: int = values["devices"] or 1
        self.engine: Engine = values["engine"] or "keras"
        self.require_gpu, self.require_data, self.strict_images, self.update_baselines = (
            bool(values[name]) for name in ("require-gpu", "require-data", "strict-images", "update-baselines")
        )
        self.enforce_timings = bool(values["enforce-timings"])
        self.truncated: Truncated = values["truncated"] or "skip"
        self.looks: tuple[int, ...] = values["seeds"] or (DEFAULT_SEEDS[self.scale],)
        self.margin: float = values["margin"] or DEFAULT_MARGIN
        self.measure: Measure = values["measure"] or "accuracy"
        self.baselines = config.rootpath / os.path.expanduser(config.getini("convspec_baselines") or DEFAULT_BASELINES)
        report: Path = values["report"] or Path(".convspec")
        self.folder = (config.invocation_params.dir / os.path.expanduser(report)).resolve()
        self.uses_ladder = (
            any(values[name] for name in LADDER_OPTIONS)
            or (config.rootpath / "convspec" / "plugin" / "hooks.py").is_file()
            or (config.option.pyargs and any(name.partition(".")[0] == "convspec" for name in config.args))
        )


def prepare_ladder(settings: Settings) -> None:
    """Import the backend, set the precision, and check every name that an option gives.

    Raises BadInput or MissingData for an unknown name and for packages that are not installed.
    """
    with require_extras():
        from convspec import backend, models
        from convspec.data import datasets
        from convspec.ladder.rungs import find_recipe

        if settings.engine != "keras":
            import_module(f"convspec.ladder.{settings.engine}")  # raises BadInput where its package is missing
    if settings.precision:
        backend.set_precision(settings.precision)
    with _name_option("rungs"):
        for name in settings.rungs or ():
            find_recipe(name, settings.scale)
    with _name_option("base"):
        if settings.base:
            models.find_base(settings.base)
    with _name_option("dataset"):
        if settings.dataset:
            datasets.check(settings.dataset)
    if settings.weights and settings.weights != "imagenet" and not Path(settings.weights).is_file():
        raise BadInput(f"--convspec-weights: no file {settings.weights!r}; give a file, or imagenet")


@contextmanager
def _name_option(name: str) -> Iterator[None]:
    """Begin the message of BadInput or MissingData with the option whose value is wrong."""
    try:
        yield
    except (BadInput, MissingData) as error:
        raise type(error)(f"--convspec-{name}: {error}") from error
