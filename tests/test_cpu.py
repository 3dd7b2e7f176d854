"""How many threads a run may have: as many as are asked for, within what the cores of this process can run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgevit import cpu
from edgevit.errors import UsageError


@pytest.fixture
def two_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "allowed_cores", lambda: frozenset({2, 5}))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)


@pytest.fixture
def two_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "allowed_cores", lambda: frozenset({0, 1}))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_threads_are_those_of_the_usable_cores_unless_a_number_is_asked_for(two_of_eight: None) -> None:
    assert (cpu.checked_threads(None), cpu.checked_threads(1), cpu.checked_threads(8)) == (2, 1, 8)


@pytest.mark.parametrize("asked", [9, 64, 1000, 10**9])
def test_threads_that_would_only_wait_for_each_other_are_refused(two_of_two: None, asked: int) -> None:
    with pytest.raises(UsageError) as caught:
        cpu.checked_threads(asked)
    assert str(caught.value) == f"{asked} threads are too many for the 2 cores that this process may use: at most 8"
    assert caught.value.hint == "leave --threads out: then there are 2"


@pytest.mark.parametrize("asked", [0, -1])
def test_no_threads_at_all_are_refused(asked: int) -> None:
    with pytest.raises(UsageError, match=f"threads must be 1 or more, got {asked}"):
        cpu.checked_threads(asked)


def test_more_threads_than_cores_are_said(two_of_eight: None) -> None:
    assert cpu.crowding(2) is None
    assert cpu.crowding(3) == "3 threads share the 2 cores that this process may use"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity masks")
def test_a_process_on_one_core_has_one() -> None:
    code = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}}); from edgevit import cpu"
    code += "; print(cpu.usable_cores(), cpu.checked_threads(None), cpu.crowding(2))"
    ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert ran.stdout == "1 1 2 threads share the 1 core that this process may use\n"
