"""pip's settings in uv's words, from files and variables laid out here."""

from __future__ import annotations

from pathlib import Path

import pytest
from stackwright.runtime.pip_settings import forbids_index, read_options, uv_variables


def make_home(folder: Path, **files: str) -> dict[str, str]:
    """Return the variables of a person with these files of pip's: `everyone`, `legacy`, `own`, `named`."""
    places = {
        "everyone": "xdg/pip/pip.conf",
        "legacy": ".pip/pip.conf",
        "own": ".config/pip/pip.conf",
        "named": "named",
    }
    for name, text in files.items():
        path = folder / places[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    named = {"PIP_CONFIG_FILE": str(folder / "named")} if "named" in files else {}
    return {"HOME": str(folder), "XDG_CONFIG_DIRS": str(folder / "xdg"), **named}


def told(variables: dict[str, str]) -> dict[str, str]:
    """Return what uv is told, but for what this machine's own files, which lie at fixed paths, add."""
    own = set(uv_variables({"HOME": "/nowhere", "XDG_CONFIG_DIRS": "/nowhere"})) & {"SSL_CERT_FILE", "UV_CONSTRAINT"}
    return {name: value for name, value in uv_variables(variables).items() if name not in own}


def test_nothing_set_tells_nothing(tmp_path: Path) -> None:
    assert told(make_home(tmp_path)) == {}


def test_indexes_links_and_hosts(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    home = make_home(
        tmp_path,
        own="[global]\nindex-url = https://a/simple\nextra-index-url =\n    https://b/simple\n    file:///c\n"
        f"find-links = {tmp_path}/wheels https://links {tmp_path}/gone\ntrusted-host = a b:81\ntimeout = 60\n",
    )
    assert told(home) == {
        "UV_DEFAULT_INDEX": "https://a/simple",
        "UV_INDEX": "https://a/simple https://b/simple file:///c",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": f"{tmp_path}/wheels,https://links",
        "UV_INSECURE_HOST": "a b:81",
        "UV_HTTP_TIMEOUT": "60",
    }


def test_certificates_proxy_and_retries(tmp_path: Path) -> None:
    variables = make_home(tmp_path) | {
        "PIP_CERT": "/a.pem",
        "PIP_CLIENT_CERT": "/b.pem",
        "PIP_PROXY": "http://p:1",
        "PIP_RETRIES": "9",
    }
    assert uv_variables(variables) | {
        "SSL_CERT_FILE": "/a.pem",
        "SSL_CLIENT_CERT": "/b.pem",
        "ALL_PROXY": "http://p:1",
        "UV_HTTP_RETRIES": "9",
    } == uv_variables(variables)


def test_the_narrower_file_wins_then_the_section_then_the_variable(tmp_path: Path) -> None:
    home = make_home(
        tmp_path,
        everyone="[global]\nindex-url = 1\nretries = 1\nproxy = 1\ntimeout = 1\n",
        legacy="[global]\nindex_url = 2\nretries = 2\nproxy = 2\n",
        own="[global]\nindex-url = 3\nretries = 3\n[install]\nproxy = 3\n",
        named="[global]\nindex-url = 4\nproxy = 4\n",
    )
    options = read_options(home | {"PIP_INDEX_URL": "5", "PIP_RETRIES": ""})
    assert [options[name] for name in ("index-url", "retries", "proxy", "timeout")] == ["5", "3", "3", "1"]


def test_files_are_left_out_where_pip_leaves_them_out(tmp_path: Path) -> None:
    home = make_home(tmp_path, own="[global]\nindex-url = https://a\n") | {"PIP_CONFIG_FILE": "/dev/null"}
    assert uv_variables(home) == {}


def test_what_is_set_for_uv_comes_first(tmp_path: Path) -> None:
    home = make_home(tmp_path, own="[global]\nindex-url = https://a\nextra-index-url = https://b\n")
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL"):
        assert "UV_DEFAULT_INDEX" not in uv_variables(home | {name: "https://mine"})
    for name in ("UV_INDEX", "UV_EXTRA_INDEX_URL"):
        assert "UV_INDEX" not in uv_variables(home | {name: "https://mine"})


def test_pypi_comes_before_further_indexes(tmp_path: Path) -> None:
    """uv takes the first index's files of a version alone, and another index may lack the one for this machine."""
    home = make_home(tmp_path, own="[global]\nextra-index-url = https://b\n")
    assert told(home)["UV_INDEX"] == "https://pypi.org/simple https://b"
    assert told(home | {"UV_DEFAULT_INDEX": "https://mine"})["UV_INDEX"] == "https://mine https://b"


def test_a_file_that_pip_could_not_read_says_nothing(tmp_path: Path) -> None:
    assert told(make_home(tmp_path, own="index-url = without a section\n")) == {}


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("yes", True), ("True", True), ("0", False), ("", False)])
def test_no_index(tmp_path: Path, value: str, expected: bool) -> None:
    assert forbids_index(make_home(tmp_path) | {"PIP_NO_INDEX": value}) is expected
