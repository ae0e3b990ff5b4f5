"""A stand-in for ``vllm serve``: takes its command line, runs the mock engine. For ``engine.command`` of a spec.

Variables (``engine.env``) make it misbehave: MOCK_EXIT ends it at once with that code, MOCK_START_SECONDS makes
it slow to start, MOCK_POISON names a file that ends it while that exists, MOCK_FLAGS are further
flags of the mock engine, MOCK_CORE the seconds for which a process of its own session sleeps beside the server, as
vLLM's core runs.
"""

import os
import shlex
import subprocess
import sys
import time

values = dict(
    word.removeprefix("--").split("=", 1) for word in sys.argv[1:] if word.startswith("--") and "=" in word
)
print("mock vllm starts", sys.argv[1], flush=True)
time.sleep(float(os.environ.get("MOCK_START_SECONDS", "0")))
if "MOCK_EXIT" in os.environ or os.path.exists(os.environ.get("MOCK_POISON", "")):  # noqa: PTH110
    print("RuntimeError: no kernel for this checkpoint", file=sys.stderr, flush=True)
    sys.exit(int(os.environ.get("MOCK_EXIT", "1")))
if "MOCK_CORE" in os.environ:
    subprocess.Popen(["sleep", os.environ["MOCK_CORE"]], start_new_session=True)
os.execv(
    sys.executable,
    [
        sys.executable,
        "-m",
        "tri_serve.mock",
        f"--host={values['host']}",
        f"--port={values['port']}",
        f"--model={values['served-model-name']}",
        *shlex.split(os.environ.get("MOCK_FLAGS", "")),
    ],
)
