"""The ladder is climbed from the bottom, also where a plugin shuffles tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [place for place, item in enumerate(items) if item.path.name == "test_ladder.py"]
    ladder = sorted((items[place] for place in places), key=_as_written)
    for place, item in zip(places, ladder, strict=True):
        items[place] = item


def _as_written(item: pytest.Item) -> tuple[int, list[int]]:
    assert isinstance(item, pytest.Function)
    return item.location[1] or 0, list(item.callspec.indices.values())
