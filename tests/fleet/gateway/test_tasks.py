"""Artifacts of every task over HTTP: tensors, records, pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import chromium
from fleet.gateway.test_gateway import Client, body_of, served
from PIL import Image
from playwright.sync_api import expect
from task_models import TASKS, all_exported
from torch import nn
from torch.nn import functional

import edgevit
from edgevit.fleet.gateway import answering
from edgevit.fleet.gateway.answering import embedded
from edgevit.runtimes.base import open_session


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return all_exported(tmp_path_factory.mktemp("tasks"))


@contextmanager
def gateway(artifact: Path, **bounds: int) -> Iterator[Client]:
    model = embedded(artifact, threads=1)
    try:
        with served(model, **bounds) as ask:
            yield ask
    finally:
        model.close()


def pixels() -> np.ndarray:
    found = np.zeros((24, 48, 3), np.uint8)
    found[:, 24:] = (250, 240, 230)
    return found


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("task", TASKS)
def test_an_image_gives_what_predict_says_of_it(artifacts: Mapping[str, Path], task: str) -> None:
    (said,) = edgevit.predict(artifacts[task], pixels(), threads=1)
    with gateway(artifacts[task]) as ask:
        answer = ask("POST", f"/v2/models/{task}/predict", png(pixels()))
        assert answer.status == 200
        found = answer.json
        record = json.loads(json.dumps(said.answer.record()))
        assert {name: found[name] for name in record} == record
        assert (found["task"], found["words"]) == (task, said.answer.words())
        assert (found["where"], found["parts"], found["degraded"]) == ("embedded", 1, False)
        refused = ask("POST", f"/v2/models/{task}/classify", png(pixels()))
        assert (refused.status, "not an image classifier" in refused.json["error"]) == (400, True)
        broken = ask("POST", f"/v2/models/{task}/predict", b"no picture")
        assert (broken.status, list(broken.json)) == (400, ["error"])


@pytest.mark.parametrize("task", TASKS)
def test_a_picture_is_drawn_where_there_is_one_to_see(artifacts: Mapping[str, Path], task: str) -> None:
    (said,) = edgevit.predict(artifacts[task], pixels(), threads=1)
    with gateway(artifacts[task]) as ask:
        answer = ask("POST", f"/v2/models/{task}/picture", png(pixels()))
    drawn = said.drawn()
    if drawn is None:
        assert (answer.status, "cannot be drawn" in answer.json["error"]) == (400, True)
        return
    assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
    assert (np.asarray(Image.open(io.BytesIO(answer.body))) == drawn).all()


@pytest.mark.parametrize("task", TASKS)
def test_tensors_give_all_outputs(artifacts: Mapping[str, Path], task: str) -> None:
    rows = np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)
    with gateway(artifacts[task]) as ask, open_session(artifacts[task], threads=1) as session:
        found = ask("POST", f"/v2/models/{task}/infer", json.dumps(body_of(rows))).json
        expected = session.infer({"image": rows})
    outputs = {one["name"]: np.reshape(one["data"], one["shape"]) for one in found["outputs"]}
    assert outputs.keys() == expected.keys()
    for name, array in expected.items():
        assert outputs[name] == pytest.approx(array, abs=1e-6)


class Doubled(nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(image, scale_factor=2, mode="bilinear")


def test_tensors_and_pictures_of_every_size_of_a_range_are_taken(tmp_path: Path) -> None:
    steps = {"mean": 0, "std": 1, "crop": "pad"}
    out = tmp_path / "doubled"
    edgevit.export(Doubled(), "onnx", out=out, image_size="16-48x16-64/8", task="restore", preprocess=steps)
    with gateway(out) as ask:
        said = ask("GET", "/v2/models/doubled", b"").json
        assert said["inputs"][0]["shape"] == [1, 3, -1, -1]
        assert said["outputs"][0]["shape"] == [1, 3, -1, -1]
        for size in ((16, 64), (48, 24)):
            rows = np.random.default_rng(0).random((1, 3, *size), np.float32)
            found = ask("POST", "/v2/models/doubled/infer", json.dumps(body_of(rows)).encode())
            assert found.status == 200
            assert found.json["outputs"][0]["shape"] == [1, 3, 2 * size[0], 2 * size[1]]
        wrong = ask(
            "POST", "/v2/models/doubled/infer", json.dumps(body_of(np.zeros((1, 3, 20, 64), np.float32))).encode()
        )
        assert wrong.status == 400
        assert "takes images of 16-48x16-64/8, not 20x64; the nearest is" in wrong.json["error"]
        drawn = ask("POST", "/v2/models/doubled/picture", png(pixels()))
        assert Image.open(io.BytesIO(drawn.body)).size == (96, 48)


def test_the_guards_are_those_of_classify(artifacts: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "LARGE_PIXELS", 1000)
    with gateway(artifacts["segment"], body_bytes=4096) as ask:
        for path in ("predict", "picture"):
            where = f"/v2/models/segment/{path}"
            assert ask("POST", where, b"").status == 400
            assert ask("POST", where, b"x" * 5000).status == 413
            assert ask("POST", where, png(pixels()), {"Host": "evil.example"}).status in (403, 421)
            assert ask("POST", where, png(pixels()), {"Origin": "http://evil.example"}).status == 403
            assert ask("POST", f"/v2/models/other/{path}", png(pixels())).status == 404
            large = ask("POST", where, png(pixels()))
            assert (large.status, "smaller" in large.json["error"]) == (400, True)


def test_a_classifier_is_asked_by_either_name(make_artifact) -> None:
    with gateway(make_artifact("lone")) as ask:
        one, other = (ask("POST", f"/v2/models/lone/{path}", png(pixels())).json for path in ("classify", "predict"))
        assert (one["task"], one["top"]) == (other["task"], other["top"]) == ("classify", one["top"])
        assert ask("POST", "/v2/models/lone/picture", png(pixels())).status == 400


def test_the_dashboard_shows_the_answer_as_words_and_as_a_picture(artifacts: Mapping[str, Path], tmp_path) -> None:
    (tmp_path / "photo.png").write_bytes(png(pixels()))
    heard: list[str] = []
    with gateway(artifacts["segment"]) as ask, chromium() as browser:
        page = browser.new_page()
        page.on("console", lambda message: heard.append(message.text))
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.goto(f"http://{ask.host}/")
        page.wait_for_selector("html[data-live=yes]")
        page.set_input_files("#file", tmp_path / "photo.png")
        expect(page.locator("#answer")).to_contain_text("dark 50.0%, bright 50.0%", timeout=20_000)
        expect(page.locator("#preview")).to_have_attribute("alt", "The answer as a picture", timeout=20_000)
        expect(page.locator("#preview")).to_have_js_property("naturalWidth", 48)
    assert heard == []
