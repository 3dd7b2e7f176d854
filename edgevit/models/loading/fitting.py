"""Weights into a model: found in the file by the model's own names, and loaded completely or not at all.

Which are taken where a file holds several sets that fit: the one that was asked for, else the averaged ones (they are
what trainers validate), else the only ones. Two that are equally good are a question to the user.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from edgevit.errors import UnknownName, UsageError, first_line
from edgevit.models.loading.places import Place, places, without_wrappers
from edgevit.models.loading.weights_file import State

_WORD, _NAMES = 200, 12  # characters of a name from a file, and names, that an error shows
Convert = Callable[[State], State]


@dataclass(frozen=True)
class Taken:
    """What was loaded. ``origin`` names it as ``--weights`` takes it; ``notes`` say what else there was; ``source``
    are the tensors as the file has them."""

    origin: str
    notes: tuple[str, ...] = ()
    source: State = field(default_factory=dict)


@dataclass(frozen=True)
class _Fit:
    """How a place fits the model: what to load, by the model's own names, and why not."""

    place: Place
    state: State
    problems: Sequence[str]
    stray: Sequence[str] = ()

    @property
    def whole(self) -> bool:
        return not self.problems and not self.stray


def load_state(module: nn.Module, state: Mapping[str, Tensor], origin: str, convert: Convert | None = None) -> None:
    """Load all of ``state`` into ``module``: under its own names, else after ``convert``; UsageError if both fail."""
    load_weights(module, {"": state}, origin, (convert,) if convert else ())


def load_weights(
    module: nn.Module,
    sets: Mapping[str, Mapping[str, Tensor]],
    path: str,
    converts: Sequence[Convert] = (),
    wanted: str | None = None,
) -> Taken:
    """Load those of ``sets`` (tensors by name, by where they lie in the file) that are the model's.

    ``converts`` are tried where names or shapes differ. Raises UsageError with every mismatch, and loads nothing then.
    """
    own = _own(module)
    least = max(1, len(own) // 2)
    everywhere = list(places(sets, least))
    found = [place for place in everywhere if wanted is None or wanted in (place.name, place.home)]
    if not found:
        large = [place for place in everywhere if place.name and len(place.state) >= least]
        known = [place.name for place in large if not _fit(own, place, converts).problems]
        raise UnknownName(f"weights in {path}", (wanted or "")[:_WORD], sorted(known, key=len)[:_NAMES])
    large = [place for place in found if len(place.state) >= least]
    fits = _without_strays([_fit(own, place, converts) for place in large or found], wanted)
    whole = _distinct([fit for fit in fits if fit.whole])
    if not whole:
        raise _refusal(max(fits, key=_nearness), own, path)
    best = _choice(whole, path)
    _load(module, best.state, path)
    chosen = wanted is not None or len(whole) > 1 or best.place.averaged
    name = best.place.name if wanted is None else wanted
    notes = () if wanted is not None else _notes(best.place, [fit.place for fit in whole], found, path)
    return Taken(f"{path}#{name}" if chosen else path, notes, dict(best.place.state))


def _own(module: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """The model's tensors by name without wrappers; each with its real name."""
    state = {name: (name, value) for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    return without_wrappers(state)


def _load(module: nn.Module, state: State, path: str) -> None:
    dense = {name: value.to_dense() if value.layout != torch.strided else value for name, value in state.items()}
    try:
        module.load_state_dict(dense, strict=False)  # checked before; only batch counters may lack
    except (RuntimeError, ValueError, TypeError) as exc:  # a hook of the user's own module
        raise UsageError(f"the model refused the weights of {path}: {first_line(exc)}") from exc


# --- one place ---------------------------------------------------------------------------------------------------


def _fit(own: Mapping[str, tuple[str, Tensor]], place: Place, converts: Sequence[Convert]) -> _Fit:
    """The better of the tensors as they are, without the prefix that all names of the model share, and converted."""
    best = _matched(own, place, dict(place.state))
    if not best.problems:
        return best
    for convert in converts:
        try:
            state = without_wrappers(convert(dict(place.state)))
        except Exception:  # not the layout that it knows
            continue
        best = min(best, _matched(own, place, state), key=lambda fit: len(fit.problems))
    shared = _shared_prefix(own)
    if best.problems and shared:
        wrapped = {f"{shared}{name}": value for name, value in place.state.items()}
        best = min(best, _matched(own, place, wrapped), key=lambda fit: len(fit.problems))
    return best


def _shared_prefix(own: Mapping[str, object]) -> str:
    """What all names begin with when the model only wraps another one: "model."."""
    first = {name.partition(".")[0] for name in own}
    return f"{first.pop()}." if len(first) == 1 and all("." in name for name in own) else ""


def _matched(own: Mapping[str, tuple[str, Tensor]], place: Place, state: State) -> _Fit:
    native = {own[name][0]: value for name, value in state.items() if name in own}
    return _Fit(place, native, list(_problems(own, state)))


def _problems(own: Mapping[str, tuple[str, Tensor]], state: Mapping[str, Tensor]) -> Iterator[str]:
    for name, (_, value) in own.items():
        if name in state and (said := _unlike(state[name], value, counter=_is_counter(name))):
            yield f"{name} {said}"
    yield from (f"{name} is missing" for name in own if name not in state and not _is_counter(name))
    yield from (f"{name} is unexpected" for name in state if name not in own)


def _unlike(given: Tensor, own: Tensor, *, counter: bool) -> str | None:
    """Why a tensor of the file cannot become the model's, or None."""
    if given.is_quantized:
        return f"is quantised ({_type(given)}) in the file"
    if given.is_meta or given.is_nested:
        return "has no data in the file" if given.is_meta else "is a nested tensor in the file"
    if nn.parameter.is_lazy(own):
        return "has no shape in the model before its first run"
    if given.shape != own.shape:
        return f"is {_shape(given)} in the file and {_shape(own)} in the model"
    if _kind(given) != _kind(own) and not counter:  # an average of a counter is a float, and inference ignores both
        return f"is {_type(given)} in the file and {_type(own)} in the model"
    return None


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _kind(value: Tensor) -> str:
    if value.dtype.is_floating_point:
        return "float"
    return "complex" if value.dtype.is_complex else "bool" if value.dtype == torch.bool else "integer"


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _shape(value: Tensor) -> str:
    return "×".join(map(str, value.shape)) or "a scalar"


# --- among places ------------------------------------------------------------------------------------------------


def _without_strays(fits: Sequence[_Fit], wanted: str | None) -> list[_Fit]:
    """``fits`` with the tensors that would be left out: what stands beside a place, but for counters and for other
    sets of the same weights. A place that was named by its prefix is taken alone."""
    judged = []
    for home in dict.fromkeys(fit.place.home for fit in fits):
        here = [fit for fit in fits if fit.place.home == home]
        inner = tuple(fit.place.prefix for fit in here if fit.place.prefix and not fit.problems)
        here = [_above(fit, inner) if fit.problems and not fit.place.prefix else fit for fit in here]
        full = ("", *inner) if any(not fit.place.prefix and not fit.problems for fit in here) else inner
        for fit in here:
            named = wanted is not None and wanted == fit.place.name != home
            rest = [name for name, value in fit.place.beside.items() if value.numel() > 1 and not name.startswith(full)]
            judged.append(replace(fit, stray=() if named else rest))
    return judged


def _above(fit: _Fit, inner: tuple[str, ...]) -> _Fit:
    """The fit of a dict's own names, without those of the sets that stand in it under prefixes of their own."""
    theirs = {f"{name} is unexpected" for name in fit.place.state if name.startswith(inner)}
    return replace(fit, problems=[said for said in fit.problems if said not in theirs])


def _nearness(fit: _Fit) -> tuple[bool, int, bool]:
    return not fit.problems, len(fit.state) - len(fit.problems), fit.place.averaged


def _choice(whole: Sequence[_Fit], path: str) -> _Fit:
    fresh = [fit for fit in whole if fit.place.updates != 0] or whole
    best = [fit for fit in fresh if fit.place.averaged] or fresh
    if len(best) > 1:
        names = [fit.place.name for fit in best]
        raise UsageError(
            f"{path} holds several sets of weights that fit the model: {', '.join(names[:6])}",
            hint=f"say which: --weights {path}#{names[-1]}",
        )
    return best[0]


def _distinct(fits: Sequence[_Fit]) -> list[_Fit]:
    """``fits`` without repeats of the same numbers."""
    found: list[_Fit] = []
    for fit in fits:
        if not any(_same(fit.state, other.state) for other in found):
            found.append(fit)
    return found


def _same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(
        value is other[name] or (value.layout == other[name].layout and torch.equal(value, other[name]))
        for name, value in one.items()
    )


def _notes(best: Place, whole: Sequence[Place], found: Sequence[Place], path: str) -> tuple[str, ...]:
    """Which weights were taken, where there was a choice."""
    taken = f"took {best.name or 'the outermost weights'} of {path}" + (
        ", the averaged weights" if best.averaged else ""
    )
    if others := [place.name for place in whole if place is not best]:
        return (f"{taken}; for others say --weights {path}#{others[0]}",)
    if best.averaged:
        return (taken,)
    unfit = [place.home or place.name for place in found if place.averaged]
    return (f"{taken}: the averaged weights in {unfit[0]} do not fit the model",) if unfit else ()


# --- words -------------------------------------------------------------------------------------------------------


def _refusal(fit: _Fit, own: Mapping[str, tuple[str, Tensor]], path: str) -> UsageError:
    place = fit.place
    if not fit.problems:
        return UsageError(
            f"{path} has more than this model's weights: beside {place.prefix}* there are {_shorten(list(fit.stray))}",
            hint=f"--weights {path}#{place.name} takes {place.prefix}* alone",
        )
    where = f"{path}#{place.name}" if place.name else path
    return UsageError(f"{where} does not fit the model: {_shorten(fit.problems)}", hint=_advice(fit, own))


def _shorten(problems: Sequence[str], limit: int = 4) -> str:
    rest = f"; and {len(problems) - limit} more" if len(problems) > limit else ""
    return "; ".join(one if len(one) <= _WORD else f"{one[:_WORD]}…" for one in problems[:limit]) + rest


def _advice(fit: _Fit, own: Mapping[str, tuple[str, Tensor]]) -> str:
    said = " ".join(fit.problems)
    if any(word in said for word in (" quantised ", "has no data", "nested")):
        return "save the state dict of the float model, with its data"
    if "before its first run" in said:
        return "let the factory run the model once before it returns it"
    given = fit.place.state
    wrong = {
        name: given[name].shape
        for name, (_, value) in own.items()
        if name in given and given[name].shape != value.shape
    }
    if not wrong and " in the file and " in said:
        return "integers are no weights of a float model: they need their scales, which only its own code knows"
    if wrong and all(shape[1:] == own[name][1].shape[1:] for name, shape in wrong.items()):
        rows = {shape[0] for shape in wrong.values() if shape}
        if len(rows) == 1 and any(word in name for name in wrong for word in ("head", "fc", "classifier")):
            return f"the file's classifier has {rows.pop()} classes: add --classes N with that number"
    if wrong and all("pos" in name or "bias" in name for name in wrong):
        return "the file is for another image size: add --image-size N"
    if fit.place.prefix:
        return f"the prefix {fit.place.prefix} of the file's names was taken off; are these weights of this model?"
    return "are these weights of this model?"
