"""What every end-to-end test stands on: the managed CPU environment, made if it is missing."""

from __future__ import annotations

import pytest

from tri_serve.launch.environment import EngineEnvironment
from tri_serve.launch.install import install_environment
from tri_serve.places import data_dir
from tri_serve.spec.engine import EngineSpec


@pytest.fixture(scope="session")
def engine_environment() -> EngineEnvironment:
    """The environment of the pinned engine, in the user's own data directory: it is made once for all runs.

    A test that asks for it needs a timeout of minutes.
    """
    return install_environment(EngineSpec().version, "cpu", data_dir(), print)
