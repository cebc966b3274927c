"""In the short form a class with a `short` shows those behaviours only; the rest is not collected."""

from __future__ import annotations

import pytest
from short_form import ALL, LONG


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    left_out = [] if LONG else [item for item in items if not _shown(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if _shown(item)]


def _shown(item: pytest.Item) -> bool:
    short = getattr(getattr(item, "cls", None), "short", None)
    if short is None:
        return True
    if unknown := short - ALL:
        raise pytest.UsageError(f"{item.nodeid}: there is no {', '.join(sorted(unknown))}")
    return getattr(item, "originalname", item.name) in short
