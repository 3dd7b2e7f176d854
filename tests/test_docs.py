"""Docs that cannot go stale: links resolve, the published schema is the code's."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import python_reference
import tomllib
from PIL import Image

import edgevit
from edgevit.artifact.manifest import Manifest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_of_a_page_resolve(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_a_page_that_code_points_to_is_there_and_so_is_the_rule() -> None:
    rules = re.findall(r"^### Rule (\d)", (ROOT / "docs/explanation/fleet.md").read_text(), re.MULTILINE)
    assert rules == list("1234567")
    for folder in ("edgevit", "tests", "benchmarks", "examples"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            for page in re.findall(r"\b(?:[\w-]+/)*[A-Z][A-Z_]+\.md\b|\bdocs/[\w/-]+\.md\b", text):
                assert (ROOT / page).is_file() or page == "README.md", f"{file} points to {page}"
            if "docs/explanation/fleet.md" in text:
                pointed = re.findall(r"\brules? (\d)(?: (?:to|and) (\d))?", text)
                assert {number for pair in pointed for number in pair if number} <= set(rules), file


def test_the_index_lists_every_page_of_the_docs() -> None:
    listed = set(re.findall(r"\]\(([^)#]+\.md)\)", (ROOT / "docs/README.md").read_text()))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in ROOT.glob("docs/*/*.md")}


def test_the_published_schema_is_the_manifest_s() -> None:
    published = json.loads((ROOT / "docs/reference/manifest.schema.json").read_text())
    assert published == Manifest.model_json_schema(), "run: make schema"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_installs_edgevit_from_a_clone_or_from_the_wheel_of_this_version(page: Path) -> None:
    text = page.read_text()
    from_an_index = r"pip install\s[^`\n]*(?<![/\w])edgevit(?:\[|['\s`]|$)"  # where there is none yet
    assert not re.findall(from_an_index, text, re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"edgevit-(\d[\w.]*?)-py3-none-any\.whl", text)) <= {version}


def test_the_page_on_installing_names_every_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    page = (ROOT / "docs/how-to/install.md").read_text()
    table = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert table == set(extras) - {"dev"}


def test_the_python_reference_is_what_its_script_writes() -> None:
    assert (ROOT / "docs/reference/python.md").read_text("utf-8") == python_reference.page(), "run: make reference"


def test_every_public_name_and_what_a_plug_in_implements_is_in_the_python_reference() -> None:
    page = (ROOT / "docs/reference/python.md").read_text("utf-8")
    for name in (*(f"edgevit.{one}" for one in edgevit.__all__), *python_reference.PLUG_INS):
        described = page.partition(f"### `{name}`\n")[2].partition("\n### ")[0]
        assert len(re.sub(r"```.*?```", "", described, flags=re.DOTALL).split()) > 5, name


def test_the_examples_of_the_python_reference_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    for name in ("photo.jpg", "photos/a.png"):
        Image.new("RGB", (9, 9), (9, 99, 199)).save(name)
    row, picture = np.zeros((1, 3, 32, 32), np.float32), np.zeros((9, 9, 3), np.uint8)
    page = (ROOT / "docs/reference/python.md").read_text("utf-8")
    examples = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "edgevit." in code]
    runnable = [code for code in examples if re.search(r"^(with|for|\w+ =) ?", code)]
    assert len(runnable) == 3
    with contextlib.redirect_stdout(io.StringIO()) as said:
        for code in runnable:
            exec(code, {"edgevit": edgevit, "pixels": row if "open_session" in code else picture})
    assert said.getvalue().count("photo") == 3
    assert "images[1]" in said.getvalue()
