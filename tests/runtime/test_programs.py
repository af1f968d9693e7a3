"""What the processes runtime writes: read back by the real shell and the real supervisor, and free of secrets."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.domain.cloud import CloudModel
from stackwright.domain.host import Host
from stackwright.domain.plan import Plan, Replica
from stackwright.errors import RuntimeRefusedError
from stackwright.rendering.numbered import flat_settings
from stackwright.runtime import Stack
from stackwright.runtime.programs import (
    Program,
    Provisions,
    exit_code,
    render_start,
    render_supervisor,
    revision,
    stack_programs,
)
from stackwright.services.engine import ENGINE, bind_arguments

from tests.planning.several import CASES as SEVERAL
from tests.planning.several import LLAMA_70B, QWEN_4B, plan_of
from tests.planning_requests import plan_for, recorded

CALLER = {"PATH": "/usr/bin:/bin", "HOME": "/root", "HF_ENDPOINT": "http://127.0.0.1:1", "OPENAI_API_KEY": "sk-private"}


ENVIRONMENTS = {"engine": Path("/venvs/engine"), "gateway": Path("/venvs/gateway")}


def without_redis(ports: Mapping[str, int]) -> Provisions:
    """Return a machine that lacks the one program that a stack can do without."""
    return Provisions(
        virtual_environments=ENVIRONMENTS, ports=ports, shared_memory_bytes=2**34, absent=frozenset({"redis"})
    )


def stack_of(plan: Plan) -> Stack:
    """Return a plan's stack with the values that are rendered."""
    environment = {key: setting.value for key, setting in flat_settings(plan).items()}
    return Stack(root=Path("/project"), state=Path("/state"), plan=plan, env=environment)


def programs_of(
    host: str | Host, *, redis: bool = True, shared_memory_bytes: int = 2**34, caller: Mapping[str, str] = CALLER
) -> dict[str, Program]:
    """Return the programs for a host, or a recorded one, by name."""
    stack = stack_of(plan_for(recorded(host) if isinstance(host, str) else host))
    return programs_of_stack(stack, redis=redis, shared_memory_bytes=shared_memory_bytes, caller=caller)


def programs_of_stack(
    stack: Stack, *, redis: bool = True, shared_memory_bytes: int = 2**34, caller: Mapping[str, str] = CALLER
) -> dict[str, Program]:
    """Return a stack's programs by name."""
    ports = {replica.name: 20000 + number for number, replica in enumerate(stack.plan.replicas)}
    ports |= {"redis": 21000} if redis else {}
    machine = Provisions(
        virtual_environments=ENVIRONMENTS,
        ports=ports,
        shared_memory_bytes=shared_memory_bytes,
        absent=frozenset() if redis else frozenset({"redis"}),
    )
    return {program.name: program for program in stack_programs(stack, machine, caller)}


def in_force(stack: Stack, replica: Replica) -> list[str]:
    """Return the engine's arguments for one model with the values in force."""
    values = stack.values(replica)
    return list(bind_arguments(replica.args, stack.engine.flags, lambda key: values[key]))


def test_engine_listens_on_loopback_alone() -> None:
    engine = programs_of("cpu-small")["engine"]
    assert engine.arguments[-4:] == ("--host", "127.0.0.1", "--port", "20000")
    assert engine.environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert engine.environment["PYTHON"] == "/venvs/engine/bin/python"


def test_only_what_a_service_needs_is_passed_on() -> None:
    for program in programs_of("cpu-small").values():
        hub = ("HF_ENDPOINT",) if program.name == "engine" else ()
        assert program.inherited == {name: CALLER[name] for name in ("HOME", "PATH", *hub)}
        assert "OPENAI_API_KEY" not in render_start(program)


def test_gpus_are_named_by_uuid() -> None:
    plan = plan_for(recorded("2x-rtx3090-nvlink"))
    engine = programs_of("2x-rtx3090-nvlink")["engine"]
    assert engine.environment["CUDA_VISIBLE_DEVICES"] == ",".join(plan.replicas[0].gpu_uuids)
    assert engine.environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert "CUDA_VISIBLE_DEVICES" not in programs_of("cpu-small")["engine"].environment


def test_the_only_slice_is_named_by_its_gpus_number() -> None:
    """A UUID would do for CUDA, but vLLM would look for another GPU."""
    host = recorded("a100-seven-slices")
    pod = replace(host, gpus=(host.gpus[0], replace(host.gpus[3], index=1)), p2p=((True, False), (False, True)))
    assert programs_of(pod)["engine"].environment["CUDA_VISIBLE_DEVICES"] == "0"
    (first, *_) = plan_for(host).replicas
    assert programs_of(host)["engine"].environment["CUDA_VISIBLE_DEVICES"] == first.gpu_uuids[0]


@pytest.mark.parametrize("host", ["cpu-small", "2x-rtx3090-pcie"])
def test_gateway_finds_every_replica(host: str) -> None:
    programs = programs_of(host)
    replicas = [name for name in programs if name.startswith("engine")]
    ports = [programs[name].arguments[-1] for name in replicas]
    # The names under which rendering/templates/gateway.yaml.j2 looks for them.
    variables = ["ENGINE_URL", "ENGINE_2_URL"][: len(replicas)]
    addresses = [programs["gateway"].environment[name] for name in variables]
    assert addresses == [f"http://127.0.0.1:{port}/v1" for port in ports]


def test_models_in_turns_are_one_program_that_is_told_of_all() -> None:
    """What differs by model goes with it: on this host the small one would find the large one's GPUs otherwise."""
    host = recorded("8x-h100-nvswitch")
    plan = plan_of(host, *(replace(model, exclusive="turns") for model in (QWEN_4B, LLAMA_70B)))
    stack = stack_of(plan)
    machine = without_redis({"engine": 20000})
    engine, gateway = stack_programs(stack, machine, CALLER)
    told, *listen = engine.arguments
    models = json.loads(told)["models"]
    assert listen == ["--host", "127.0.0.1", "--port", "20000"]
    assert [model["name"] for model in models] == [model.name for model in plan.models]
    assert [model["arguments"] for model in models] == [in_force(stack, each) for each in plan.replicas]
    assert [model["environment"]["CUDA_VISIBLE_DEVICES"] for model in models] == [
        ",".join(replica.gpu_uuids) for replica in plan.replicas
    ]
    assert gateway.environment["ENGINE_URL"] == "http://127.0.0.1:20000/v1"
    names = [path.name for path in engine.files]
    watch = ["heartbeat.py", "judge.py", "processes.py", "gpus.py"]
    assert names == [*watch, "switch.py", "group.py", "child.py", "engine_key", "hf_token"]


def test_a_value_of_ones_own_reaches_the_model_that_it_is_for() -> None:
    host, models = SEVERAL["1x5080-in-turns"]
    plan = plan_of(host, *models)
    stack = stack_of(plan)
    changed = replace(stack, env={**stack.env, "VLLM_MAX_MODEL_LEN_2": "1024", "SWITCH_MIN_RESIDENCE_S": "7"})
    engine = stack_programs(changed, without_redis({"engine": 20000}), CALLER)[0]
    spec = json.loads(engine.arguments[0])
    lengths = [model["arguments"][model["arguments"].index("--max-model-len") + 1] for model in spec["models"]]
    assert lengths == [stack.env["VLLM_MAX_MODEL_LEN"], "1024"]
    assert spec["minimum_residence_s"] == "7"


def test_the_gateway_is_told_which_keys_of_a_cloud_to_read() -> None:
    plan = plan_for(recorded("cpu-small"))
    clouds = tuple(CloudModel(name=name, model="openai/big", key="mine") for name in ("a", "b"))
    stack = stack_of(replace(plan, gateway=replace(plan.gateway, cloud=clouds)))
    machine = without_redis({"engine": 20000})
    gateway = next(program for program in stack_programs(stack, machine, CALLER) if program.name == "gateway")
    assert gateway.environment["CLOUD_KEYS"] == "cloud_mine_key"
    assert stack.secrets / "cloud_mine_key" in gateway.files


def test_without_redis_nothing_names_it() -> None:
    programs = programs_of("cpu-small", redis=False)
    assert sorted(programs) == ["engine", "gateway"]
    assert not [name for name in programs["gateway"].environment if name.startswith("REDIS")]


AWKWARD = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.mark.subprocess
@settings(max_examples=25, deadline=None)
@given(value=AWKWARD, argument=AWKWARD)
def test_shell_reads_back_every_value(value: str, argument: str) -> None:
    program = Program(
        service=ENGINE,
        script=Path("/x.sh"),
        arguments=(argument,),
        environment={"VALUE": value},
        inherited={},
        files=(),
    )
    lines = render_start(program).split("export ", 1)[1].replace("exec /bin/sh /x.sh", "printf '%s\\0%s' \"$VALUE\"")
    read = subprocess.run(["/bin/sh", "-c", f"export {lines}"], capture_output=True, check=True)
    assert read.stdout.decode().split("\0") == [value, argument]


def test_supervisor_reads_what_is_meant(tmp_path: Path) -> None:
    from supervisor.options import ServerOptions

    text = render_supervisor([ENGINE], {"engine": "abc", "engine-2": "def"}, logs="../logs", open_files=1024, user=1)
    (tmp_path / "logs").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "supervisord.conf").write_text(text.replace("../logs", str(tmp_path / "logs")))
    options = ServerOptions()
    options.realize(["-c", str(tmp_path / "run" / "supervisord.conf")])
    (first, second) = (group.process_configs[0] for group in options.process_group_configs)
    assert (first.name, first.command, first.environment) == (
        "engine",
        "/bin/sh engine.sh",
        {"STACKWRIGHT_REVISION": "abc"},
    )
    assert (first.startretries, first.startsecs, first.stopasgroup, first.killasgroup) == (2, 600, True, True)
    assert second.stdout_logfile == str(tmp_path / "logs" / "engine-2.log")
    assert first.stdout_logfile_maxbytes == 20 * 2**20


def test_change_of_anything_read_means_another_revision() -> None:
    engine = programs_of("cpu-small")["engine"]
    other = replace(engine, arguments=(*engine.arguments, "--more"))
    revisions = [revision(engine, [b"1", b"2"]), revision(engine, [b"12", b""]), revision(other, [b"1", b"2"])]
    assert len(set(revisions)) == 3
    assert revisions[0] == revision(programs_of("cpu-small")["engine"], [b"1", b"2"])


def test_start_from_another_shell_is_no_change() -> None:
    here, there = (programs_of("cpu-small", caller={**CALLER, "PATH": path})["engine"] for path in ("/bin", "/usr/bin"))
    assert render_start(here) != render_start(there)
    assert revision(here, []) == revision(there, [])


def test_little_shared_memory_leaves_out_the_worker_process_or_is_refused() -> None:
    container = 64 * 2**20  # what containers get unless told otherwise
    variable = "VLLM_ENABLE_V1_MULTIPROCESSING"
    assert programs_of("cpu-small", shared_memory_bytes=container)["engine"].environment[variable] == "0"
    assert variable not in programs_of("cpu-small")["engine"].environment
    assert variable not in programs_of("wsl2-rtx5080", shared_memory_bytes=container)["engine"].environment
    with pytest.raises(RuntimeRefusedError) as refused:
        programs_of("2x-rtx3090-nvlink", shared_memory_bytes=container)
    assert refused.value.message == "/dev/shm has 64 MiB, but the workers of engine need 256 MiB"


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", None),
        ("WARN exited: engine-2 (exit status 3; not expected)\n", None),
        ("WARN exited: engine (exit status 1; not expected)\nINFO exited: engine (exit status 0; expected)\n", 0),
        ("WARN exited: engine (terminated by SIGKILL; not expected)\n", 137),
        ("WARN exited: engine (terminated by SIGSEGV (core dumped); not expected)\n", 139),
    ],
)
def test_exit_code_is_read_from_the_log(log: str, expected: int | None) -> None:
    assert exit_code(log, "engine") == expected


def test_engines_on_the_processor_have_core_range_their_own() -> None:
    """One alone has the only part; ranks of one engine are places, too. Stacks on one host share a folder."""
    alone, two = plan_for(recorded("cpu-small")), plan_of(SEVERAL["cpu-two"][0], *SEVERAL["cpu-two"][1])
    assert [alone.core_range(each) for each in alone.replicas] == ["1-1/1"]
    assert [two.core_range(each) for each in two.replicas] == ["1-1/2", "2-2/2"]
    ranks = plan_for(recorded("cpu-small"), pins={"VLLM_TENSOR_PARALLEL_SIZE": "2"})
    assert [ranks.core_range(each) for each in ranks.replicas] == ["1-2/2"]
    beside = plan_of(SEVERAL["8xh100-70b-and-embedding"][0], *SEVERAL["8xh100-70b-and-embedding"][1])
    assert {beside.core_range(each) for each in beside.replicas} == {None}
    variables = programs_of("cpu-small")["engine"].environment
    assert variables["ENGINE_CORES"].startswith(variables["VLLM_CACHE_ROOT"] + "/cores/")


def test_engines_on_one_gpu_start_one_after_another() -> None:
    """The second is also told apart in its settings and in the gateway's environment."""
    host, models = SEVERAL["1x3090-shared"]
    stack = stack_of(plan_of(host, *models))
    ports = {"engine": 20000, "engine-2": 20001, "redis": 21000}
    machine = Provisions(virtual_environments=ENVIRONMENTS, ports=ports, shared_memory_bytes=2**34)
    programs = {program.name: program for program in stack_programs(stack, machine, CALLER)}
    assert "START_AFTER" not in programs["engine"].environment
    assert programs["engine-2"].environment["START_AFTER"] == "http://127.0.0.1:20000/health"
    assert programs["engine-2"].arguments[:2] == ("--model", models[1].name)
    assert programs["gateway"].environment["ENGINE_2_URL"] == "http://127.0.0.1:20001/v1"
    assert programs["gateway"].environment["GATEWAY_MAX_INPUT_TOKENS_2"]
