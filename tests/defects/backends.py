"""Seeded defects of what differs between backends."""

from defects.seed import Defect

BACKENDS = (
    Defect(
        "PyTorch on a GPU without the workspace that it asks for",
        "gradients",
        'os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")',
        "pass",
        "test_gradients.py::test_determinism_is_asked_of_the_backend",
        r"KeyError: 'CUBLAS_WORKSPACE_CONFIG'",
    ),
    Defect(
        "a backend to install that is there",
        "gradients",
        "for name in BACKENDS if find_spec(name)]",
        "for name in BACKENDS if not find_spec(name)]",
        "test_backends.py::test_a_backend_that_is_missing_is_named_in_one_line_with_what_installs_it",
        r"what is there would do, too",
    ),
    Defect(
        "the CPU among JAX's accelerators",
        "gradients",
        'for device in jax.devices() if device.platform != "cpu"]',
        "for device in jax.devices()]",
        "test_gradients.py::test_accelerators_go_by_the_names_of_their_models",
        r"\['cpu', 'NVIDIA H100'\]",
    ),
    Defect(
        "an optimizer that only PyTorch can load",
        "gradients",
        'if str(config.get("module")).startswith("keras.src.backend.torch.optimizers"):',
        "if False:",
        "test_gradients.py::test_a_saved_configuration_names_what_every_backend_has",
        r"keras\.src\.backend\.torch",
    ),
    Defect(
        "a saved model that is compiled as suited the backend that saved it",
        "training",
        "gradients.portable(told())",
        "told()",
        "test_training.py::test_a_saved_model_names_nothing_that_only_this_backend_has_and_trains_on_once_loaded",
        r"compiled or not as suits where it is loaded",
    ),
    Defect(
        "dropout whose generator no checkpoint has",
        "models",
        "layers.Dropout(rate, seed=random.randint(1, 10**9))",
        "layers.Dropout(rate)",
        "test_models.py::test_the_seed_of_dropout_is_its_own_and_follows_from_that_of_the_session",
        r"PyTorch draws from a generator that no checkpoint has",
    ),
    Defect(
        "dropout that drops the same units in every run",
        "models",
        "seed=random.randint(1, 10**9)",
        "seed=1337",
        "test_models.py::test_the_seed_of_dropout_is_its_own_and_follows_from_that_of_the_session",
        r"another run, or another layer, drops other units",
    ),
    Defect(
        "features in the order that PyTorch has in memory",
        "features",
        "np.ascontiguousarray(predicted, dtype)",
        "predicted.astype(dtype)",
        "test_features.py::test_maps_that_lie_in_memory_channels_first_are_recorded_channels_last",
        r"not C-contiguous",
    ),
)
