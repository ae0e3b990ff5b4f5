from __future__ import annotations

from pathlib import Path

import pytest

from tri_serve.errors import EngineEnvironmentError, ResourceError, TriServeError
from tri_serve.launch.commands import CommandFailedError
from tri_serve.launch.pip import PackageNotFoundError, explain_failure

NO_NETWORK = """\
WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'NewConnectionError(\
'<pip._vendor.urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new connection: \
[Errno 111] Connection refused')': /simple/torch/
ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: none)
ERROR: No matching distribution found for torch==2.13.0+cpu"""
NOT_CARRIED = """\
ERROR: Could not find a version that satisfies the requirement torch==2.13.0+cpu (from versions: 2.12.0, 2.13.0)
ERROR: No matching distribution found for torch==2.13.0+cpu"""
ONE_SOURCE_AWAY = (
    f"WARNING: Retrying after connection broken by 'NewConnectionError(x)': /simple/torch/\n{NOT_CARRIED}"
)
WRONG_HASH = """\
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the package \
versions, please update the hashes. Otherwise, examine the package contents carefully; someone may have tampered \
with them.
    numpy==2.3.5 from file:///wheels/numpy-2.3.5.whl (from -r r.txt (line 1)):
        Expected sha256 aaaa
             Got        bbbb
"""
NO_SPACE = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
OTHER = "some words\nERROR: Cannot set --home and --prefix together"


@pytest.mark.parametrize(
    ("output", "kind", "words"),
    [
        (NO_NETWORK, EngineEnvironmentError, "could not be reached"),
        (NOT_CARRIED, PackageNotFoundError, "torch==2.13.0+cpu"),
        (ONE_SOURCE_AWAY, PackageNotFoundError, "torch==2.13.0+cpu"),
        (WRONG_HASH, EngineEnvironmentError, "pinned hash and was not installed: numpy==2.3.5"),
        (NO_SPACE, ResourceError, "disk became full"),
        (OTHER, EngineEnvironmentError, "pip failed: Cannot set --home"),
        ("", EngineEnvironmentError, "ended with status 1"),
    ],
    ids=["no network", "not carried", "one source away", "wrong hash", "no space", "other", "silent"],
)
def test_a_failure_of_pip_is_one_line_that_says_why(
    output: str, kind: type[TriServeError], words: str
) -> None:
    error = explain_failure(CommandFailedError(["pip"], 1, output.splitlines()), Path("/data/engines/x.log"))
    assert type(error) is kind
    assert words in error.message
    assert "\n" not in error.message
    assert "/data/engines/x.log" in (error.hint or "")
