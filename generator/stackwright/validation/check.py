"""What a check is: the observations of the machine that it needs, its rule over them, and when it applies.

An observation touches the machine, read-only; a rule takes values and touches nothing. Each observation is made once,
whatever number of checks ask for it, and what goes wrong in it becomes `Unseen` with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from msgspec import Struct

from stackwright.domain.catalog import Catalog
from stackwright.domain.environment import Environment
from stackwright.domain.finding import Finding
from stackwright.domain.host import Host
from stackwright.domain.plan import Mode, Plan
from stackwright.domain.service import UP
from stackwright.errors import StackError
from stackwright.runtime import Runtime, Stack

if TYPE_CHECKING:
    from stackwright.domain.machine import Seen

T = TypeVar("T")


class Subject(Struct, frozen=True, kw_only=True):
    """What is checked, in values alone.

    `compose`: Compose runs the stack, else it runs as processes of this user. `runs`: it is up now. `leaving`: the
    environments that a start is to replace; what they hold counts as free.
    """

    stack: Stack
    host: Host
    catalog: Catalog
    compose: bool
    runs: bool
    leaving: tuple[Environment, ...] = ()

    @property
    def plan(self) -> Plan:
        """The plan of the stack."""
        return self.stack.plan

    @property
    def env(self) -> Mapping[str, str]:
        """The values in force."""
        return self.stack.env

    @property
    def environment(self) -> str:
        """The name of the environment, as commands take it."""
        return self.stack.plan.environment.value


class Observation(Struct, Generic[T], frozen=True, kw_only=True, eq=False):
    """One thing to observe. `waits`: for another program or the network, so it is begun before all others.

    `may_fail`: the rules that use it take `Unseen` and have words of their own for it; where another fails, its
    checks are told as not made.
    """

    take: Callable[[Machine], Seen[T]]
    waits: bool = False
    may_fail: bool = False


class Later(Generic[T]):
    """Something that is done beside all else. A thread that does not end holds no command back."""

    def __init__(self, take: Callable[[], Seen[T]]) -> None:
        """Begin."""
        from stackwright.domain.machine import Unseen

        self._take = take
        self._answer: Seen[T] = Unseen(why="not checked")
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._answer = safely(self._take)

    def result(self) -> Seen[T]:
        """Wait for what was seen."""
        self._thread.join()
        return self._answer


def safely(take: Callable[[], Seen[T]]) -> Seen[T]:
    """Observation, and turn whatever goes wrong into its reason."""
    from stackwright.domain.machine import Unseen

    try:
        return take()
    except StackError as failure:
        return Unseen(why=failure.message)
    except Exception as failure:  # noqa: BLE001 a machine unlike any other must not take the other checks with it
        return Unseen(why=f"{type(failure).__name__}: {str(failure)[:160]}")


class Machine:
    """The machine around one stack before its start, each thing looked at once; `seen` holds what is known already.

    `say` tells the person what takes long; without it, nothing that takes long is done.
    """

    def __init__(
        self,
        stack: Stack,
        host: Host,
        runtime: Runtime,
        *,
        compose: bool,
        seen: Mapping[Observation[Any], object] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Observe nothing yet."""
        self.stack, self.host, self.runtime, self.compose, self.say = stack, host, runtime, compose, say
        self._seen: dict[Observation[Any], Any] = dict(seen or {})
        self._begun: dict[Observation[Any], Later[Any]] = {}
        self._lock = Lock()

    @cached_property
    def runs(self) -> bool:
        """Whether the stack is up. Raises RuntimeRefusedError where the runtime cannot say."""
        return any(state.phase in UP for state in self.runtime.services())

    def begin(self, observations: Iterable[Observation[Any]]) -> None:
        """Begin observations beside all else."""
        for observation in observations:
            self._begin(observation)

    def see(self, observation: Observation[T]) -> Seen[T]:
        """Return what an observation shows, which is made now unless it was before."""
        if observation not in self._seen:
            begun = self._begin(observation) if observation.waits else None
            self._seen[observation] = begun.result() if begun else safely(lambda: observation.take(self))
        return cast("Seen[T]", self._seen[observation])

    def _begin(self, observation: Observation[T]) -> Later[T]:
        with self._lock:
            if observation not in self._begun:
                self._begun[observation] = Later(lambda: observation.take(self))
            return self._begun[observation]


class Condition(Struct, frozen=True, kw_only=True):
    """When a check applies, in words for its page."""

    words: str
    holds: Callable[[Subject], bool]


ALWAYS = Condition(words="always", holds=lambda _: True)
WITH_GPUS = Condition(words="plans with GPUs", holds=lambda on: on.plan.mode is not Mode.CPU)
IN_CONTAINERS = Condition(words="Compose", holds=lambda on: on.compose)
WITHOUT_CONTAINERS = Condition(words="processes", holds=lambda on: not on.compose)
DOWN = Condition(words="while the stack is down", holds=lambda on: not on.runs)
GPUS_IN_CONTAINERS = Condition(
    words="plans with GPUs under Compose", holds=lambda on: on.compose and on.plan.mode is not Mode.CPU
)


class Check(Struct, frozen=True, kw_only=True):
    """One check: `about` ends the sentence "looks at …"; `findings` are the stable names of what it may find.

    The rule is given the subject and what each of the observations shows, in their order.
    """

    name: str
    about: str
    findings: tuple[str, ...]
    rule: Callable[..., Iterable[Finding]]
    observations: tuple[Observation[Any], ...] = ()
    when: Condition = ALWAYS
