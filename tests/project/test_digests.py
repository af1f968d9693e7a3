"""envs/digests.yaml: read back as written, one sentence for everything else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from stackwright.catalog.load import load_catalog
from stackwright.domain.image_pins import ImagePin, ImagePins, with_digest, without_digest
from stackwright.errors import UsageError
from stackwright.planning.planner import make_plan
from stackwright.project.digests import FILE, read_image_pins, write_image_pins
from stackwright.rendering.numbered import flat_settings

from tests.planning_requests import recorded, request

DIGEST = f"sha256:{'0a' * 32}"


def project(folder: Path, text: str | bytes) -> Path:
    """Return a project folder with this file."""
    (folder / "envs").mkdir(exist_ok=True)
    (folder / FILE).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def test_pins_are_read_back_as_written(tmp_path: Path) -> None:
    """Sorted, so that two people who pin the same images get the same file."""
    pins = ImagePins(
        images={"b:1": ImagePin(digest=DIGEST, date="2026-11-21"), "a:1": ImagePin(digest=DIGEST, date="")}
    )
    root = project(tmp_path, "")
    write_image_pins(root, pins)
    assert read_image_pins(root) == pins
    assert (root / FILE).read_text().index("a:1") < (root / FILE).read_text().index("b:1")


def test_without_a_file_nothing_is_pinned(tmp_path: Path) -> None:
    """Most projects have none."""
    assert read_image_pins(tmp_path) == ImagePins()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("schema: 2\nimages: {}\n", "schema"),
        ("schema: 1\nimages: {a: {digest: latest, date: x}}\n", "allowed: sha256:"),
        ("schema: 1\nimages: {a: {digest: 7, date: x}}\n", "digest"),
        ("schema: 1\nimage: {}\n", "image"),
        ("[]", "expected"),
        (b"\xff", ""),
    ],
)
def test_a_damaged_file_is_one_sentence_with_the_way_out(tmp_path: Path, text: str | bytes, problem: str) -> None:
    """It is written by a command, so it can be written again."""
    with pytest.raises(UsageError) as failure:
        read_image_pins(project(tmp_path, text))
    assert problem in failure.value.message
    assert "\n" not in failure.value.message
    assert failure.value.hint


@given(st.text() | st.binary())
def test_any_content_is_pins_or_one_error(text: str | bytes) -> None:
    """No traceback, whatever the file holds."""
    with tempfile.TemporaryDirectory() as folder:
        root = project(Path(folder), text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text)
        try:
            assert isinstance(read_image_pins(root), ImagePins)
        except UsageError as failure:
            assert failure.message


def test_a_pinned_image_is_named_by_both_tag_and_digest() -> None:
    """People read the tag; the engine goes by the digest."""
    asked = request(recorded("cpu-small"))
    tag = flat_settings(make_plan(asked, load_catalog()))["REDIS_IMAGE"].value
    pins = ImagePins(images={tag: ImagePin(digest=DIGEST, date="2026-11-21")})
    setting = flat_settings(make_plan(replace(asked, image_pins=pins), load_catalog()))["REDIS_IMAGE"]
    assert setting.value == f"{tag}@{DIGEST}"
    assert "2026-11-21" in setting.reason
    assert without_digest(setting.value) == tag
    assert with_digest(setting.value, pins) == setting.value
