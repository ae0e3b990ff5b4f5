"""What a run is to do, as its leader tells each process: as JSON, which may cross to another machine."""

from __future__ import annotations

from pathlib import Path

from tri_serve.load.scenario.models import Scenario
from tri_serve.load.swarm.record_log import Detail
from tri_serve.spec.fields import SpecModel


class RunOrder(SpecModel):
    """One run. It holds no key: each process takes that from its own environment."""

    run: str
    """Its name, and that of its folder."""
    folder: Path
    """Where the result and the records go."""
    url: str
    ca_file: Path | None = None
    insecure: bool = False
    model: str
    scenario: Scenario
    scenario_folder: Path
    """What paths in the scenario are seen from."""
    tokenizer: str = ""
    """A tokenizer.json, or empty: the server's /tokenize."""
    counts: bool = False
    """Whether the server's /tokenize answers."""
    overhead: tuple[int, int, int] | None = None
    """Tokens that the server adds: to a prompt, to a user message, to a system and a user message together."""
    context: int | None = None
    """Tokens that a prompt and its answer may have together."""
    nonce: str = ""
    """What sets this run's salts apart from those of any other."""
    send_key: bool = True
    """Whether the server may be given the key that a process has."""
    token_ids: bool = False
    """Ask the server for token ids, to count the tokens of each event."""
    real_time: bool = True
    """Take the kernel's real-time class for the event loops, where that is allowed."""
    detail: Detail = "full"
