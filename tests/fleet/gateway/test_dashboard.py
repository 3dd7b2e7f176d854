"""The dashboard in a real browser over a real fleet: four node processes, of which one is killed and comes back."""

from __future__ import annotations

import io
import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from chromium import chromium
from fleet.fleet_nodes import Nodes, nodes, wait_live
from fleet.gateway.test_gateway import Client
from fleet.tiny_fleet import make_bundle
from PIL import Image
from playwright.sync_api import Browser, FileChooser, Locator, Page, expect

from edgevit.bundle.embedded import BundleSession
from edgevit.fleet.asking.where import reach
from edgevit.fleet.bus.link import Link
from edgevit.fleet.bus.names import Names
from edgevit.fleet.gateway.answering import FleetModel
from edgevit.fleet.gateway.app import Gateway
from edgevit.fleet.gateway.server import run
from edgevit.fleet.operating.deploy import deploy
from edgevit.fleet.operating.watch import Watch

NAMES = ("pi-0", "pi-1", "pi-2", "pi-3")
SOON_MS = 20_000  # a busy machine; on an idle one it takes a second


@dataclass(frozen=True)
class Running:
    url: str
    bundle: Path
    nodes: Nodes


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("dashboard")
    bundle = make_bundle(folder / "digits", parts=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEVIT_HOME", str(folder / "home"))
        with nodes(folder / "home", *NAMES) as processes:
            wait_live(Link(), *NAMES)
            deploy(bundle, Link(), replace_after_s=3600)
            reached = reach(bundle, link=Link())
            assert reached is not None
            watch = Watch(reached.bus, Names())
            gateway = Gateway(FleetModel(reached, "digits"), watch=watch)
            with socket.create_server(("127.0.0.1", 0)) as listening:
                thread = threading.Thread(target=run, args=(gateway, listening))
                thread.start()
                yield Running(f"http://127.0.0.1:{listening.getsockname()[1]}/", bundle, processes)
                gateway.stop()
                thread.join(20)
                gateway.close()
            watch.close()
            reached.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def page(browser: Browser, running: Running) -> Iterator[Page]:
    """The page, opened; in the end nothing was logged or raised, and no other server asked."""
    heard: list[str] = []
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(SOON_MS)
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("request", lambda request: heard.append(request.url) if not local(request.url, running.url) else None)
    page.goto(running.url)
    page.wait_for_selector("html[data-live=yes]")
    yield page
    context.close()
    assert heard == []


def local(url: str, own: str) -> bool:
    return url.startswith((own, "data:", "blob:"))


def soon(place: Locator, text: str | re.Pattern[str]) -> None:
    expect(place).to_contain_text(text, timeout=SOON_MS)


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def drop(page: Page, name: str = "seven.png") -> None:
    """Drop an image on the zone, as the mouse does."""
    data = page.evaluate_handle(
        """([bytes, name]) => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"})); return data; }""",
        [list(picture()), name],
    )
    page.dispatch_event("#drop", "drop", {"dataTransfer": data})


def test_four_nodes_their_sub_models_and_classes_are_shown(page: Page) -> None:
    soon(page.locator("#n-nodes"), "4/4")
    soon(page.locator("#n-parts"), "4/4")
    assert sorted(page.locator("#cards h3").all_inner_texts()) == list(NAMES)
    assert [text.upper() for text in page.locator("#cards .badge").all_inner_texts()] == ["UP"] * 4
    soon(page.locator("#part-rows tr[data-part=part-2]"), "4, 5")
    assert page.locator("#link").inner_text() == "LIVE"
    assert page.title() == "digits · edgevit"


def test_a_dropped_image_is_answered_by_every_node_with_the_time_each_took(page: Page) -> None:
    drop(page)
    soon(page.locator("#answer"), "4/4 sub-models in")
    assert page.locator("#answer .classes li").count() == 5
    rows = page.locator("#answer tbody tr")
    assert rows.count() == 4
    assert sorted(rows.locator("td:nth-child(2)").all_inner_texts()) == list(NAMES)
    soon(page.locator("#cards li").first, re.compile("network .* queue .* compute"))
    expect(page.locator("#n-p50")).to_contain_text("ms", timeout=SOON_MS)


def test_an_image_can_be_chosen_with_the_keyboard(page: Page) -> None:
    choosers: list[FileChooser] = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # early: the browser is told without waiting
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.locator("#try:focus").wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "choose"
    page.keyboard.press("Enter")
    for _ in range(200):
        if choosers:
            break
        page.wait_for_timeout(50)
    choosers[0].set_files({"name": "seven.png", "mimeType": "image/png", "buffer": picture()})
    soon(page.locator("#answer"), "sub-models in")
    assert page.locator("#preview").get_attribute("alt") == "The chosen image, seven.png"


def test_what_is_no_image_is_said_in_words(browser: Browser, running: Running) -> None:
    page = browser.new_page()
    page.goto(running.url)
    page.wait_for_selector("html[data-live=yes]")
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no image"})
    soon(page.locator("#answer"), "not an image that can be read here")
    page.close()


def test_everything_has_a_name_and_a_landmark(page: Page) -> None:
    assert page.locator("main").count() == page.locator("header").count() == page.locator("footer").count() == 1
    for section in page.locator("section").all():
        label = section.get_attribute("aria-label") or section.get_attribute("aria-labelledby")
        assert label
    for button in page.locator("button").all():
        assert button.inner_text().strip() or button.get_attribute("aria-label")
    assert page.locator("[aria-live=polite]").count() == 2
    assert page.locator("h1").count() == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_themes(browser: Browser, running: Running, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(running.url)
    page.wait_for_selector("html[data-live=yes]")
    for place in ("body", ".small", ".what", ".badge.up", "footer a", "#choose"):
        ratio = page.locator(place).first.evaluate(
            """(place) => {
              const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
              const light = (colour) => {
                canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
                const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => {
                  const share = value / 255; return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
                });
                return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
              };
              let behind = place;
              while (getComputedStyle(behind).backgroundColor === "rgba(0, 0, 0, 0)") behind = behind.parentElement;
              const two = [light(getComputedStyle(place).color), light(getComputedStyle(behind).backgroundColor)];
              return (Math.max(...two) + 0.05) / (Math.min(...two) + 0.05);
            }"""
        )
        assert ratio >= 4.5, place
    page.close()


def test_a_phone_needs_no_sideways_scrolling(browser: Browser, running: Running) -> None:
    page = browser.new_page(viewport={"width": 360, "height": 740})
    page.goto(running.url)
    page.wait_for_selector("html[data-live=yes]")
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": picture()})
    soon(page.locator("#answer"), "sub-models in")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_the_theme_is_switched_and_remembered(page: Page) -> None:
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.locator("#theme").click()
    after = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert before != after
    page.reload()
    page.wait_for_selector("html[data-live=yes]")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == after


def test_the_protocol_and_the_metrics_are_those_of_the_same_fleet(running: Running) -> None:
    ask = Client(running.url)
    array = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
    one = {"name": "image", "shape": [2, 3, 16, 16], "datatype": "FP32", "data": array.ravel().tolist()}
    found = ask("POST", "/v2/models/digits/infer", json.dumps({"inputs": [one]})).json
    with BundleSession(running.bundle) as session:
        expected = session.answer({"image": array}).logits
    assert found["parameters"]["answered"] == 4
    assert np.reshape(found["outputs"][0]["data"], (2, 8)) == pytest.approx(expected, abs=1e-5)
    text = ask("GET", "/metrics").body.decode()
    for name in NAMES:
        assert f'edgevit_node_up{{node="{name}"}} 1.0' in text
        assert f'edgevit_network_seconds_count{{node="{name}"' in text


def test_a_killed_node_is_shown_as_gone_and_comes_back(page: Page, running: Running) -> None:
    lost = page.locator("#part-rows tr", has_text="pi-2").get_attribute("data-part")
    running.nodes.kill("pi-2")
    page.wait_for_selector("#cards [data-node=pi-2][data-state=gone]")
    soon(page.locator("#n-nodes"), "3/4")
    soon(page.locator(f"#part-rows tr[data-part={lost}]"), "missing")
    soon(page.locator("#event-list"), "pi-2 is gone")
    soon(page.locator("#said"), "pi-2 is gone")
    drop(page)
    soon(page.locator("#answer"), f"degraded 3/4 (missing: {lost}")
    running.nodes.start("pi-2")
    page.wait_for_selector("#cards [data-node=pi-2][data-state=up]")
    soon(page.locator("#n-parts"), "4/4")
    drop(page)
    soon(page.locator("#answer"), "4/4 sub-models in")
    soon(page.locator("#w-degraded"), "degraded of")


def test_a_stopped_node_is_called_silent(page: Page, running: Running) -> None:
    """SIGSTOP keeps the process, so that only its beats end at first; then its link."""
    running.nodes.signal("pi-1", signal.SIGSTOP)
    try:
        page.wait_for_selector("#cards [data-node=pi-1]:not([data-state=up])")
    finally:
        running.nodes.signal("pi-1", signal.SIGCONT)
    page.wait_for_selector("#cards [data-node=pi-1][data-state=up]")
