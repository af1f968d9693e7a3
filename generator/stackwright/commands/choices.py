"""What a person chose: the words of this call over what is remembered of the calls before, for one environment."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from msgspec import Struct
from msgspec.structs import replace

from stackwright.commands.options import FORGETTABLE, PlanOptions
from stackwright.domain.choices import Choices, TunedSetting, identify, wish_words
from stackwright.domain.environment import COMMON, EnvironmentPaths
from stackwright.domain.host import Host
from stackwright.domain.wishes import Wishes
from stackwright.engines import default_engine, engine_named
from stackwright.errors import NoPlanError, StackError, UsageError
from stackwright.project.inputs import read_choices
from stackwright.project.pins import GivenArguments, check_pins, known_setting

MODEL = "model"


class Chosen(Struct, frozen=True, kw_only=True):
    """What one environment is planned from. `options` are this call's with what is remembered filled in.

    `choices` are to be remembered from now on, beside those of `other` hosts. `remembered` has the keys of the pins,
    and `model`, that this call did not name. `notes` tell what no longer counts.
    """

    options: PlanOptions
    choices: Choices
    kept: Choices
    other: tuple[Choices, ...] = ()
    remembered: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def arguments(self) -> GivenArguments:
        """The flags of the engine, and whether this call gave none of them."""
        flags = self.options.arguments
        return GivenArguments(flags=flags, remembered=flags == self.kept.arguments)


def choose(options: PlanOptions, paths: EnvironmentPaths, host: Host, wishes: Wishes) -> Chosen:
    """Lay the words of this call over what was chosen before for this host.

    Raises:
        UsageError: `--unset` names what nobody knows, or what this call sets.
    """
    here = identify(host)
    records, damage = read_choices(paths)
    mine = next((record for record in reversed(records) if record.host.is_same(here)), None)
    other = tuple(record for record in records if not record.host.is_same(here))
    before, notes = _without_newer_words(paths, Choices() if options.reset or mine is None else mine, wishes)
    if mine is None and other and other[-1].words and not options.reset:
        notes += (_not_for_this_host(paths, other[-1]),)
    before, stale = _without_stale_tuning(paths, before, options, wishes)
    notes += stale
    kept = _without_unset(before, options)
    flags = {_flag_name(flag) for flag in before.arguments}
    known = {*FORGETTABLE, *before.pins, *before.tuned}
    strange = [key for key in options.unset if key not in known and _flag_name(key) not in flags]
    notes += tuple(f"{paths.environment}: --unset {key}: it was not kept" for key in strange)
    kept = replace(kept, default_model=None) if MODEL in options.unset else kept
    choices = replace(_laid_over(kept, options, wishes), host=here)
    named = {*dict(options.pins), *([MODEL] if options.models else [])}
    remembered = {*choices.pins, *([MODEL] if choices.models else [])} - named
    return Chosen(
        options=_filled(options, choices, paths),
        choices=choices,
        kept=_only_old(kept, options),
        other=other,
        remembered=frozenset(remembered),
        notes=(*damage, *notes),
    )


class WishedWord(Struct, frozen=True, kw_only=True):
    """What a file of wishes says of something that a command line can say too, and under which of its keys."""

    text: str
    key: str


def wished_words(wishes: Wishes) -> dict[str, WishedWord]:
    """Return those words of an environment's wishes by the key of the setting, and `model`."""
    keys = default_engine().keys
    said: list[tuple[str | None, object, str]] = [
        ("GATEWAY_BIND", wishes.gateway.bind, "gateway.bind"),
        ("GATEWAY_PORT", wishes.gateway.port, "gateway.port"),
        (keys.memory_share, f"{wishes.gpu_memory_utilization:.6g}", "gpu_memory_utilization"),
        (keys.context, wishes.max_model_len, "max_model_len"),
        (MODEL, wishes.model, "model"),
        (MODEL, ", ".join(model.name for model in wishes.models) or None, "models"),
        *((key, value, f"settings.{key}") for key, value in wishes.pins.items()),
        *((f"services.{name}", wanted, f"services.{name}") for name, wanted in wishes.services.items()),
    ]
    return {key: WishedWord(text=str(text), key=spot) for key, text, spot in said if key and text is not None}


def _without_newer_words(paths: EnvironmentPaths, before: Choices, wishes: Wishes) -> tuple[Choices, tuple[str, ...]]:
    """Leave out what a file of wishes says otherwise since: it is the newer word."""
    said = wished_words(wishes)
    chosen: dict[str, tuple[str, ...]] = {key: ("--set", f"{key}={value}") for key, value in before.pins.items()}
    if before.models:
        chosen[MODEL] = tuple(word for name in before.models for word in ("--model", name))
    chosen |= {f"services.{name}": wish_words(name, wanted=wanted) for name, wanted in before.services.items()}
    newer = [key for key in chosen if key in said and said[key].text != before.beside.get(key)]
    notes = []
    for key in newer:
        file = COMMON if wishes.is_shared(said[key].key) else paths.wishes.relative_to(paths.root)
        notes.append(
            f"{paths.environment}: {file} now says {said[key].key}: {said[key].text}, which replaces the earlier "
            f"`{shlex.join(chosen[key])}`; to have that again: `{command(paths, *chosen[key])}`"
        )
    pins = {key: value for key, value in before.pins.items() if key not in newer}
    services = {name: wanted for name, wanted in before.services.items() if f"services.{name}" not in newer}
    return replace(before, pins=pins, services=services, models=() if MODEL in newer else before.models), tuple(notes)


def _without_stale_tuning(
    paths: EnvironmentPaths, before: Choices, options: PlanOptions, wishes: Wishes
) -> tuple[Choices, tuple[str, ...]]:
    """Leave out what was measured before something else was asked for, or written into a file of wishes."""
    if not before.tuned:
        return before, ()
    if _asks_otherwise(before, options):
        return replace(before, tuned={}), (not_tuned_any_more(paths, before.tuned, "something else is asked for now"),)
    said = wished_words(wishes)
    stale = {key: one for key, one in before.tuned.items() if (said[key].text if key in said else None) != one.beside}
    kept = {key: one for key, one in before.tuned.items() if key not in stale}
    notes = (not_tuned_any_more(paths, stale, "the environment's file says otherwise now"),) if stale else ()
    return replace(before, tuned=kept), notes


def _asks_otherwise(before: Choices, options: PlanOptions) -> bool:
    """Return whether this call asks for another mode or objective; model and engine are those that the plan has."""
    asked = ((options.mode, before.mode), (options.objective, before.objective))
    return any(now and now != then for now, then in asked) or bool({"mode", "objective"} & set(options.unset))


def not_tuned_any_more(paths: EnvironmentPaths, tuned: Mapping[str, TunedSetting], why: str) -> str:
    """Say which tuned settings are computed again, and why."""
    words = ", ".join(f"{key}={one.value}" for key, one in tuned.items())
    again = f"`stackwright tune {paths.environment}`"
    return f"{paths.environment}: tuned {words} no longer counts: {why}; {again} measures again"


def _not_for_this_host(paths: EnvironmentPaths, other: Choices) -> str:
    again = command(paths, *other.words)
    return (
        f"{paths.environment}: what was chosen for another host is not used for this one; to choose it here: `{again}`"
    )


def _without_unset(before: Choices, options: PlanOptions) -> Choices:
    flags = {_flag_name(flag) for flag in before.arguments}
    for key in options.unset:
        if key in dict(options.pins) or (key == MODEL and options.models):
            raise UsageError(f"--unset {key}: this command sets it as well", hint="leave one of the two out")
        if key not in (*FORGETTABLE, *before.pins, *before.tuned) and _flag_name(key) not in flags:
            known_setting(key, where="--unset")
    pins = {key: value for key, value in before.pins.items() if key not in options.unset}
    tuned = {key: one for key, one in before.tuned.items() if key not in (*options.unset, *dict(options.pins))}
    gone: dict[str, object] = {
        "tuned": tuned,
        **({"models": ()} if MODEL in options.unset else {}),
        **({"services": {}} if "with" in options.unset else {}),
        **({"mode": None} if "mode" in options.unset else {}),
        **({"objective": None} if "objective" in options.unset else {}),
        **({"engine": None, "release": None} if "engine" in options.unset else {}),
        "arguments": tuple(
            flag
            for flag in before.arguments
            if "arg" not in options.unset and _flag_name(flag) not in map(_flag_name, options.unset)
        ),
        **({"allow_vulnerable": False} if "allow-vulnerable" in options.unset else {}),
    }
    return replace(before, pins=pins, **gone)


def _laid_over(before: Choices, options: PlanOptions, wishes: Wishes) -> Choices:
    """Lay what this call says over what is remembered."""
    said = {key: word.text for key, word in wished_words(wishes).items()}
    named = _names_engine(options)
    pins = {**before.pins, **dict(options.pins)}
    models = options.models or before.models
    services = {**before.services, **dict(options.services)}
    named_now = (*dict(options.pins), *_wish_keys(dict(options.services)), *([MODEL] if options.models else []))
    kept = (*pins, *_wish_keys(services), *([MODEL] if models else []))
    beside = {key: said.get(key) if key in named_now else before.beside.get(key) for key in kept}
    return replace(
        before,
        mode=options.mode or before.mode,
        models=models,
        objective=options.objective or before.objective,
        engine=options.engine.name if named else before.engine,
        release=options.engine_version if named else before.release,
        allow_vulnerable=options.allow_vulnerable or before.allow_vulnerable,
        arguments=(*_not_named_again(before.arguments, options), *options.arguments),
        pins=pins,
        services=services,
        beside=beside,
        tuned={**before.tuned, **options.tuned},
    )


def _wish_keys(services: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"services.{name}" for name in services)


def _not_named_again(flags: tuple[str, ...], options: PlanOptions) -> tuple[str, ...]:
    """Return the flags that this call does not give otherwise, or turn around (`--no-…`)."""
    named = {_flag_name(flag) for flag in options.arguments}
    return tuple(flag for flag in flags if _flag_name(flag) not in named)


def _flag_name(flag: str) -> str:
    return flag.replace("=", " ").split(" ")[0].lstrip("-").removeprefix("no-").replace("_", "-")


def _names_engine(options: PlanOptions) -> bool:
    return options.engine_version is not None or options.engine.name != default_engine().name


def _only_old(kept: Choices, options: PlanOptions) -> Choices:
    """Return what is remembered and this call does not say otherwise."""
    named = _names_engine(options)
    return replace(
        kept,
        mode=None if options.mode else kept.mode,
        models=() if options.models else kept.models,
        objective=None if options.objective else kept.objective,
        engine=None if named else kept.engine,
        release=None if named else kept.release,
        allow_vulnerable=kept.allow_vulnerable and not options.allow_vulnerable,
        arguments=_not_named_again(kept.arguments, options),
        pins={key: value for key, value in kept.pins.items() if key not in dict(options.pins)},
        services={name: wanted for name, wanted in kept.services.items() if name not in dict(options.services)},
    )


def _filled(options: PlanOptions, choices: Choices, paths: EnvironmentPaths) -> PlanOptions:
    """Return the options with every choice in them. Raises UsageError where one is of an engine or setting no more."""
    with explained(choices, paths):
        check_pins(choices.pins, where=f"chosen for {paths.environment}")
        engine = default_engine() if choices.engine is None else engine_named(choices.engine)
    return replace(
        options,
        mode=choices.mode,
        models=choices.models,
        pins=tuple({**choices.pins, **dict(options.passing)}.items()),
        objective=choices.objective,
        engine=engine,
        engine_version=choices.release,
        arguments=choices.arguments,
        allow_vulnerable=choices.allow_vulnerable,
        services=tuple(choices.services.items()),
    )


@contextmanager
def explained(kept: Choices, paths: EnvironmentPaths) -> Iterator[None]:
    """Add to a refusal what was remembered for it, and how that is taken back: it may be why."""
    try:
        yield
    except (NoPlanError, UsageError) as failure:
        if not kept.words or not _may_be_why(kept, failure):
            raise
        again = command(paths, "--reset")
        told = f"kept from before: `{shlex.join(kept.words)}`; `--unset KEY` forgets one, `{again}` all"
        raise type(failure)(failure.message, hint="; ".join(filter(None, (failure.hint, told)))) from None


def _may_be_why(kept: Choices, failure: StackError) -> bool:
    """Return whether a choice that is kept may have led to a refusal: it names one, or is for want of memory."""
    from stackwright.planning.emitted import WORKERS
    from stackwright.planning.model_plan import NoRoomError

    flags = (_flag_name(flag) for flag in kept.arguments)
    alone = (kept.mode, kept.objective, kept.engine, kept.release)
    named = [*kept.pins, *kept.models, *kept.services, *flags, *(str(word) for word in alone if word is not None)]
    if any(word in failure.message for word in named) or (kept.pins and "pinned" in failure.message):
        return True
    engine = default_engine()
    of_memory = {row.spec.key for row in engine.memory_settings} | {engine.keys.processor_cache, WORKERS}
    large = kept.models or kept.services or kept.arguments or kept.mode or of_memory & set(kept.pins)
    return isinstance(failure, NoRoomError) and bool(large)


def command(paths: EnvironmentPaths, *words: str) -> str:
    """Write `configure-gpu` for an environment; what says it adds the folder and host that this call was given."""
    return shlex.join(("configure-gpu", paths.environment.value, *words))
