from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.compat.support import complaints

PROGRAM = Path(__file__).with_name("chat_program.py")


def test_program_for_the_former_version_runs_unchanged(server):
    """Layers, consumers and communicators of fast-channels 1.1 work, without a single warning."""
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", PROGRAM],
        env={**os.environ, "REDIS_CHANNEL_URL": server.url},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (result.stdout, complaints(result.stderr)) == ("everything passed\n", [])
