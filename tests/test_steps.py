"""How pictures are prepared, as a user says it: what it means, what was assumed, and what cannot be right."""

from __future__ import annotations

import numpy as np
import pytest

from edgevit.errors import UnknownName, UsageError
from edgevit.images import Preprocess
from edgevit.request import ExportRequest, ModelChoice, of_record
from edgevit.steps import Steps, numbers, steps_of

SIZE = (8, 8)
PIXELS = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def found(**said: object) -> Preprocess:
    return Steps(**said).onto(None, SIZE)[0]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"range": "0-255"}, PIXELS.astype(np.float64)),
        ({"range": "0-1"}, PIXELS / 255),
        ({"range": "-1-1"}, PIXELS / 127.5 - 1),
        ({"range": "0-255", "mean": 128, "std": 64}, (PIXELS - 128.0) / 64),
        ({"range": "-1-1", "mean": (0.1, 0.2, 0.3), "std": 0.5}, (PIXELS / 127.5 - 1 - [0.1, 0.2, 0.3]) / 0.5),
        ({"mean": 0.5, "std": (0.5, 0.25, 0.5)}, (PIXELS / 255 - 0.5) / [0.5, 0.25, 0.5]),
    ],
    ids=["bytes", "unit", "signed", "bytes normalised", "signed normalised", "unit normalised"],
)
def test_pixels_become_what_mean_std_and_range_say(said, expected):
    made = found(crop="squash", **said)(PIXELS).transpose(1, 2, 0)
    assert np.abs(made - expected).max() <= 2e-6 * np.abs(expected).max()


def test_crop_is_a_word_or_a_share():
    assert (found(crop="squash").crop, found(crop="squash").crop_pct) == ("squash", 1.0)
    assert (found(crop="0.95").crop, found(crop="0.95").crop_pct) == ("center", 0.95)
    own = Preprocess(size=SIZE, crop="squash", crop_pct=1.0)
    assert Steps(crop="center").onto(own, SIZE)[0].crop_pct == 0.875
    assert Steps(crop="center").onto(Preprocess(size=SIZE, crop_pct=0.9), SIZE)[0].crop_pct == 0.9


def test_what_was_assumed_is_said_with_the_options_that_say_otherwise():
    (note,) = Steps().onto(None, SIZE)[1]
    assert note == (
        "assumed of its pictures: ImageNet's mean 0.485,0.456,0.406, std 0.229,0.224,0.225, centre crop 0.875, "
        "bicubic; say --mean, --std, --crop, --interpolation otherwise"
    )
    (note,) = Steps(mean=0.5, std=0.5, crop="squash").onto(None, SIZE)[1]
    assert note == "assumed of its pictures: bicubic; say --interpolation otherwise"
    assert Steps(range="0-255", crop="squash", interpolation="nearest").onto(None, SIZE)[1] == ()


def test_a_models_own_preprocessing_wins_unless_a_flag_says_otherwise_and_then_it_is_said():
    own = Preprocess(size=(4, 4), mean=(0.5,) * 3, std=(0.5,) * 3)
    assert Steps().onto(own, SIZE) == (own.model_copy(update={"size": SIZE}), ())
    assert Steps(mean=0.5).onto(own, SIZE)[1] == ()
    steps, (note,) = Steps(std=0.25, interpolation="nearest").onto(own, SIZE)
    assert (steps.mean, steps.std, steps.interpolation) == ((0.5,) * 3, (0.25,) * 3, "nearest")
    assert note == (
        "--std, --interpolation instead of its own: mean 0.5,0.5,0.5, std 0.5,0.5,0.5, centre crop 0.875, bicubic"
    )


@pytest.mark.parametrize(
    ("said", "sentence", "hint"),
    [
        ({"std": 0}, "--std must be more than 0", "divides"),
        ({"std": (0.2, -0.2, 0.2)}, "--std must be more than 0", "divides"),
        ({"mean": (0.5, 0.5)}, "--mean is one number, or one for each", "--mean 0.5"),
        ({"mean": "half"}, "--mean is one number", "for example"),
        ({"std": float("nan")}, "--std is one number", "for example"),
        ({"mean": (123.7, 116.3, 103.5)}, "no mean of pixels of 0-1", "--range=0-255"),
        ({"mean": -0.5}, "no mean of pixels of 0-1", "--range=-1-1"),
        ({"mean": 0.485, "range": "0-255"}, "of pixels of 0-1", "drop --range"),
        ({"mean": 1e9}, "no mean of pixels", "check the numbers"),
        ({"range": "0-254"}, "unknown range of pixels '0-254'", "0-255"),
        ({"interpolation": "bicubical"}, "unknown interpolation 'bicubical'", "bicubic"),
        ({"crop": "centre"}, "unknown crop 'centre'", "center"),
        ({"crop": "1.2"}, "is no share of a picture", "at most 1"),
        ({"crop": "0"}, "is no share of a picture", "at most 1"),
        ({"crop": "nan"}, "is no share of a picture", "at most 1"),
        ({"color": "rgb"}, "unknown color 'rgb'", "RGB"),
        ({"color": "GRAY", "mean": (0.1, 0.2, 0.3)}, "--mean has 3 numbers; GRAY pictures have 1 channel", "for all"),
        ({"mean": (0.1,) * 3, "std": (0.1,) * 4}, "other numbers of channels", "as many"),
        ({"crop": "letterbox", "pad_value": "256"}, "is no grey of 0 to 255", "reflect"),
        ({"crop": "letterbox", "pad_value": "-1"}, "is no grey of 0 to 255", "reflect"),
        ({"crop": "letterbox", "place": "middle"}, "unknown place 'middle'", "center"),
        ({"crop": "squash", "pad_value": "0"}, "--pad-value: of --crop squash nothing is padded", "letterbox"),
    ],
    ids=str,
)
def test_what_cannot_be_right_is_one_sentence_and_a_next_step(said, sentence, hint):
    with pytest.raises(UsageError, match=sentence) as caught:
        Steps(**said)
    assert hint in caught.value.hint


def test_channels_say_the_colours_where_nobody_does():
    assert [Steps().onto(None, SIZE, channels)[0].color for channels in (1, 3, 4)] == ["GRAY", "RGB", "RGBA"]
    grey, (note,) = Steps().onto(None, SIZE, 1)
    assert grey.mean == pytest.approx((0.449,))
    assert note.startswith("assumed of its pictures: GRAY, ImageNet's mean 0.449, std 0.226,")
    rgba = Steps().onto(None, SIZE, 4)[0]
    assert (rgba.mean[3], rgba.std[3]) == (0.0, 1.0)
    with pytest.raises(UsageError, match="--color GRAY makes 1 channel; the model takes 3") as caught:
        Steps(color="GRAY").onto(None, SIZE, 3)
    assert caught.value.hint == "say --color RGB, or leave it out"


def test_blue_first_turns_the_models_own_numbers_round_and_says_so():
    own = Preprocess(size=SIZE, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    found, (note,) = Steps(color="BGR").onto(own, SIZE)
    assert (found.color, found.mean, found.std) == ("BGR", (0.3, 0.2, 0.1), (0.6, 0.5, 0.4))
    assert note.startswith("--color instead of its own: mean 0.1,0.2,0.3")
    assert Steps(color="BGR").onto(found, SIZE) == (found, ())


def test_what_a_letterbox_is_filled_with_has_a_default_of_its_own():
    def padding(**said):
        steps = Steps(**said).onto(None, SIZE)[0]
        return steps.crop, steps.pad_value, steps.place

    assert padding(crop="letterbox") == ("letterbox", 114, "center")
    assert padding(crop="pad") == ("pad", "reflect", "top-left")
    assert padding(crop="pad", pad_value="0", place="center") == ("pad", 0, "center")
    with pytest.raises(UsageError, match="--place: of --crop center nothing is padded"):
        Steps(place="center").onto(None, SIZE)
    letterbox = Preprocess(size=SIZE, crop="letterbox", pad_value=0, place="top-left", crop_pct=1.0)
    assert Steps(pad_value="mean").onto(letterbox, SIZE)[0].place == "top-left"
    assert steps_of(letterbox).onto(None, SIZE)[0] == letterbox


def test_numbers_are_written_with_commas_or_spaces():
    assert numbers("0.5") == (0.5,)
    assert numbers("0.485, 0.456 ,0.406") == (0.485, 0.456, 0.406)
    with pytest.raises(UsageError, match="is not a number, or three"):
        numbers("a,b")


def test_python_takes_a_dict_or_a_whole_preprocess():
    whole = Preprocess(size=SIZE, mean=(0.1,) * 3, std=(0.2,) * 3, crop_pct=0.9, interpolation="nearest")
    assert steps_of(whole).onto(None, SIZE) == (whole, ())
    assert steps_of({"mean": [0.1, 0.2, 0.3]}).mean == (0.1, 0.2, 0.3)
    with pytest.raises(UnknownName, match="unknown step of preprocess= 'means'"):
        steps_of({"means": 0.5})
    with pytest.raises(UsageError, match="preprocess= is a float"):
        steps_of(0.5)


def test_a_request_keeps_its_steps_on_the_way_to_a_worker():
    request = ExportRequest(ModelChoice("vit_nano", image_size=(32, 32), steps=Steps(mean=0.5, crop="0.9")), ("onnx",))
    assert of_record(request.record()) == request
