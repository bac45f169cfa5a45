"""The ladder is climbed from the bottom, and alone where rungs or pictures are chosen."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.hookimpl(trylast=True)  # after plugins that shuffle tests
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.parent == HERE]
    ladder = sorted((item for item in ours if item.path.name == "test_ladder.py"), key=_as_written)
    timings = [item for item in ours if item not in ladder]
    if config.option.rungs or config.option.dataset:
        config.hook.pytest_deselected(items=timings)
        timings = []
    items[:] = [item for item in items if item not in ours] + ladder + timings


def _as_written(item: pytest.Item) -> tuple[int, list[int]]:
    assert isinstance(item, pytest.Function)
    return item.location[1] or 0, list(item.callspec.indices.values()) if hasattr(item, "callspec") else []
