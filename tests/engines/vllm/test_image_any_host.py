"""Whatever the host: an image that holds to the rules, or one sentence that says why none does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from stackwright.catalog.load import load_engines, load_gpus
from stackwright.domain.catalog import REFUSED_HOLES, holes_of, order_release
from stackwright.engines.vllm.image_candidates import carries
from stackwright.errors import NoPlanError
from stackwright.units import version_parts

from tests.engines.vllm.image_hosts import ARM, CATALOG, X86, choose, host

versions = st.builds("{}.{}.{:02d}".format, st.integers(300, 700), st.integers(0, 300), st.integers(0, 99))
cudas = st.sampled_from(["11.4", "12.0", "12.1", "12.4", "12.8", "12.9", "13.0", "13.3", "14.0"])
# What a snapshot may hold as a name: text without control characters.
printable = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), max_size=20)
known_names = st.sampled_from([row.names[0] for row in load_gpus()])
names = st.lists(known_names | printable, max_size=3)
releases = st.none() | st.sampled_from([row.version for row in load_engines()]) | st.sampled_from(["0.40.0", "x", ""])


@given(
    gpus=names,
    driver=st.none() | versions | printable,
    cuda=st.none() | cudas,
    wsl=st.booleans(),
    flags=st.sampled_from([X86, ARM, (), ("avx2",)]),
    minimum=releases,
    exact=releases,
    consent=st.booleans(),
)
def test_any_host_gets_a_sound_image_or_a_clear_refusal(
    gpus: list[str],
    driver: str | None,
    cuda: str | None,
    wsl: bool,
    flags: tuple[str, ...],
    minimum: str | None,
    exact: str | None,
    consent: bool,
) -> None:
    machine = host(*gpus, driver=driver, cuda=cuda, wsl=wsl, flags=flags)
    try:
        found = choose(machine, minimum=minimum, exact=exact, allow_vulnerable=consent, model="a model")
    except NoPlanError as refused:
        assert refused.message
        assert refused.hint
        assert "\n" not in refused.message
        return
    release = next(row for row in CATALOG.engines if row.version == found.version)
    grave = [hole for hole in holes_of("vllm", release.version, CATALOG.advisories()) if hole.kind in REFUSED_HOLES]
    assert consent or not grave
    assert minimum is None or order_release(release.version) >= order_release(minimum)
    if not gpus:
        assert found.cuda is None
        return
    image = next(image for image in release.images if image.image == found.image)
    built = image.aarch64 if flags == ARM else image.x86_64 or image.aarch64
    assert built is not None
    for gpu in machine.gpus:
        row = CATALOG.find_gpu(gpu.name)
        if row is not None and row.processor is None:
            assert carries(built, found.cuda or "", row.compute_capability)
    if not found.env and wsl:
        assert version_parts(cuda or "0") >= version_parts(found.cuda or "")
