"""Which macOS a Core ML package needs is one fact: the option, the tables and the refusals say the same."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import get_args

import pytest

from edgevit import registry
from edgevit.engines import apple
from edgevit.export.coreml.options import CoreMlOptions
from edgevit.runtimes.coreml import here

DOCS = Path(__file__).parents[2] / "docs"


def test_every_ios_that_can_be_asked_for_has_its_macos() -> None:
    assert get_args(apple.Ios) == tuple(apple.MACOS)
    assert CoreMlOptions().ios == apple.USUAL


def test_the_tables_the_option_and_the_refusal_name_the_same_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    built, runs = registry.row("exporter", "coreml").summary, here.here().sentence
    assert here.lacking({}) == apple.needs() == "needs macOS 14 or later"
    assert runs.startswith(apple.needs())
    assert "iOS 17 and macOS 14" in built
    assert "macOS 13 with ios=16" in built
    assert "13 for packages with ios=16" in runs
    assert apple.IN_PAIRS in str(CoreMlOptions.model_fields["ios"].description)


def test_the_documents_name_the_same_systems() -> None:
    said = {
        (ios, int(macos))
        for page in DOCS.rglob("*.md")
        for ios, macos in re.findall(r"(\d\d) with macOS (\d\d)", page.read_text())
    }
    assert said == set(apple.MACOS.items())
