"""Weights into a model: found by its own names in any wrapper, the averaged ones first, completely or not at all."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from edgevit.errors import UnknownName, UsageError
from edgevit.models.loading.fitting import load_state, load_weights

State = dict[str, Tensor]


def model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


def filled(value: float) -> State:
    return {name: torch.full_like(tensor, value) for name, tensor in model().state_dict().items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


RAW, AVERAGED = filled(1.0), filled(2.0)


def taken(sets: dict[str, State], wanted: str | None = None) -> tuple[float, str, tuple[str, ...]]:
    """The value that all weights have after loading, with origin and notes."""
    target = model()
    found = load_weights(target, sets, "w.pth", wanted=wanted)
    values = {float(value) for tensor in target.state_dict().values() for value in tensor.flatten()}
    assert len(values) == 1
    return values.pop(), found.origin, found.notes


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "model.", "backbone.", "_orig_mod.module.", "module._orig_mod.", "model.net.module.",
     "module.model._orig_mod.backbone.", "_forward_module.model.", "_fsdp_wrapped_module."],
)  # fmt: skip
def test_prefixes_are_found_in_any_order_and_number(prefix):
    for home in ("", "state_dict", "a.b"):
        assert taken({home: under(prefix, RAW)}) == (1.0, "w.pth", ())


def test_wrappers_in_the_middle_of_names_are_left_out_on_both_sides():
    inner = {name.replace("0.", "0._orig_mod.").replace("2.", "2.module."): value for name, value in RAW.items()}
    assert taken({"": under("model.", inner)})[0] == 1.0
    wrapped = nn.DataParallel(model())
    load_state(wrapped, RAW, "w.pth")
    assert torch.equal(wrapped.module[2].weight, RAW["2.weight"])


def test_a_model_that_wraps_the_files_model_takes_its_weights():
    outer = nn.Module()
    outer.net = model()
    load_state(outer, RAW, "w.pth")
    assert torch.equal(outer.net[2].weight, RAW["2.weight"])


@pytest.mark.parametrize(
    ("raw", "averaged"),
    [
        ("model", "model_ema"),
        ("state_dict", "model_ema"),
        ("state_dict", "state_dict_ema"),
        ("state_dict", "ema"),
        ("params", "params_ema"),
        ("model_state_dict", "ema_state_dict"),
        ("state_dict", "EMA.weights"),
        ("model", "modelEma"),
        ("net", "swa_model"),
        ("model", "averaged_model"),
        ("", "ema_model"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_averaged_weights_are_taken_under_any_name_in_any_order_and_it_is_said(raw, averaged, prefix):
    for sets in ({raw: RAW, averaged: under(prefix, AVERAGED)}, {averaged: under(prefix, AVERAGED), raw: RAW}):
        value, origin, notes = taken(sets)
        assert (value, origin) == (2.0, f"w.pth#{averaged}")
        assert notes == (f"took {averaged} of w.pth, the averaged weights; for others say --weights w.pth#{raw}",)
        assert taken(sets, averaged)[:2] == (2.0, f"w.pth#{averaged}")
        assert taken(sets, raw) == (1.0, f"w.pth#{raw}", ())


def test_both_may_stand_in_one_flat_dict():
    flat = {**under("model.", RAW), **under("ema_model.module.", AVERAGED), "step": torch.tensor(3)}
    assert taken({"": flat})[:2] == (2.0, "w.pth#ema_model")
    assert taken({"": flat}, "model")[:2] == (1.0, "w.pth#model")
    assert taken({"state_dict": {**RAW, **under("ema.", AVERAGED)}})[:2] == (2.0, "w.pth#state_dict.ema")
    assert taken({"state_dict": {**RAW, **under("ema.", AVERAGED)}}, "state_dict.ema")[0] == 2.0


def test_torchs_averaged_model_is_one_unless_it_was_never_updated():
    averaging = AveragedModel(model())
    never = {name: torch.full_like(value, 3) if value.ndim else value for name, value in averaging.state_dict().items()}
    assert never["n_averaged"] == 0
    source = model()
    source.load_state_dict(AVERAGED)
    averaging.update_parameters(source)
    updated = {**under("module.", AVERAGED), "n_averaged": averaging.state_dict()["n_averaged"]}
    assert taken({"model": RAW, "mean": updated})[:2] == (2.0, "w.pth#mean")
    assert taken({"model": RAW, "ema": {**under("module.", filled(3)), "n_averaged": torch.tensor(0)}})[0] == 1.0
    assert taken({"": updated})[0] == 2.0


def test_averaged_weights_that_cannot_be_used_are_named():
    assert taken({"model": RAW, "ema.shadow_params": {"0": torch.ones(3)}}) == (
        1.0,
        "w.pth",
        ("took model of w.pth: the averaged weights in ema.shadow_params do not fit the model",),
    )


def test_sets_that_are_equally_good_are_a_question():
    with pytest.raises(
        UsageError, match="holds several sets of weights that fit the model: student, teacher"
    ) as caught:
        taken({"student": RAW, "teacher": AVERAGED})
    assert "--weights w.pth#teacher" in caught.value.hint
    assert taken({"student": RAW, "teacher": AVERAGED}, "teacher") == (2.0, "w.pth#teacher", ())
    assert taken({"student": RAW, "copy": copy.deepcopy(RAW)}) == (1.0, "w.pth", ())
    with pytest.raises(UsageError, match="ema_fast, ema_slow"):
        taken({"model": filled(3), "ema_fast": RAW, "ema_slow": AVERAGED})


def test_a_set_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(UnknownName) as caught:
        taken({"model": RAW, "model_ema": AVERAGED}, "emma")
    assert caught.value.exit_code == 2
    assert "model_ema" in caught.value.hint


def test_names_without_end_take_neither_the_memory_nor_the_screen():
    deep = {
        "a." * 200_000 + "b": torch.ones(1),
        "x" * 1_000_000: torch.ones(1),
        **{f"{n}.w": torch.ones(1) for n in range(500)},
    }
    with pytest.raises(UsageError) as caught:
        taken({"": deep})
    assert len(str(caught.value)) < 1200
    many = {f"optimizer.state.{n}": {"exp_avg": torch.ones(1)} for n in range(500)}
    with pytest.raises(UnknownName) as caught:
        taken({"model": RAW, "model_ema": AVERAGED, **many}, "nothing like it")
    assert caught.value.hint == "known: model, model_ema"


def test_other_things_of_a_trainer_are_no_weights_of_the_model():
    sets = {"optimizer.state.0": {"exp_avg": torch.ones(3)}, "state_dict": RAW, "discriminator": {"w": torch.ones(2)}}
    assert taken(sets) == (1.0, "w.pth", ())


def test_tensors_beside_the_models_are_never_left_out_in_silence():
    flat = {**under("backbone.", RAW), "decode_head.weight": torch.ones(2, 2)}
    with pytest.raises(UsageError, match=r"beside backbone\.\* there are decode_head\.weight") as caught:
        taken({"state_dict": flat})
    assert "--weights w.pth#state_dict.backbone takes backbone.* alone" in caught.value.hint
    assert taken({"state_dict": flat}, "state_dict.backbone") == (1.0, "w.pth#state_dict.backbone", ())


def test_loading_is_all_or_nothing():
    target = model()
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = {**model().state_dict(), "extra": torch.ones(1)}
    state.pop("2.bias")
    with pytest.raises(UsageError, match=r"w\.pt does not fit the model: 2\.bias is missing; extra is unexpected"):
        load_state(target, state, "w.pt")
    assert all(torch.equal(target.state_dict()[name], value) for name, value in before.items())


def test_a_mismatch_names_the_place_and_the_prefix_that_came_nearest():
    state = under("model.backbone.", {**RAW, "2.weight": torch.ones(2, 9)})
    with pytest.raises(UsageError, match=r"w\.pth#net\.backbone does not fit the model: 2\.weight is 2×9") as caught:
        load_weights(model(), {"net": {name.removeprefix("model."): value for name, value in state.items()}}, "w.pth")
    assert "the prefix backbone. of the file's names was taken off" in caught.value.hint


def test_the_number_of_classes_is_suggested_when_only_the_classifier_differs():
    target, other = nn.Module(), nn.Module()
    target.head, other.head = nn.Linear(4, 2), nn.Linear(4, 7)
    with pytest.raises(UsageError, match=r"head\.weight is 7×4 in the file and 2×4 in the model") as caught:
        load_state(target, other.state_dict(), "w.pt")
    assert "--classes N" in caught.value.hint
    assert "7 classes" in caught.value.hint


def test_a_conversion_is_tried_when_the_names_are_not_ours():
    target, source = model(), model()
    renamed = {f"x{name}": value for name, value in source.state_dict().items()}
    load_state(target, renamed, "w.pt", lambda state: {name[1:]: value for name, value in state.items()})
    assert torch.equal(target[0].weight, source[0].weight)
    wrapped = under("module.model.", renamed)
    load_state(target, wrapped, "w.pt", lambda state: {name[1:]: value for name, value in state.items()})


def test_a_conversion_that_fails_leaves_the_first_complaint():
    def convert(state):
        raise KeyError("no such layer")

    with pytest.raises(UsageError, match=r"0\.weight is missing"):
        load_state(model(), {"y": torch.ones(1)}, "w.pt", convert)


def test_batch_counters_may_be_missing_or_averaged():
    target, source = model(), model()
    state = {name: value for name, value in source.state_dict().items() if "num_batches" not in name}
    load_state(target, state, "w.pt")
    assert torch.equal(target[2].bias, source[2].bias)
    load_state(target, {**state, "1.num_batches_tracked": torch.tensor(2.5)}, "w.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_any_width_are_taken(dtype):
    target = model()
    load_state(target, {name: value.to(dtype) for name, value in RAW.items()}, "w.pt")
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, RAW["0.weight"])


def quantised(value: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch gives these types up
        return torch.quantize_per_tensor(value, 0.1, 0, torch.qint8)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda value: value.to(torch.int8), "0.weight is int8 in the file and float32 in the model"),
        (lambda value: value.bool(), "0.weight is bool in the file and float32 in the model"),
        (lambda value: value.to(torch.complex64), "0.weight is complex64 in the file and float32 in the model"),
        (quantised, r"0.weight is quantised \(qint8\) in the file"),
        (lambda value: value.to("meta"), "0.weight has no data in the file"),
    ],
)  # fmt: skip
def test_numbers_that_are_no_floats_are_not_loaded_as_floats(change, says):
    with pytest.raises(UsageError, match=says) as caught:
        load_state(model(), {**RAW, "0.weight": change(RAW["0.weight"])}, "w.pt")
    assert caught.value.hint


def test_sparse_weights_are_taken_as_what_they_stand_for():
    target = model()
    sparse = torch.tensor([[0.0, 3, 0, 0], [0, 0, 0, 5]]).to_sparse()
    load_state(target, {**RAW, "2.weight": sparse}, "w.pt")
    assert torch.equal(target[2].weight, sparse.to_dense())


def test_weights_that_the_models_own_hook_refuses_are_one_sentence():
    target = model()
    target.register_load_state_dict_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("not these\nmore")))
    with pytest.raises(UsageError, match=r"the model refused the weights of w\.pt: not these$"):
        load_state(target, RAW, "w.pt")
