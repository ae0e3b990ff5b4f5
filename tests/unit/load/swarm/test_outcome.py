"""What a run's process ends with."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tri_serve.load.swarm.outcome import Finished


@pytest.mark.parametrize(("by_person", "code"), [(True, 130), (False, 4)])
def test_only_a_person_s_end_is_130(*, by_person: bool, code: int) -> None:
    result: Any = SimpleNamespace(complete=False, verdict=SimpleNamespace(exit_code=4))
    assert Finished(result, None, (), "", ended_by_person=by_person).exit_code == code
