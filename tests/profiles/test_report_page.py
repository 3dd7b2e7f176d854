"""The page in a real browser: no error, no request, sorting and filtering by mouse and keys, themes, phone, print."""

from __future__ import annotations

import datetime
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import chromium
from playwright.sync_api import Browser, Page
from report_rows import artifact, blocks, gallery, measure, run, samples

from edgevit.errors import MissingDependency
from edgevit.profiles.report import report
from edgevit.registry import pip_line

HOSTILE = "\"'><img src=x onerror=alert(1)></script><script>alert(2)</script>&lt;b&gt;"

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of everything that a report can show."""
    folder = tmp_path_factory.mktemp("gallery")
    return Path(report([gallery(folder)], folder / "report.html"))


@pytest.fixture
def opened(browser: Browser, written: Path) -> Iterator[Open]:
    """Opens a page and, in the end, asserts that nothing was logged, raised, shown or requested meanwhile."""
    contexts, heard = [], []

    def visit(path: Path = written, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("console", lambda message: heard.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: heard.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (heard.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: heard.append(request.url) if request.url != path.as_uri() else None)
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-plots=ready]", state="attached")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [entry for entry in heard if not entry.startswith(("data:", "blob:"))] == []


def draw_all(page: Page) -> None:
    """Bring every plot near the screen, and wait until it is drawn."""
    for place in page.locator(".plot").all():
        place.scroll_into_view_if_needed()
        place.locator(".main-svg").first.wait_for()


def wait_until(page: Page, condition: str) -> None:
    """As ``page.wait_for_function``, whose second look is an eval within the page, which the page forbids."""
    deadline = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(50)


def names(page: Page, group: int = 0) -> list[str]:
    """Names in one body of the table, in the order shown."""
    return page.locator("#rows tbody").nth(group).locator("tr.row:visible [data-col=name] .main").all_inner_texts()


def test_every_plot_is_drawn_with_no_error_and_no_request(opened: Open) -> None:
    page = opened()
    assert page.locator(".plot").count() == 3 + 3 + 3 + 8 + 3
    draw_all(page)
    assert page.locator(".plot .main-svg").count() >= 20
    assert page.locator("#no-plots").is_hidden()
    assert page.title() == "efficientformer_nano, fmvit_nano, vit_nano · edgevit report"


def test_the_browser_itself_forbids_requests_and_other_scripts(opened: Open, written: Path) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', written.read_text())
    assert policy
    assert policy[1].startswith("default-src &#x27;none&#x27;; script-src &#x27;sha256-")
    assert "unsafe-eval" not in policy[1]
    assert "script-src &#x27;unsafe-inline" not in policy[1]
    page = opened()
    assert page.evaluate("typeof Plotly") == "object"


def test_the_page_stays_small_with_many_samples(written: Path) -> None:
    assert written.stat().st_size < 3_500_000  # it holds 100,000 samples of one row, and the library


def test_a_column_head_sorts_by_mouse_within_each_group_only(opened: Open) -> None:
    page = opened()
    assert names(page) == ["efficientformer_nano-onnx-fp32", "fmvit_nano-onnx-fp32", "vit_nano-onnx-fp32"]
    head = page.locator("th[data-col=p50]")
    head.get_by_role("button").click()
    assert names(page) == ["fmvit_nano-onnx-fp32", "vit_nano-onnx-fp32", "efficientformer_nano-onnx-fp32"]
    assert head.get_attribute("aria-sort") == "ascending"
    assert page.locator("tr.group .main").all_inner_texts()[0].startswith("A · onnxruntime")
    head.get_by_role("button").click()
    assert names(page) == ["efficientformer_nano-onnx-fp32", "vit_nano-onnx-fp32", "fmvit_nano-onnx-fp32"]
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page, 1)[0] == "efficientformer_nano-onnx-fp32"


def test_sorting_and_filtering_need_no_mouse(opened: Open) -> None:
    page = opened()
    page.locator("#words").focus()
    page.keyboard.type("throttled")
    assert names(page, 2) == ["fmvit_nano-tvm-fp32"]
    assert page.locator("#count").inner_text() == "1 of 12 rows"
    assert page.locator("tr.group:visible").count() == 1
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    assert page.locator("#count").inner_text() == "12 rows"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.sort") == "size":
            break
    page.keyboard.press("Enter")
    assert names(page) == ["fmvit_nano-onnx-fp32", "vit_nano-onnx-fp32", "efficientformer_nano-onnx-fp32"]
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Space")
    assert page.locator("th[data-col=size]").get_attribute("aria-sort") == "descending"


def test_missing_numbers_come_last_in_either_direction(opened: Open, tmp_path: Path) -> None:
    measure(artifact(tmp_path / "few"), run(samples(3, 100)))
    for name, ms in (("slow", 9), ("fast", 2)):
        measure(artifact(tmp_path / name), run(samples(ms)))
    page = opened(Path(report([tmp_path], tmp_path / "r.html")))
    button = page.locator("th[data-col=p99] button")
    button.click()
    assert names(page) == ["fast", "slow", "few"]
    button.click()
    assert names(page) == ["slow", "fast", "few"]
    assert "needs ≥ 662" in page.locator("tr.row", has_text="few").locator("[data-col=p99]").inner_text()


def test_verdicts_and_targets_filter(opened: Open) -> None:
    page = opened()
    page.locator("#verdict").select_option("STEADY")
    page.locator("#target").select_option("tvm")
    assert page.locator("tr.row:visible").count() == 1
    assert page.locator("#count").get_attribute("role") == "status"
    page.locator("#verdict").select_option("FAILED")
    assert "SIGSEGV" in page.locator("tr.row:visible").inner_text()


def test_a_verdict_is_a_word_and_a_reason_stands_where_the_numbers_would(opened: Open) -> None:
    page = opened()
    words = {text.strip() for text in page.locator("#rows .badge").all_inner_texts()}
    assert {re.sub(r"[^A-Z ]", "", word).strip() for word in words} == {"STEADY", "THROTTLED", "FAILED", "NOT MEASURED"}
    blank = page.locator("tr.row").filter(has=page.get_by_text("vit_nano-tensorrt-fp16", exact=True))
    assert blank.locator(".reason").inner_text() == "needs an NVIDIA GPU (SM 8.9)"
    apart = page.locator("tr.group").nth(1).inner_text()
    assert "not ranked against A: differs in runtime (openvino 2026.4.1 instead of onnxruntime 1.31.1)" in apart


def ground(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))


def axis_colour(page: Page) -> str:
    return str(page.evaluate("getComputedStyle(document.querySelector('.plot .xtick text')).fill"))


def test_the_theme_follows_the_system_and_the_button_and_so_do_the_plots(opened: Open) -> None:
    page = opened(color_scheme="dark")
    page.locator(".plot").first.scroll_into_view_if_needed()
    page.locator(".plot .xtick text").first.wait_for()
    assert (ground(page), axis_colour(page)) == ("rgb(16, 21, 28)", "rgb(232, 237, 242)")
    page.locator("#theme").focus()
    page.keyboard.press("Enter")
    assert (ground(page), axis_colour(page)) == ("rgb(255, 255, 255)", "rgb(23, 32, 42)")
    assert page.locator("#theme").get_attribute("aria-label") == "Switch to the dark theme"
    page.reload()
    assert ground(page) == "rgb(255, 255, 255)"
    assert ground(opened(color_scheme="light")) == "rgb(255, 255, 255)"


def test_a_phone_needs_no_sideways_scrolling_held_either_way(opened: Open) -> None:
    page = opened(viewport={"width": 320, "height": 800})
    draw_all(page)
    for width in (320, 640, 390):
        page.set_viewport_size({"width": width, "height": 800})
        wait_until(page, "[...document.querySelectorAll('.plot')].every(e => e.scrollWidth <= e.clientWidth + 1)")
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = page.locator("#rows td, .plot, .card").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().right)"
        )
        assert max(boxes) <= width
    first = page.locator("tr.row").first.locator("[data-col=p90]")
    assert page.evaluate("e => getComputedStyle(e, '::before').content", first.element_handle()) == '"p90, ms"'
    page.locator("#order").select_option("p50")
    assert names(page)[0] == "fmvit_nano-onnx-fp32"


def test_print_is_light_whole_and_without_controls(opened: Open, tmp_path: Path) -> None:
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    page.wait_for_selector(".plot >> nth=-1 >> .main-svg", state="attached")
    assert ground(page) == "rgb(255, 255, 255)"
    assert axis_colour(page) == "rgb(23, 32, 42)"
    assert page.locator("#controls").is_hidden()
    assert page.locator("nav").is_hidden()
    drawn = page.locator(".plot").evaluate_all("all => all.every(e => e.querySelector('.main-svg').clientWidth <= 690)")
    assert drawn
    printed = page.pdf(path=tmp_path / "report.pdf", format="A4", print_background=True)
    assert printed.startswith(b"%PDF")


def test_the_layers_of_a_model_can_be_cut_by_module_operator_and_unit(opened: Open) -> None:
    page = opened()
    whole = page.locator("#layers article").first
    whole.scroll_into_view_if_needed()
    whole.locator(".legendtext", has_text="blocks.5").first.wait_for()
    button = whole.get_by_role("button", name="by operator")
    button.focus()
    page.keyboard.press("Enter")
    whole.locator(".legendtext", has_text="Gemm").first.wait_for()
    assert button.get_attribute("aria-pressed") == "true"
    assert "by operator" in str(whole.locator(".plot").get_attribute("aria-label"))
    whole.locator("summary", has_text="Table by PyTorch module").click()
    line = whole.locator("details[open] tr", has_text="blocks.0").inner_text()
    assert len(re.findall(r"ms \(\d+%\)", line)) == 3


def test_without_accuracy_a_sentence_takes_the_plot_s_place(opened: Open, tmp_path: Path) -> None:
    measure(artifact(tmp_path / "a", accuracy=None), run(samples(3)))
    page = opened(Path(report([tmp_path], tmp_path / "r.html")))
    assert page.locator("#no-quality").inner_text().startswith("No quality is recorded")
    assert page.locator("#trade-offs .plot").count() == 1
    assert page.locator("#layers").count() == 0


def test_nothing_measured_is_a_page_too(opened: Open, tmp_path: Path) -> None:
    artifact(tmp_path / "a")
    page = opened(Path(report([tmp_path], tmp_path / "r.html")))
    assert page.locator(".reason").inner_text() == "not measured yet: edgevit profile measures it"
    assert page.locator(".plot").count() == 0


NAME = "a<img src=x onerror=alert(0)><b>"


def hostile(folder: Path) -> Path:
    """An artifact whose every string tries to become markup."""
    made = artifact(folder / NAME, model=HOSTILE)
    record = json.loads((made / "edgevit.json").read_text())
    record["model"]["weights"]["origin"] = record["edgevit"] = record["created"] = HOSTILE
    record["versions"] = {HOSTILE: HOSTILE}
    record["accuracy"]["data"] = HOSTILE
    record["target"] = HOSTILE
    (made / "edgevit.json").write_text(json.dumps(record))
    evil = {"reasons": [HOSTILE], "unmonitored": [HOSTILE], "inputs": HOSTILE, "environment": {HOSTILE: [HOSTILE]}}
    layers = [(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1.0), *blocks(1.0)]
    measure(made, run(samples(3)), layers=layers, extra=evil, runtime=HOSTILE.replace("/", ""), scenario=HOSTILE)
    failed = artifact(folder / "b", model=HOSTILE)
    record = json.loads((failed / "edgevit.json").read_text())
    record["parity"] |= {"status": "unverified", "reason": HOSTILE}
    (failed / "edgevit.json").write_text(json.dumps(record))
    return folder


def test_nothing_from_a_file_becomes_markup(opened: Open, tmp_path: Path) -> None:
    out = Path(report([hostile(tmp_path)], tmp_path / "r.html"))
    page = opened(out)
    draw_all(page)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.locator("img").count() == 0
    assert page.locator("svg a, svg script").count() == 0
    assert page.evaluate("document.scripts.length") == 4  # figures, library, page script, the unpacked library
    assert page.locator(".reason").inner_text() == HOSTILE
    assert HOSTILE in page.locator("h1").inner_text()
    # Plotly would make its own markup of a name, and drop what it does not know: it must show every letter.
    drawn = page.locator(".plot").evaluate_all(
        "all => all.map(plot => [...plot.querySelectorAll('svg text')].map(text => text.textContent).join(' | '))"
    )
    assert sum(NAME in shown for shown in drawn) >= 2, "plots name their rows"
    assert any(HOSTILE[:39] in shown for shown in drawn), "plots name layers, cut at 40 letters"
    assert page.locator(".plot img, .plot b, .plot [style*=bold]").count() == 0


def test_without_the_plotting_library_the_pip_line_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgevit import registry
    from edgevit.profiles.report import page

    page._plotly.cache_clear()
    monkeypatch.setattr(registry, "version_of", lambda package: None)
    with pytest.raises(MissingDependency, match="plotly") as caught:
        report([artifact(tmp_path / "a")], tmp_path / "r.html")
    assert caught.value.hint == pip_line("edgevit[report]")
    assert str(report([tmp_path], format="md")).startswith("# edgevit report")


def test_a_page_made_twice_is_the_same(tmp_path: Path) -> None:
    from edgevit.profiles.report.collect import collect
    from edgevit.profiles.report.page import render

    measure(artifact(tmp_path / "a"), run(samples(3)))
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    assert render(collect([tmp_path]), now=now) == render(collect([tmp_path]), now=now)
