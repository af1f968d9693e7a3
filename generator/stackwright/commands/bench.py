"""`stackwright bench`: real load on a running stack, what it measured, and what differs between two measurements."""

from __future__ import annotations

import argparse
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct, field
from msgspec.structs import replace

from stackwright import __version__, report
from stackwright.commands.chat import choose_model
from stackwright.commands.options import (
    ENVIRONMENTS,
    add_json,
    add_out,
    add_runtime,
    parse_environment,
    record_of,
)
from stackwright.commands.page_file import PageFile
from stackwright.commands.paths import ProjectPaths, find_paths
from stackwright.commands.running import reach_running
from stackwright.commands.stack import load_stack
from stackwright.domain.environment import Environment
from stackwright.domain.load import (
    LOAD_SCHEMA,
    MEASURES,
    Difference,
    LoadAsked,
    LoadResult,
    MeasuredRelease,
    Point,
    Round,
    Workload,
    common_points,
    compare_points,
    spread_of,
)
from stackwright.domain.plan import Plan, ServedModel
from stackwright.engines.protocol import LoadGenerator
from stackwright.errors import NotHealthyError, RuntimeRefusedError, UsageError, did_you_mean
from stackwright.load.generator import read_rounds
from stackwright.load.prompts import (
    FILE_OUTPUT_TOKENS,
    PRESETS,
    PromptFile,
    PromptShape,
    Scale,
    make_prompts,
    read_prompts,
    sample_text,
    scale_from,
    shape_for,
    usual_requests,
)
from stackwright.load.results import find_result, keep_result, list_results
from stackwright.project.credentials import read_gateway_key
from stackwright.runtime import Beside, Stack
from stackwright.watching.conversation import count_tokens
from stackwright.watching.probe import Endpoint, endpoint_of

LIST, COMPARE = "list", "compare"
SWEEP = (1, 4, 16)
ROUNDS = 5
# Words of the two prompts by which a model's counting is learned: short enough for every context.
_FEW, _MANY = 8, 72
_MOST = 100_000


class LoadOptions(Struct, frozen=True, kw_only=True):
    """What load to put on. `requests`: of each round; None: four for each that runs at once, ten at least.

    `seconds`: after which a load gets no further round; two it gets in any case.
    """

    preset: str = "chat"
    file: Path | None = None
    concurrency: tuple[int, ...] = ()
    rate: tuple[float, ...] = ()
    requests: int | None = None
    seconds: int | None = None
    rounds: int = ROUNDS

    @property
    def points(self) -> tuple[Point, ...]:
        """The loads, without rounds yet."""
        if self.rate:
            return tuple(Point(rate=rate) for rate in self.rate)
        return tuple(Point(concurrency=number) for number in self.concurrency or SWEEP)


class BenchArguments(Struct, frozen=True, kw_only=True):
    """The arguments of `bench`. `action`: None to measure; `names`: the two results to compare."""

    action: str | None = None
    environment: Environment | None = None
    names: tuple[str, ...] = ()
    load: LoadOptions = field(default_factory=LoadOptions)
    model: str | None = None
    html: Path | None = None
    runtime: str = "auto"
    json: bool = False
    out: Path | None = None

    @property
    def page(self) -> PageFile | None:
        """The page to write beside."""
        from stackwright.rendering.load_report import MARK

        if self.html is None:
            return None
        return PageFile(flag="--html", target=self.html, mark=MARK, kind="report of a load test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line."""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="ENV|ACTION",
        help=f"{', '.join(ENVIRONMENTS)}; or `{LIST} ENV`, or `{COMPARE} A B` with the names of two results",
    )
    add_load_source(parser)
    loads = parser.add_mutually_exclusive_group()
    usual = ",".join(map(str, SWEEP))
    loads.add_argument(
        "--concurrency", metavar="N,N", type=_several("--concurrency"), help=f"requests at once (default: {usual})"
    )
    loads.add_argument("--rate", metavar="R,R", type=_rates, help="new requests per second instead, at random times")
    parser.add_argument(
        "--requests",
        metavar="N",
        type=read_whole("--requests"),
        help="requests of a round (default: 4 for each at once)",
    )
    parser.add_argument("--rounds", metavar="N", type=read_whole("--rounds"), help=f"of each load (default: {ROUNDS})")
    parser.add_argument(
        "--seconds", metavar="N", type=read_whole("--seconds"), help="begin no round of a load after this time, but two"
    )
    parser.add_argument("--model", metavar="NAME", help="a model of the stack (default: its first chat model)")
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one HTML page too; of `compare`, both results")
    for add in (add_runtime, add_json, add_out):
        add(parser)


def add_load_source(parser: argparse.ArgumentParser) -> None:
    """Take what is sent: `--preset` or `--file`."""
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--preset", metavar="NAME", type=_preset, help=f"{', '.join(PRESETS)} (default: chat)")
    kinds.add_argument("--file", metavar="FILE", type=Path, help='prompts of your own: lines of JSON, {"prompt": "…"}')


def _preset(text: str) -> str:
    if text not in PRESETS:
        hint = did_you_mean(text, PRESETS) or "for example `--preset chat`"
        raise UsageError(f"--preset: found `{text[:40]}`, allowed: {', '.join(PRESETS)}", hint=hint)
    return text


def read_whole(flag: str) -> Callable[[str], int]:
    """Return what reads a flag's whole number, 1 to 100000. It raises UsageError."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) < 7 and 1 <= int(text) <= _MOST):
            raise UsageError(
                f"{flag}: found `{text[:40]}`, allowed: a whole number, 1 to {_MOST}", hint=f"for example `{flag} 10`"
            )
        return int(text)

    return read


def _several(flag: str) -> Callable[[str], tuple[int, ...]]:
    read = read_whole(flag)
    return lambda text: tuple(dict.fromkeys(read(part.strip()) for part in text.split(",")))


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        rates = ()
    if not rates or not all(math.isfinite(rate) and 0.001 <= rate <= _MOST for rate in rates):
        raise UsageError(
            f"--rate: found `{text[:40]}`, allowed: requests per second, 0.001 to {_MOST}",
            hint="for example `--rate 0.5,2`",
        )
    return rates


def read_arguments(given: argparse.Namespace) -> BenchArguments:
    """Turn the parsed words into the record."""
    words = list(given.words)
    action = words.pop(0) if words[:1] in ([LIST], [COMPARE]) else None
    wanted = {None: ("ENV",), LIST: ("ENV",), COMPARE: ("A", "B")}[action]
    if len(words) != len(wanted):
        shape = " ".join(("stackwright", "bench", *([action] if action else ()), *wanted))
        named = "the following arguments are required" if len(words) < len(wanted) else "found too many words"
        raise UsageError(f"bench: {named}: {', '.join(wanted)}", hint=f"`{shape}`; `stackwright bench --help`")
    if action == LIST and given.html is not None:
        hint = f"`stackwright bench {COMPARE} A B --html FILE` makes one of stored results"
        raise UsageError(f"bench {LIST}: --html: a list has no page", hint=hint)
    asked = {name: value for name in LoadOptions.__annotations__ if (value := vars(given)[name]) is not None}
    return record_of(
        BenchArguments,
        given,
        action=action,
        environment=None if action == COMPARE else parse_environment(words[0]),
        names=tuple(words) if action == COMPARE else (),
        load=LoadOptions(**asked),
    )


def run(arguments: BenchArguments) -> None:
    """Measure, list or compare.

    Raises:
        UsageError: a file or result cannot be read, or the gateway refuses the requests.
        NotHealthyError, RuntimeRefusedError: the stack does not run, or the load could not be put on it.
    """
    paths = find_paths(arguments.out)
    if arguments.page is not None:
        arguments.page.refuse_to_overwrite()
    if arguments.action == COMPARE:
        _compare(paths, arguments)
    elif arguments.environment is not None and arguments.action == LIST:
        _list(paths, arguments.environment, json=arguments.json)
    elif arguments.environment is not None:
        _measure(load_stack(paths.of(arguments.environment)), arguments)


def _list(paths: ProjectPaths, environment: Environment, *, json: bool) -> None:
    from stackwright.rendering.load_page import describe_load, describe_workload
    from stackwright.rendering.table import Column

    results = list_results(paths.state, environment)
    if json:
        report.print_json({"results": results})
        return
    if not results:
        raise UsageError(f"{environment}: no result yet", hint=f"`stackwright bench {environment}`")
    columns = [Column(title=title, cut=title == "sent", rank=rank) for title, rank in _LISTED]
    rows = [
        [
            result.name,
            result.model,
            describe_workload(result.workload),
            ", ".join(map(describe_load, result.points)),
            "interrupted" if result.interrupted else "",
        ]
        for result in results
    ]
    report.print_table(columns, rows)


_LISTED = (("name", 0), ("model", 2), ("sent", 3), ("loads", 1), ("note", 4))


def _compare(paths: ProjectPaths, arguments: BenchArguments) -> None:
    """Show what differs. Raises UsageError where the two have no load in common, or sent different things."""
    from stackwright.rendering.load_page import describe_workload, difference_table, unlike_lines, verdict_line

    a, b = (find_result(paths.state, name) for name in arguments.names)
    if a.workload != b.workload:
        said = f"A sent {describe_workload(a.workload)}; B sent {describe_workload(b.workload)}"
        raise UsageError(f"these cannot be compared: {said}", hint="measure both with the same --preset or --file")
    pairs = common_points(a, b)
    if not pairs:
        raise UsageError(
            f"{a.name} and {b.name} have no load in common", hint="measure both with the same --concurrency or --rate"
        )
    rows = [(one, compare_points(one, other)) for one, other in pairs]
    _write_page(arguments.page, (a, b), rows)
    unlike = list(unlike_lines(a, b))
    if arguments.json:
        points = [{"concurrency": one.concurrency, "rate": one.rate, "differences": found} for one, found in rows]
        report.print_json({"a": a.name, "b": b.name, "unlike": unlike, "points": points})
        return
    report.print_lines([f"A: {a.name}   B: {b.name}", *unlike, ""])
    report.print_table(*difference_table(rows))
    report.print_lines(["", verdict_line(rows), "noise: the ranges of the rounds meet"])


class Bench:
    """One load test on one running stack. `scale`: how its model counts words, where that is known already."""

    def __init__(self, stack: Stack, asked: str, place: Beside, load: LoadOptions, scale: Scale | None = None) -> None:
        self._stack, self._asked, self._place, self._load = stack, asked, place, load
        self._generator, self._endpoint = generator_of(stack), endpoint_of(stack)
        self._key = read_gateway_key(stack.secrets)
        self._limit_s = float(stack.value(stack.access.answers_within_s))
        self._file: PromptFile | None = None if load.file is None else read_prompts(load.file)
        self.scale = scale or (Scale(tokens_per_word=1.0, overhead=0.0) if self._file else self._learn_scale())
        wanted = PRESETS[load.preset]
        context = context_of(stack, own_model(stack.plan, asked))
        self._shape: PromptShape = wanted if self._file else shape_for(wanted, context)
        self._shortened = self._file is None and self._shape != wanted
        self._sent = 0

    @property
    def workload(self) -> Workload:
        """What is sent, as the result says it."""
        if self._file is not None:
            return Workload(file=self._file.name, output_tokens=FILE_OUTPUT_TOKENS)
        return Workload(
            preset=self._load.preset,
            input_tokens=self._shape.input_tokens,
            shared_tokens=self._shape.shared_tokens,
            output_tokens=self._shape.output_tokens,
            shortened=self._shortened,
        )

    def _learn_scale(self) -> Scale:
        """Ask how many tokens two prompts have: the generator then needs no tokenizer of the model."""
        few, many = (
            (words, count_tokens(self._endpoint, self._key, self._asked, sample_text(words, "scale"), self._limit_s))
            for words in (_FEW, _MANY)
        )
        return scale_from(few, many)

    def measure(self, point: Point, numbers: Sequence[int], seed: str) -> tuple[Round, ...]:
        """Send rounds, and return what each measured; number and seed always give the same prompts, a file the next."""
        count = self._load.requests or usual_requests(point.load)
        asked = LoadAsked(
            url=self._endpoint.url if self._place.port is None else _inner_url(self._endpoint, self._place.port),
            key=self._key,
            model=self._asked,
            rounds=[self._prompts(point, number, count, seed) for number in numbers],
            output_tokens=self.workload.output_tokens,
            concurrency=point.concurrency,
            rate=point.rate,
        )
        waves = math.ceil(count / point.concurrency) if point.concurrency else 1
        lasts_s = len(numbers) * (waves * self._limit_s + (count / point.rate if point.rate else 0.0))
        generator = self._generator
        said = self._place.run(generator.program, generator.given(asked), generator.starts_within_s + lasts_s)
        return read_rounds(generator.name, said, self._key)

    def _prompts(self, point: Point, number: int, count: int, seed: str) -> list[str]:
        if self._file is not None:
            self._sent += count
            return self._file.take(count, self._sent - count)
        return make_prompts(self._shape, self.scale, count, f"{seed} {point.load} {number}")


def _inner_url(endpoint: Endpoint, port: int) -> str:
    return replace(endpoint, bind="127.0.0.1", port=port).url


def context_of(stack: Stack, model: ServedModel) -> int | None:
    """Return the tokens that one request may have, the smallest of the model's replicas; None where it is not known."""
    texts = [stack.values(replica)[stack.engine.keys.context] for replica in model.replicas]
    return min((int(text) for text in texts if text.isascii() and text.isdecimal()), default=None)


def _measure(stack: Stack, arguments: BenchArguments) -> None:
    """Put the load on, keep what was measured, and show it; after Ctrl-C too."""
    environment = stack.plan.environment
    asked = choose_model(stack.plan, arguments.model)
    model = own_model(stack.plan, asked)
    try:
        bench = Bench(stack, asked, place_of(stack, model, arguments.runtime), arguments.load)
    except (NotHealthyError, RuntimeRefusedError) as failure:
        hint = failure.hint or f"`start-environment {environment}`; `stackwright status {environment}` says what runs"
        raise type(failure)(failure.message, hint=hint) from None
    if bench.workload.shortened:
        report.warn(f"{arguments.load.preset} does not fit the context of {asked}: shortened")
    result = _begin_result(stack, asked, bench.workload)
    points: list[Point] = []
    try:
        for point in arguments.load.points:
            points.append(point)
            _fill(bench, points, arguments.load, result.name)
    except KeyboardInterrupt:
        _finish(stack, replace(result, points=_measured(points), interrupted=True), arguments)
        raise
    except NotHealthyError as failure:
        _finish(stack, replace(result, points=_measured(points), interrupted=True), arguments)
        hint = failure.hint or f"`stackwright status {environment}`"
        raise NotHealthyError(failure.message, hint=hint) from None
    _finish(stack, replace(result, points=_measured(points)), arguments)


def _measured(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(point for point in points if point.rounds)


def own_model(plan: Plan, asked: str) -> ServedModel:
    """Return the plan's model of a name. Raises UsageError for one of a cloud: its bill is the person's."""
    found = next((model for model in plan.models if asked in (model.name, *model.aliases)), None)
    if found is None:
        raise UsageError(f"`{asked}` is served by a cloud, which is not measured", hint="name a model of this stack")
    return found


def place_of(stack: Stack, model: ServedModel, runtime: str) -> Beside:
    """Return where the generator runs. Raises RuntimeRefusedError where the stack or the engine is not there."""
    service = stack.service(model.replicas[0].name)
    place = None if service is None else reach_running(stack, runtime).beside(service)
    if place is None:
        raise RuntimeRefusedError(
            f"{stack.plan.environment} does not run: {stack.engine.title} is not installed here yet",
            hint=f"`start-environment {stack.plan.environment}`",
        )
    return place


def generator_of(stack: Stack) -> LoadGenerator:
    """Return what sends the load. Raises UsageError where the engine brings nothing for that."""
    generator = stack.engine.load_generator
    if generator is None:
        raise UsageError(f"{stack.engine.title} brings no load generator: nothing measures it", hint=None)
    return generator


def _begin_result(stack: Stack, model: str, workload: Workload) -> LoadResult:
    from stackwright.rendering.sheet import ASCII
    from stackwright.rendering.summary import describe_device, gpus_of

    plan, now = stack.plan, datetime.now(UTC)
    return LoadResult(
        schema=LOAD_SCHEMA,
        name=f"{plan.environment.value}-{now:%Y%m%d-%H%M%S}",
        date=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        environment=plan.environment,
        host=describe_device(plan.host, gpus_of(plan, plan.replicas), plan.replicas, ASCII),
        plan_digest=hashlib.sha256(stack.paths.plan.read_bytes()).hexdigest(),
        release=MeasuredRelease(
            stackwright=__version__, engine=f"{plan.engine.name} {plan.engine.version}", image=plan.engine.image
        ),
        generator=generator_of(stack).name,
        model=model,
        workload=workload,
        points=(),
    )


def _fill(bench: Bench, points: list[Point], load: LoadOptions, seed: str) -> None:
    """Measure the rounds of the last point, and lay each in as it comes."""
    from stackwright.rendering.load_page import describe_load, format_value

    begun = time.monotonic()
    for number in range(1, load.rounds + 1):
        if load.seconds is not None and number > 2 and time.monotonic() - begun > load.seconds:
            return
        [one] = bench.measure(points[-1], (number,), seed)
        points[-1] = replace(points[-1], rounds=(*points[-1].rounds, one))
        speed, first = one.output_tokens_per_s, one.first_token.p50
        told = [f"{format_value(speed)} tokens/s" if speed is not None else "no time passed"]
        told += [f"first token {format_value(first)} ms"] if first is not None else []
        told += [f"{one.failed} of {one.requests} failed: {one.errors[0]}"] if one.errors else []
        report.tell(
            f"{describe_load(points[-1])}, round {number} of {load.rounds}: {report.on_one_line(', '.join(told))}"
        )


def _finish(stack: Stack, result: LoadResult, arguments: BenchArguments) -> None:
    """Keep a result and show it; nothing where nothing was measured."""
    from stackwright.rendering.load_page import describe_result, plot_lines, point_table

    if not result.points:
        return
    file = keep_result(stack.state, result)
    _write_page(arguments.page, (result,))
    if arguments.json:
        summary = [
            {
                "concurrency": point.concurrency,
                "rate": point.rate,
                "measures": {measure.name: spread_of(point.rounds, measure) for measure in MEASURES},
            }
            for point in result.points
        ]
        report.print_json({"result": result, "file": str(file), "summary": summary})
        return
    report.print_lines([*describe_result(result), ""])
    left_out = report.print_table(*point_table(result.points))
    report.print_text("\n".join(map(report.on_one_line, plot_lines(result.points, report.sheet()))))
    report.tell(f"kept as {file}" + (f"; left out for want of room: {', '.join(left_out)}" if left_out else ""))


def _write_page(
    page: PageFile | None,
    results: Sequence[LoadResult],
    differences: Sequence[tuple[Point, Sequence[Difference]]] = (),
) -> None:
    if page is not None:
        from stackwright.rendering.load_report import render_load_page

        page.write(render_load_page(results, __version__, differences))
