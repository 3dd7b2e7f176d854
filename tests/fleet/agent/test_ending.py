"""Processes of the fleet end when they are told to, whichever of their threads hears of it, and whenever."""

from __future__ import annotations

import subprocess
import sys

import pytest

# To another thread than the main one: what the system may do while the main one waits.
ELSEWHERE = """
import signal, threading, time
from edgevit.fleet.agent.ending import until_told, wait_until

other = threading.Thread(target=time.sleep, args=(60,), daemon=True)
other.start()

def tell():
    time.sleep(0.3)
    signal.pthread_kill(other.ident, signal.SIGTERM)

with until_told() as over:
    threading.Thread(target=tell, daemon=True).start()
    wait_until(over)
"""
# While the main thread holds what setting the event needs, as it does at the beginning and end of a wait.
MEANWHILE = """
import os, signal
from edgevit.fleet.agent.ending import until_told, wait_until

with until_told() as over:
    with over._cond:
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))
    wait_until(over)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals between threads")
@pytest.mark.parametrize("program", [ELSEWHERE, MEANWHILE], ids=["elsewhere", "meanwhile"])
def test_a_process_ends_whoever_hears_the_signal_and_whenever(program: str) -> None:
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
