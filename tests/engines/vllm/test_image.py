"""The image for a driver, a GPU and a model: what is chosen, and what is said where nothing fits."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from stackwright.domain.catalog import REFUSED_HOLES, holes_of
from stackwright.domain.host import Host
from stackwright.engines.vllm.image_candidates import carries

from tests.engines.vllm.image_hosts import ARM, CATALOG, choose, host, refusal

RTX_3090, RTX_5080, RTX_5090 = (f"NVIDIA GeForce RTX {model}" for model in (3090, 5080, 5090))
H100, V100, T4, GB10 = "NVIDIA H100 80GB HBM3", "Tesla V100-SXM2-32GB", "Tesla T4", "NVIDIA GB10"
GATE_OFF = (("NVIDIA_DISABLE_REQUIRE", "1"),)
COMPATIBILITY = (("VLLM_ENABLE_CUDA_COMPATIBILITY", "1"),)


@pytest.mark.parametrize(
    ("machine", "image", "env"),
    [
        (host(RTX_3090, RTX_3090, driver="580.65.06", cuda="13.0"), "v0.33.0", ()),
        (host(RTX_3090, driver="610.43.02", cuda="13.3"), "v0.33.0", ()),
        (host(RTX_3090, driver="575.51.03", cuda="12.9"), "v0.32.0-cu129", ()),
        (host(RTX_5090, driver="575.57.08", cuda="12.9"), "v0.32.0-cu129", ()),
        (host(RTX_3090, "NVIDIA GeForce RTX 3060", driver="580.95.05", cuda="13.0"), "v0.33.0", ()),
        (host("NVIDIA B200", driver="580.82.07", cuda="13.0"), "v0.33.0", ()),
        (host("NVIDIA B300 SXM6 AC", driver="580.82.07", cuda="13.0"), "v0.33.0", ()),
        (host(GB10, driver="580.95.05", cuda="13.0", flags=ARM), "v0.33.0", ()),
        (host("NVIDIA Thor", driver="580.95.05", cuda="13.0", flags=ARM), "v0.33.0", ()),
        # Forward compatibility: data-centre GPUs on the branches that vLLM's documentation names.
        (host(*[H100] * 8, driver="535.161.08", cuda="12.2"), "v0.33.0", COMPATIBILITY),
        (host("NVIDIA B200", driver="570.133.20", cuda="12.8"), "v0.33.0", COMPATIBILITY),
        (host(T4, driver="535.161.08", cuda="12.2"), "v0.33.0", COMPATIBILITY),
        # From 9.0 on some kernels come as PTX alone: forward compatibility where NVIDIA's own list has the branch.
        (host(H100, driver="550.90.07", cuda="12.4"), "v0.32.0-cu129", COMPATIBILITY),
        (host(H100, driver="560.35.05", cuda="12.6"), "v0.32.0-cu129", COMPATIBILITY),
        # Minor-version compatibility, where there is machine code: the gate admits professional GPUs on R550; all
        # others have it switched off.
        (host("NVIDIA RTX A6000", driver="550.54.15", cuda="12.4"), "v0.32.0-cu129", ()),
        (host("NVIDIA A100-SXM4-80GB", driver="550.54.15", cuda="12.4"), "v0.32.0-cu129", ()),
        (host("NVIDIA RTX A6000", driver="545.23.06", cuda="12.3"), "v0.32.0-cu129", GATE_OFF),
        (host(T4, driver="525.60.13", cuda="12.0"), "v0.32.0-cu129", GATE_OFF),
        (host(RTX_3090, RTX_3090, driver="550.54.15", cuda="12.4"), "v0.32.0-cu129", GATE_OFF),
        (host("NVIDIA GeForce RTX 4090", driver="570.211.01", cuda="12.8"), "v0.32.0-cu129", GATE_OFF),
        # Under WSL the reported CUDA version decides: Windows's 573 and 581 are no Linux branches.
        (host(RTX_5080, driver="581.29", cuda="13.0", wsl=True), "v0.33.0", ()),
        (host(RTX_5080, driver="576.80", cuda="12.9", wsl=True), "v0.32.0-cu129", ()),
        # A GPU that the catalog does not know is planned by what was detected.
        (host("NVIDIA Something New", driver="580.65.06", cuda="13.0", capability="12.1"), "v0.33.0", ()),
        # The branch says it where NVML does not.
        (host(RTX_3090, driver="580.65.06"), "v0.33.0", ()),
    ],
    ids=lambda value: None if isinstance(value, str | tuple) else f"{value.gpus[0].name} {value.driver.version}",
)
def test_the_newest_that_runs_is_chosen(machine: Host, image: str, env: tuple[tuple[str, str], ...]) -> None:
    found = choose(machine)
    assert (found.image, found.env) == (f"vllm/vllm-openai:{image}", env)


@pytest.mark.parametrize(
    ("machine", "image"),
    [
        (host(RTX_5090, driver="570.86.10", cuda="12.8"), "v0.11.0"),
        (host(V100, driver="580.65.06", cuda="13.0"), "v0.19.1"),
        (host(V100, driver="530.30.02", cuda="12.1"), "v0.7.3"),
        (host(RTX_5080, driver="573.42", cuda="12.8", wsl=True), "v0.11.0"),
    ],
    ids=lambda value: None if isinstance(value, str) else f"{value.gpus[0].name} {value.driver.version}",
)
def test_consent_opens_older_releases_and_is_warned_of(machine: Host, image: str) -> None:
    assert "--allow-vulnerable" not in (refusal(machine).hint or "")
    found = choose(machine, allow_vulnerable=True)
    assert found.image == f"vllm/vllm-openai:{image}"
    grave = [h.id for h in holes_of("vllm", found.version, CATALOG.advisories()) if h.kind in REFUSED_HOLES]
    assert grave
    assert all(hole in found.warnings[0] for hole in grave)


def test_a_geforce_pair_on_driver_550_is_warned_once() -> None:
    found = choose(host(RTX_3090, RTX_3090, driver="550.54.15", cuda="12.4"))
    assert [warning for warning in found.warnings if "driver" in warning] == [
        (
            "driver 550.54.15 is older than CUDA 12.9, which it runs by minor-version compatibility with "
            "NVIDIA_DISABLE_REQUIRE=1 (the image's check is off): update the NVIDIA driver when you can"
        )
    ]


@pytest.mark.parametrize(
    "machine",
    [
        host(RTX_5090, driver="570.169", cuda="12.8"),
        host("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", driver="570.153.02", cuda="12.8"),
        host(H100, driver="545.23.06", cuda="12.3"),
        host(H100, RTX_3090, driver="550.54.15", cuda="12.4"),
        host(RTX_3090, driver="525.53", cuda="12.0"),
    ],
    ids=lambda machine: f"{machine.gpus[0].name} {machine.driver.version}",
)
def test_what_comes_as_ptx_alone_needs_a_newer_driver(machine: Host) -> None:
    refused = refusal(machine)
    assert "driver ≥ 575.51.03 for 0.32.0-cu129, ≥ 580.65.06 for the newest" in refused.message
    assert (refused.hint or "").startswith("update the NVIDIA driver first")
    assert "--allow-vulnerable" not in refused.message + (refused.hint or "")


def test_an_h100_on_r535_says_by_which_way() -> None:
    found = choose(host(H100, driver="535.161.08", cuda="12.2"))
    assert found.reasons == (
        (
            "the newest release that fits: driver 535.161.08 (CUDA 12.2) runs CUDA 13.0 with the image's "
            "forward compatibility "
            "libraries"
        ),
        "its kernels (7.5 8.0 8.6 8.9 9.0 10.0 12.0) support compute capability 9.0",
    )
    assert (found.cuda, found.warnings) == ("13.0", ())


@pytest.mark.parametrize("consent", [False, True])
def test_t4s_on_a_470_driver_are_told_to_update_it(consent: bool) -> None:
    refused = refusal(host(T4, T4, driver="470.223.02", cuda="11.4"), allow_vulnerable=consent)
    assert refused.message.startswith("driver 470.223.02 supports CUDA up to 11.4, too little for any vllm image")
    assert refused.message.endswith("≥ 580.65.06 for the newest (0.33.0)")
    assert refused.hint == (
        "update the NVIDIA driver first (or to R535 or R570, with forward compatibility on data-centre GPUs)"
    )


def test_a_v100_has_only_images_with_holes() -> None:
    refused = refusal(host(V100, driver="580.65.06", cuda="13.0"))
    assert refused.message == (
        "GPU 0 (Tesla V100-SXM2-32GB, compute capability 7.0) is supported by vllm images up to 0.19.1 only, "
        "which has known vulnerabilities: CVE-2026-48746 (key-bypass); it is refused without --allow-vulnerable"
    )
    assert refused.hint == "use a newer GPU, or `configure-gpu cpu`"


def test_a_v100_whose_driver_is_too_old_as_well() -> None:
    refused = refusal(host(V100, driver="470.223.02", cuda="11.4"))
    assert (
        "; driver 470.223.02 is too old for it: driver ≥ 530.30.02 for 0.7.3, ≥ 575.51.03 for the newest (0.19.1); "
    ) in refused.message
    assert "update the NVIDIA driver" in (refused.hint or "")


def test_a_pod_is_told_to_take_another_one() -> None:
    """Nothing in a container changes the driver of its machine (issue 10, section 3.3)."""
    pod = host(RTX_5090, driver="570.169", cuda="12.8")
    pod = replace(pod, os=replace(pod.os, container="docker"))
    assert refusal(pod).hint == (
        "take a pod whose driver reports CUDA ≥ 12.9, or update the driver of the machine that this container runs on"
    )


def test_wsl_is_told_of_cuda_not_of_branches() -> None:
    refused = refusal(host(RTX_5080, driver="573.42", cuda="12.8", wsl=True))
    assert "a driver that reports CUDA ≥ 12.9 for 0.32.0-cu129, ≥ 13.0 for the newest (0.33.0)" in refused.message
    assert (refused.hint or "").startswith("update the NVIDIA driver on Windows first")


@pytest.mark.parametrize(
    ("release", "wsl", "pinned"),
    [
        ("0.23.0", True, False),
        ("0.24.0", True, True),
        ("0.29.0", True, True),
        ("0.29.0", False, False),
        ("0.30.0", True, False),
    ],
)
def test_wsl_has_pinned_memory_where_a_release_cannot_do_without(release: str, wsl: bool, pinned: bool) -> None:
    found = choose(host(RTX_5080, driver="581.29", cuda="13.0", wsl=wsl), exact=release, allow_vulnerable=True)
    assert (("VLLM_WSL2_ENABLE_PIN_MEMORY", "1") in found.env) is pinned
    assert any("needs pinned memory" in reason for reason in found.reasons) is pinned


def test_forward_compatibility_is_not_for_geforce_nor_workstations_nor_wsl() -> None:
    for machine in (
        host(RTX_5090, driver="570.86.10", cuda="12.8"),
        host(H100, RTX_3090, driver="535.161.08", cuda="12.2"),
        host(H100, driver="535.161.08", cuda="12.2", wsl=True),
    ):
        assert "update the NVIDIA driver" in (refusal(machine).hint or "")
    assert choose(host("NVIDIA RTX A6000", driver="535.161.08", cuda="12.2")).image.endswith("v0.32.0-cu129")


@pytest.mark.parametrize(
    ("machine", "needs", "message", "hint"),
    [
        (
            host(RTX_3090, driver="575.57.08", cuda="12.9"),
            {"minimum": "0.33.0", "model": "Some/Model"},
            (
                "driver 575.57.08 supports CUDA up to 12.9, too little for any vllm image that supports NVIDIA "
                "GeForce RTX 3090: "
                "driver ≥ 580.65.06 for 0.33.0"
            ),
            (
                "update the NVIDIA driver first; or use another model: Some/Model needs 0.33.0 or newer, and this "
                "driver runs 0.32.0-cu129"
            ),
        ),
        (
            host(V100, driver="580.65.06", cuda="13.0"),
            {"minimum": "0.25.0", "model": "Some/Model"},
            (
                "only vllm images up to 0.19.1 support GPU 0 (Tesla V100-SXM2-32GB, compute capability 7.0), but "
                "Some/Model needs 0.25.0 or newer"
            ),
            "use another model, or another GPU",
        ),
        (
            host(RTX_3090, driver="580.65.06", cuda="13.0"),
            {"minimum": "0.40.0", "model": "Some/Model"},
            "Some/Model needs vllm 0.40.0 or newer; the newest in the catalog is 0.33.0",
            "use another model, or a newer Stackwright release with a newer catalog",
        ),
        (
            host(RTX_3090, driver="580.65.06", cuda="13.0"),
            {"minimum": "0.30.0", "model": "Some/Model", "exact": "0.29.0"},
            "Some/Model needs vllm 0.30.0 or newer, but 0.29.0 was requested",
            "use --engine vllm==0.33.0, or another model",
        ),
        (
            host(RTX_3090, driver="575.57.08", cuda="12.9"),
            {"exact": "0.19.1"},
            (
                "vllm 0.19.1 has known vulnerabilities: CVE-2026-48746 (key-bypass); it is refused without "
                "--allow-vulnerable"
            ),
            "request 0.32.0",
        ),
        (
            host(RTX_3090, driver="575.57.08", cuda="12.9"),
            {"exact": "0.32.1"},
            "vllm 0.32.1 is not in the catalog",
            (
                f"the newest known are {', '.join(release.version for release in CATALOG.engines[:3])}; "
                "docs/reference/catalog.md lists all"
            ),
        ),
        (
            host(RTX_3090, driver="575.57.08", cuda="12.9"),
            {"exact": "0.33.0"},
            (
                "driver 575.57.08 supports CUDA up to 12.9, too little for any vllm image that supports NVIDIA "
                "GeForce RTX 3090: "
                "driver ≥ 580.65.06 for 0.33.0"
            ),
            "update the NVIDIA driver first; or this driver runs 0.32.0-cu129",
        ),
        (
            host(GB10, driver="580.95.05", cuda="13.0", flags=ARM),
            {"exact": "0.9.0"},
            "vllm 0.9.0 has no CUDA image for aarch64",
            "request another release",
        ),
        (
            host("Tesla P100-PCIE-16GB", driver="580.65.06", cuda="13.0"),
            {},
            (
                "no vllm image for x86_64 supports GPU 0 (Tesla P100-PCIE-16GB, compute capability 6.0); "
                "compute capability 7.0 or newer is needed"
            ),
            "use `configure-gpu cpu`, or another GPU",
        ),
        (
            host(T4, driver="580.65.06", cuda="13.0", flags=ARM),
            {},
            "no vllm image for aarch64 supports GPU 0 (Tesla T4, compute capability 7.5)",
            "use `configure-gpu cpu`, or another GPU",
        ),
        (
            host(RTX_3090),
            {},
            "the driver does not report its CUDA version, so no engine image can be chosen",
            "check the driver with `nvidia-smi`, or use `configure-gpu cpu`",
        ),
    ],
)
def test_what_is_in_the_way_is_named(machine: Host, needs: dict[str, object], message: str, hint: str) -> None:
    refused = refusal(machine, **needs)
    assert (refused.message, refused.hint) == (message, hint)


def test_a_reported_cuda_beyond_the_branch_is_not_believed() -> None:
    """Compatibility libraries in a container report their own CUDA through NVML."""
    found = choose(host(H100, driver="550.90.07", cuda="13.0"))
    assert found.image == "vllm/vllm-openai:v0.32.0-cu129"
    assert any("13.0 was reported" in warning for warning in found.warnings)


def test_an_unknown_capability_is_warned_of() -> None:
    found = choose(host("NVIDIA Something New", driver="580.65.06", cuda="13.0"))
    assert any("compute capability of GPU 0 is unknown" in warning for warning in found.warnings)


def test_a_tag_that_nobody_could_confirm_is_not_chosen() -> None:
    machine = host(GB10, driver="580.95.05", cuda="13.0", flags=ARM)
    assert choose(machine, exact="0.16.0", allow_vulnerable=True).image.endswith("v0.16.0-cu130")
    assert "compute capability 12.1" in refusal(machine, exact="0.15.1", allow_vulnerable=True).message


@pytest.mark.parametrize(
    ("built", "cuda", "capability", "runs"),
    [
        ("7.0 7.5 8.0 8.9", "12.9", "8.6", True),  # 8.0's kernels: RTX 30, A10 and A40 stand in no such list
        ("8.7 8.9 9.0", "12.9", "8.6", False),
        ("8.7 8.9 9.0", "12.9", "8.0", False),
        ("9.0a", "12.9", "9.0", True),
        ("10.0a", "12.9", "10.3", False),
        ("10.0f", "12.9", "10.3", True),
        ("10.0", "12.9", "10.3", False),  # arch-specific before CUDA 13
        ("10.0", "13.0", "10.3", True),
        ("12.0", "13.0", "12.1", True),
        ("12.0", "12.9", "12.1", False),
        ("12.0", "12.9", "12.0", True),
        ("10.0+PTX", "12.8", "12.0", False),  # PTX does not count
        ("9.0+PTX", "12.4", "9.0", True),
        ("8.0", "13.0", "9.0", False),
        ("9.0", "13.0", "8.9", False),
    ],
)
def test_architectures_match_as_binaries_do(built: str, cuda: str, capability: str, runs: bool) -> None:
    assert carries(tuple(built.split()), cuda, capability) is runs


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        (("avx2", "avx512f"), []),
        (("avx2",), ["no AVX512: vLLM's CPU kernels run on AVX2 with limited features"]),
        (("asimd",), []),
        ((), ["the processor's instruction sets are unknown: not checked whether the CPU image runs here"]),
    ],
)
def test_the_cpu_image(flags: tuple[str, ...], warned: list[str]) -> None:
    found = choose(host(flags=flags))
    assert (found.image, found.cuda, found.env) == ("vllm/vllm-openai-cpu:v0.33.0", None, ())
    assert list(found.warnings) == warned


@pytest.mark.parametrize(
    ("flags", "exact", "lacking"),
    [
        (("avx",), None, "lacks avx2"),
        (("avx2",), "0.16.0", "lacks avx512f, avx512_vnni, avx512_bf16"),
        (("asimdhp",), None, "lacks neon"),
    ],
)
def test_a_processor_without_what_the_cpu_image_needs(flags: tuple[str, ...], exact: str | None, lacking: str) -> None:
    assert lacking in refusal(host(flags=flags), exact=exact, allow_vulnerable=True).message


def test_a_cpu_release_with_holes_needs_consent() -> None:
    machine = host(flags=("avx2", "avx512f"))
    assert "CVE-2026-48746" in refusal(machine, exact="0.19.1").message
    assert choose(machine, exact="0.19.1", allow_vulnerable=True).image == "vllm/vllm-openai-cpu:v0.19.1"
