"""The bundled model, dequantised once for all tests of this folder, into a cache of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lamina.model.bundled import prepare_bundled
from lamina.records import Quiet


@pytest.fixture(scope="session")
def bundled_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp("cache")
        patch.setenv("LAMINA_CACHE", str(cache))
        yield cache


@pytest.fixture(scope="session")
def bundled(bundled_cache: Path) -> Path:
    """The folder of the bundled base."""
    folder = prepare_bundled(Quiet())
    assert folder.is_relative_to(bundled_cache)
    return folder
