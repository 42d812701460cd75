"""The kernels compiled into a folder of the tests' own."""

from __future__ import annotations

from pathlib import Path

import pytest

from lamina.kernels.native import NativeKernels, build_native


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("builds")


@pytest.fixture(scope="session")
def native(builds: Path) -> NativeKernels:
    built = build_native.__wrapped__(builds, "tests")
    assert built is not None
    return built
