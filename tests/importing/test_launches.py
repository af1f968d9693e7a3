"""Ways to write one and the same launch: each gives the same model and setting, with the line where it stands."""

from __future__ import annotations

import pytest

from tests.importing.conftest import Importer, host_file

IMAGE = "services:\n  v:\n    image: vllm/vllm-openai:v0.33.0\n"
M = "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"    command: --model {M} --max-num-seqs 4\n", 4),
        (f"    command: [--model, {M}, --max-num-seqs, '4']\n", 4),
        (f"    command:\n      - --model={M}\n      - --max_num_seqs=4\n", 6),
        (f"    command: >\n      --model {M}\n      --max-num-seqs 4\n", 6),
        (f"    command: >-\n      {M}\n      --max-num-seqs\n      4\n", 6),
        (f"    command: |\n      --model {M} \\\n      --max-num-seqs 4\n", 6),
        (f"    command: --model {M}\n      --max-num-seqs 4\n", 5),
        (f'    command: "--model {M}\n      --max-num-seqs 4"\n', 5),
        (f"    command: serve {M} --max-num-seqs 4\n", 4),
        (f"    entrypoint: vllm serve\n    command: {M} --max-num-seqs 4\n", 5),
        (f"    entrypoint: [vllm, serve, {M}]\n    command: [--max-num-seqs, 4]\n", 5),
        (
            f"    entrypoint: [python3, -m, vllm.entrypoints.openai.api_server]\n    command: {M} --max-num-seqs=4\n",
            5,
        ),
        (f"    entrypoint: ['']\n    command: /opt/venv/bin/vllm serve {M} --max-num-seqs 4\n", 5),
        (f"    entrypoint: sh -c 'vllm serve {M} --max-num-seqs 4'\n", 4),
        (f"    command: bash -lc 'pip install x && exec vllm serve {M} --max-num-seqs 4 | tee log'\n", 4),
        (
            (
                "    entrypoint: [/bin/sh, -c]\n    command:\n      - |\n        ulimit -n 9\n"
                f"        OMP=1 vllm serve {M} \\\n          --max-num-seqs 4\n"
            ),
            9,
        ),
        (
            (
                f'    entrypoint:\n      - bash\n      - -c\n      - exec uv run vllm serve {M} "$$@"\n      - --\n'
                "    command: [--max-num-seqs, '4']\n"
            ),
            9,
        ),
        (f"    command: vllm serve --enable-prefix-caching {M} --max-num-seqs 4\n", 4),
        (f"    command: >\n      --model {M}\n      --enforce-eager\n      --max-num-seqs ${{N:-4}}\n", 7),
    ],
)
def test_one_launch_written_in_many_ways(text: str, line: int, importer: Importer) -> None:
    (importer.folder / "compose.yml").write_text(IMAGE + text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run")
    assert ran.code == 0, ran.err
    assert f"name: {M}" in ran.out
    assert f"VLLM_MAX_NUM_SEQS: 4  # compose.yml:{line}\n" in ran.out


@pytest.mark.parametrize(
    "line",
    [
        f"docker run --gpus all vllm/vllm-openai:v0.33.0 --model {M} --max-num-seqs 4",
        f"sudo docker run -it --rm --gpus=all -p8000:8000 -e A=b vllm/vllm-openai:v0.33.0 {M} --max-num-seqs 4",
        f"podman run --device nvidia.com/gpu=all vllm/vllm-openai:v0.33.0 --model {M} --max-num-seqs 4",
        f"\tdocker run --entrypoint vllm vllm/vllm-openai:v0.33.0 serve {M} --max-num-seqs 4",
        f"docker run x bash -c 'vllm serve {M} --max-num-seqs 4'",
    ],
)
def test_a_line_of_a_script(line: str, importer: Importer) -> None:
    (importer.folder / "Makefile").write_text(f"serve:\n{line}\n", encoding="utf-8")
    ran = importer.run("Makefile", "--dry-run")
    assert ran.code == 0, ran.err
    assert f"name: {M}" in ran.out
    assert "VLLM_MAX_NUM_SEQS: 4  # Makefile:2\n" in ran.out


@pytest.mark.parametrize(
    ("service", "devices"),
    [
        ("    gpus: all\n", None),
        ("    gpus: 1\n", None),
        ("    runtime: nvidia\n    environment: [NVIDIA_VISIBLE_DEVICES=1]\n", "'1'"),
        ("    runtime: nvidia\n    environment: {NVIDIA_VISIBLE_DEVICES: '0,1'}\n", "0,1"),
        ("    environment: {CUDA_VISIBLE_DEVICES: '1'}\n", "'1'"),
        ("    gpus: [{driver: nvidia, device_ids: ['1']}]\n", "'1'"),
        ("    devices: [nvidia.com/gpu=all]\n", None),
        ("    devices: [nvidia.com/gpu=1]\n", "'1'"),
        (
            "    deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: ['1', '0']}]}}}\n",
            "1,0",
        ),
        (
            (
                "    deploy: {resources: {reservations: {devices: [{capabilities: [gpu], device_ids: ['1', '0']}]}}}\n"
                "    environment: {CUDA_VISIBLE_DEVICES: '0'}\n"
            ),
            "'1'",
        ),
    ],
)
def test_which_gpus_are_asked_for(service: str, devices: str | None, importer: Importer) -> None:
    text = f"{IMAGE}    command: --model {M}\n{service}"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run", "--host", host_file("2x-rtx3090-nvlink"))
    assert ran.code == 0, ran.err
    told = [line.partition("#")[0].strip() for line in ran.out.splitlines() if "NVIDIA_VISIBLE_DEVICES" in line]
    assert told == ([] if devices is None else [f"NVIDIA_VISIBLE_DEVICES: {devices}"])


@pytest.mark.parametrize(
    ("host", "flags", "said"),
    [
        ("2x-rtx3090-nvlink", "--tensor-parallel-size 3", "tensor parallel 3"),
        ("1x-rtx3090", "--max-model-len 999999", "exceeds the model's limit"),
        ("1x-h200", "--quantization gguf", "gguf left it after 0.23.0"),
        ("1x-h200", "--guided-decoding-backend outlines", "no such flag: releases from 0.6.3.post1 to 0.11.2"),
        ("1x-h200", "--no-such-flag 1", "no such flag"),
        ("old-driver", "--dtype bfloat16", "has no bfloat16"),
        ("1x-h200", "--tool-call-parser hermez", "has no `hermez`; did you mean `hermes`?"),
    ],
)
def test_what_would_not_have_started(host: str, flags: str, said: str, importer: Importer) -> None:
    text = f"{IMAGE}    command: --model {M} {flags}\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run", "--host", host_file(host))
    name = flags.split(maxsplit=1)[0].removeprefix("--")
    told = [line for line in ran.err.splitlines() if f"would not start  --{name}" in line]
    assert [said in line for line in told] == [True]
    assert name.upper().replace("-", "_") not in ran.out
    assert name not in ran.out


def test_a_model_that_is_not_run_in_float16(importer: Importer) -> None:
    text = f"{IMAGE}    command: --model google/gemma-3-4b-it --dtype half\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run", "--host", host_file("1x-h200"))
    assert "--dtype half: vLLM does not run gemma3 models in float16" in ran.err
    assert "DTYPE" not in ran.out


def test_an_adapter_that_is_not_here_is_kept_and_the_rest_is_judged(importer: Importer) -> None:
    text = f"{IMAGE}    command: --model {M} --enable-lora --lora-modules a=someone/lora --max-model-len 999999\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run", "--host", host_file("1x-h200"))
    assert "unknown          --lora-modules a=someone/lora: kept, not judged: not in the cache" in ran.err
    assert "would not start  --max-model-len 999999" in ran.err
    assert "a: someone/lora  # compose.yml:4" in ran.out


def test_a_name_that_looks_like_a_secret_is_not_copied(importer: Importer) -> None:
    token = "hf_" + "abcdefghijkl"
    text = f"{IMAGE}    command: --model {M} --served-model-name {token}\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run")
    assert token not in ran.out + ran.err
    assert "compose.yml:4  secret" in ran.err


def test_a_setting_that_ends_in_token_is_none(importer: Importer) -> None:
    own = '{"architectures": ["Qwen3ForSequenceClassification"], "classifier_from_token": ["no", "yes"]}'
    text = f"{IMAGE}    command: >\n      --model {M} --hf-overrides '{own}'\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run")
    assert "secret" not in ran.err
    assert "classifier_from_token" in ran.out


def test_what_a_small_host_lacks_is_left_out_and_the_size_of_the_model_is_the_reason(importer: Importer) -> None:
    text = (
        f"{IMAGE}    command: --model Qwen/Qwen2.5-72B-Instruct -tp 2 --chat-template /t/own.jinja\n"
        "    volumes: [./t:/t]\n    environment: {NVIDIA_VISIBLE_DEVICES: '0,1'}\n"
    )
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "prod", "--dry-run", "--host", host_file("1x-rtx3090"))
    assert "would not start  model Qwen/Qwen2.5-72B-Instruct: Qwen/Qwen2.5-72B-Instruct does not fit on 1×" in ran.err
    assert "would not start  GPUs 0,1: NVIDIA_VISIBLE_DEVICES names GPU 1, found 1×" in ran.err
    assert "would not start  --tensor-parallel-size 2: " in ran.err
    assert ran.out.endswith("settings: {}\n")


def test_json_over_several_lines_is_one_value(importer: Importer) -> None:
    text = f"{IMAGE}    command:\n      - --model={M}\n      - --override-generation-config\n"
    text += '      - |\n        {"temperature": 0.2,\n         "top_p": 1}\n'
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run", "--host", host_file("1x-h200"))
    assert """override-generation-config: '{"temperature": 0.2, "top_p": 1}'""" in ran.out


def test_an_address_that_a_port_is_bound_to_is_named(importer: Importer) -> None:
    text = f"{IMAGE}    command: --model {M}\n    ports: ['10.0.0.1:9001:8000']\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    assert "unsafe  port 9001:8000 on 10.0.0.1: " in importer.run("compose.yml", "--dry-run").err


def test_a_third_engine_on_one_gpu_has_nothing_left(importer: Importer) -> None:
    engine = "    image: vllm/vllm-openai:v0.33.0\n    gpus: all\n    command: --model Qwen/Qwen3-"
    text = "services:\n" + "".join(f"  v{size}:\n{engine}{size}\n" for size in ("8B", "4B", "1.7B"))
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    told = importer.run("compose.yml", "--dry-run").err
    assert [line.rpartition(" ")[2] for line in told.splitlines() if "leave" in line] == ["0.08", "0"]


def test_a_cloud_that_is_asked_but_cannot_be_taken_says_why(importer: Importer) -> None:
    (importer.folder / "compose.yml").write_text(f"{IMAGE}    command: --model {M}\n", encoding="utf-8")
    address = "https://user:" + "word@example.com/v1"
    text = f"""\
model_list:
  - {{model_name: own, litellm_params: {{model: hosted_vllm/{M}, api_base: "http://v:8000/v1"}}}}
  - {{model_name: gpt, litellm_params: {{model: openai/gpt, api_key: os.environ/K, api_base: "{address}"}}}}
litellm_settings: {{fallbacks: [{{own: [gpt]}}]}}
"""
    (importer.folder / "config.yaml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "config.yaml", "--dry-run")
    assert "dropped  gpt: its address cannot be taken: https://HOST/PATH" in ran.err
    assert "word@" not in ran.out + ran.err


def test_a_proxy_with_a_password_is_told_as_a_proxy_and_not_printed(importer: Importer) -> None:
    address = "http://user:" + "word@proxy:3128"
    text = f"{IMAGE}    command: --model {M}\n    environment: {{HTTPS_PROXY: '{address}'}}\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run")
    assert "dropped  HTTPS_PROXY: a proxy is found on the host" in ran.err
    assert "word@" not in ran.out + ran.err


def test_arrays_and_captured_names_of_a_script(importer: Importer) -> None:
    text = f"""\
ARGS=(--model {M}
  # the batch
  --max-num-seqs 4  # four
)
ARGS+=(--enforce-eager)
docker run -p 8000:8000 vllm/vllm-openai:v0.33.0 "${{ARGS[@]}}"
ID=$(docker run -d -p 8000:8000 vllm/vllm-openai:v0.33.0 --model Qwen/Qwen3-4B)
"""
    (importer.folder / "run.sh").write_text(text, encoding="utf-8")
    ran = importer.run("run.sh", "--dry-run")
    assert ran.code == 0, ran.err
    assert [line.strip() for line in ran.out.splitlines() if "run.sh:" in line and "name" in line] == [
        f"- name: {M}  # run.sh:6",
        "- name: Qwen/Qwen3-4B  # run.sh:7",
    ]
    assert "VLLM_MAX_NUM_SEQS: 4  # run.sh:6" in ran.out
    assert "VLLM_ENFORCE_EAGER: 'true'  # run.sh:6" in ran.out
    assert "port 8000 of vllm-openai-2: vllm-openai publishes this port too" in ran.err


@pytest.mark.parametrize(("image", "kept"), [("vllm/vllm-openai:v0.10.0", False), ("ghcr.io/me/vllm:v0.17.1", True)])
def test_without_a_judgement_a_flag_is_for_the_release_that_is_planned(
    image: str, kept: bool, importer: Importer
) -> None:
    """The image of the first has holes and is not taken, so the plan takes the newest, which has lost the flag."""
    text = f"services:\n  v:\n    image: {image}\n    command: --model {M} --swap-space 8\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run")
    assert ran.code == 0, ran.err
    assert ("would not start  --swap-space 8: vLLM 0.3" in ran.err) is not kept
    assert ("swap-space" in ran.out) is kept


@pytest.mark.parametrize("image", ["https://me:geheim@reg/vllm-openai:v0.17.1", "me:geheim@reg/vllm-openai:v0.17.1"])
def test_an_image_with_a_password_is_no_image(image: str, importer: Importer) -> None:
    text = f"services:\n  v:\n    image: {image}\n    command: vllm serve {M}\n"
    (importer.folder / "compose.yml").write_text(text, encoding="utf-8")
    ran = importer.run("compose.yml", "--dry-run")
    assert ran.code == 0, ran.err
    assert "would not start  image: allowed: an image's name" in ran.err
    assert "geheim" not in ran.err + ran.out
