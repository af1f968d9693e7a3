"""The stack as clients see it: OpenAI's own package, Anthropic's form, and those who do everything wrong.

Real Compose, vLLM on the CPU, LiteLLM and Redis; the tests share one stack of four tiny models: two that write, the
second of which also sees and takes what is too long for the first, one for vectors and one for ranks. What they say is
noise but for
the colours of pictures: the forms are checked.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import anthropic
import langchain_openai
import openai
import pytest
from msgspec.structs import replace
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import SecretStr
from stackwright.models.smoke_model import write_smoke_model

from tests.integration.conftest import MakeProject
from tests.integration.gateway.conftest import LANES
from tests.integration.gateway.exchange import Answer, Ask, Slow, chat, connection, exchange, read_until
from tests.integration.gateway.eyes import COLOURS, NOTHING, PICTURE_TOKENS, picture, write_eyes
from tests.integration.gateway.tiny import write_ranker
from tests.integration.images import Images
from tests.integration.project import Project, wait_until

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]},
    },
}
# More than the model writes while a test waits for the engine to notice that nobody reads.
LONG = 30_000
CLIENTS = 200
SHORT, LONGER = 2048, 32768
ENGINES = ("engine", "engine-2", "engine-3", "engine-4")
WISHES = """\
schema: 1
model: null
models:
  - {{name: smoke, aliases: [gpt-4o]}}
  - {{name: {folder}/eyes}}
  - {{name: {folder}/vectors, role: embedding, aliases: [text-embedding-3-small]}}
  - {{name: {folder}/ranker}}
gpu_memory_utilization: 0.8
max_model_len: null
gateway: {{bind: 127.0.0.1, port: 4000, fallbacks: {{smoke: [eyes]}}}}
settings:
  VLLM_MAX_MODEL_LEN_2: "32768"
  VLLM_CPU_KVCACHE_SPACE_2: "1"
  VLLM_CPU_KVCACHE_SPACE_3: "1"
  VLLM_CPU_KVCACHE_SPACE_4: "1"
"""


@pytest.fixture(scope="module")
def deployed(make_project: MakeProject, images: Images, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """Give a project whose stack serves the four models on the CPU."""
    folder = tmp_path_factory.mktemp("models")
    write_smoke_model(folder / "vectors")
    write_eyes(folder / "eyes")
    write_ranker(folder / "ranker")
    project = make_project()
    (project.folder / "envs").mkdir()
    (project.folder / "envs" / "dev.yaml").write_text(WISHES.format(folder=folder))
    given = {"VLLM_IMAGE": images.engine, "LITELLM_IMAGE": images.gateway, "REDIS_IMAGE": images.redis}
    project.configure("cpu", *(f"--set={key}={value}" for key, value in given.items()))
    yield project
    project.stop()


@pytest.fixture(scope="module", params=LANES, ids="lane-{}".format)
def stack(request: pytest.FixtureRequest, deployed: Project) -> Project:
    """Start the stack with the direct lane, then without it: of all its services the gateway alone is made anew."""
    local = deployed.folder / "envs" / ".env.dev.local"
    local.touch(mode=0o600)
    local.write_text(f"GATEWAY_DIRECT={request.param}\n")
    deployed.start()
    return deployed


@pytest.fixture
def key(stack: Project) -> str:
    """Give the key that opens the gateway."""
    return stack.secrets["litellm_master_key"]


@pytest.fixture
def client(stack: Project, key: str) -> Iterator[openai.OpenAI]:
    """Give OpenAI's client, which never asks twice: what the gateway answers is seen as it is."""
    with openai.OpenAI(base_url=f"http://127.0.0.1:{stack.port}/v1", api_key=key, max_retries=0) as client:
        yield client


def send(stack: Project, ask: Ask) -> Answer:
    """Send one request and return the answer."""
    return asyncio.run(exchange(stack.port, ask))


def figure(stack: Project, name: str) -> float:
    """Return the sum of one of the own figures of the engine with the eyes, asked from inside its container: it is not
    published.
    """
    ask = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8000/metrics').read().decode())"
    text = stack.docker("exec", stack.container("engine-2"), "python3", "-c", ask)
    return sum(float(line.split()[-1]) for line in text.splitlines() if re.match(rf"{re.escape(name)}[{{ ]", line))


def test_openai_completion(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smoke", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
    )
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 8 or answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_an_alias_names_itself(client: openai.OpenAI, stream: bool) -> None:
    """What a client asked for is what it is told that it got."""
    asked: Any = client.chat.completions.create(
        model="gpt-4o", messages=[{"role": "user", "content": "Say hello."}], max_tokens=8, stream=stream
    )
    assert {piece.model for piece in (asked if stream else [asked])} == {"gpt-4o"}


def test_openai_stream(client: openai.OpenAI) -> None:
    pieces = list(
        client.chat.completions.create(
            model="smoke",
            messages=[{"role": "user", "content": "Say hello."}],
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
    )
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert [ended for piece in pieces if piece.choices and (ended := piece.choices[0].finish_reason)] == ["length"]
    assert [piece.usage.completion_tokens for piece in pieces if piece.usage] == [8]


def test_openai_responses(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="smoke", input="Say hello.", max_output_tokens=8)
    assert answer.output_text


def test_openai_models(client: openai.OpenAI) -> None:
    served = {model.id for model in client.models.list()}
    assert {"smoke", "eyes", "vectors", "ranker", "gpt-4o", "text-embedding-3-small"} == served


# The model would never come to the end of a text or of a list: it shall begin none.
NO_TEXT = {str(ord(sign)): -100 for sign in '"['}


def test_openai_tool_call(client: openai.OpenAI) -> None:
    """The model knows nothing of tools; one that is named is called all the same, by a grammar.

    vLLM 0.32's grammar for this parser (hermes) holds the call to the tool's name and to JSON, not to the tool's
    schema.
    """
    answer = client.chat.completions.create(
        model="smoke",
        messages=[{"role": "user", "content": "Is it warm?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=200,
        logit_bias=NO_TEXT,
    )
    calls = answer.choices[0].message.tool_calls
    assert calls is not None
    (call,) = calls
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "weather"
    json.loads(call.function.arguments)


def test_openai_tool_call_in_a_stream(client: openai.OpenAI) -> None:
    pieces = client.chat.completions.create(
        model="smoke",
        messages=[{"role": "user", "content": "Is it warm?"}],
        tools=[WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=200,
        logit_bias=NO_TEXT,
        stream=True,
    )
    calls = [call for piece in pieces if piece.choices for call in piece.choices[0].delta.tool_calls or ()]
    assert {call.function.name for call in calls if call.function and call.function.name} == {"weather"}
    text = "".join(call.function.arguments or "" for call in calls if call.function)
    json.loads(text)


def test_openai_tools_that_the_model_may_leave(client: openai.OpenAI) -> None:
    """A request that only offers tools is answered in words by a model that knows none."""
    answer = client.chat.completions.create(
        model="smoke", messages=[{"role": "user", "content": "Is it warm?"}], tools=[WEATHER], max_tokens=8
    )
    assert answer.choices[0].message.content


@pytest.mark.parametrize("model", ["vectors", "text-embedding-3-small"])
def test_openai_embeddings(client: openai.OpenAI, model: str) -> None:
    """Three texts give three vectors of length 1; the same text gives the same vector, another one another."""
    answer = client.embeddings.create(model=model, input=["warm", "cold", "warm"])
    first, second, third = (each.embedding for each in answer.data)
    assert len(first) == len(second) == 128
    assert sum(number**2 for number in first) == pytest.approx(1, abs=0.02)
    assert first == pytest.approx(third, abs=0.02)
    assert first != pytest.approx(second, abs=0.02)
    assert answer.usage.prompt_tokens == 12


def test_rerank(stack: Project, key: str) -> None:
    """Each text has a score, the best first; `top_n` is kept to."""
    asked = {"model": "ranker", "query": "Is it warm?", "documents": ["It is cold.", "warm", "yes"], "top_n": 2}
    answer = send(stack, Ask(path="/v1/rerank", content=json.dumps(asked).encode(), key=key))
    assert answer.status == 200, answer.body
    results = json.loads(answer.body)["results"]
    scores = [each["relevance_score"] for each in results]
    assert len({each["index"] for each in results}) == len(results) == 2
    assert scores == sorted(scores, reverse=True)


def test_what_is_too_long_goes_to_the_model_with_the_longer_context(client: openai.OpenAI) -> None:
    """The engine's own refusal is what the gateway has to recognise: the prompt is too long by its tokens, not by its
    words.
    """
    text = "x" * (SHORT + 500)
    answer = client.chat.completions.create(model="smoke", messages=[{"role": "user", "content": text}], max_tokens=8)
    assert answer.model.endswith("eyes")
    assert answer.usage is not None
    assert SHORT < answer.usage.prompt_tokens < LONGER


def test_engines_do_not_share_a_core(stack: Project) -> None:
    """Each binds its threads to cores of its own; where there are fewer cores than engines, none binds any."""
    logs = [stack.run(["docker", "logs", stack.container(engine)]) for engine in ENGINES]
    texts = [log.stdout + log.stderr for log in logs]
    bound = [re.findall(r"local_rank=0, core ids=\[([\d, ]+)\]", text) for text in texts]
    if any(bound):
        cores = [core for ((text),) in bound for core in text.split(", ")]
        assert len(cores) == len(set(cores)) >= len(ENGINES)
    else:
        assert [text for text in texts if "VLLM_CPU_OMP_THREADS_BIND='nobind'" not in text] == []


def test_openai_embeddings_of_a_chat_model_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as refused:
        client.embeddings.create(model="smoke", input="hello")
    assert "Retried" not in str(refused.value)


def asking(*urls: str) -> Any:
    """Return a conversation that shows pictures."""
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": "Which colour?"}, *pictures]}]


def test_openai_pictures_are_seen(client: openai.OpenAI) -> None:
    """Each colour is named, and what the pictures have most of; the engine counts their tokens."""
    shown = {colour: [picture(colour)] for colour in COLOURS} | {NOTHING: []}
    shown["green"] = [picture("red", width=300), picture("green", height=200), picture("green")]
    answers = {
        word: client.chat.completions.create(model="eyes", messages=asking(*urls)) for word, urls in shown.items()
    }
    assert {word: answer.choices[0].message.content for word, answer in answers.items()} == {
        word: word for word in shown
    }
    counted = {word: answer.usage.prompt_tokens for word, answer in answers.items() if answer.usage}
    assert counted == {word: counted[NOTHING] + PICTURE_TOKENS * len(urls) for word, urls in shown.items()}


def test_openai_picture_in_a_stream(client: openai.OpenAI) -> None:
    pieces = client.chat.completions.create(model="eyes", messages=asking(picture("blue")), stream=True)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == "blue"


def test_anthropic_picture(stack: Project, key: str) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": picture("blue").partition(",")[2]}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "Which colour?"}]
    asked = {"model": "eyes", "max_tokens": 8, "messages": [{"role": "user", "content": content}]}
    answer = send(stack, Ask(path="/v1/messages", content=json.dumps(asked).encode(), key=key))
    assert [each["text"] for each in json.loads(answer.body)["content"]] == ["blue"]


def test_openai_picture_for_a_text_model(client: openai.OpenAI) -> None:
    """Its engine refuses, and the fallback sees.

    What neither takes is the request's fault: 400, and not tried again.
    """
    answer = client.chat.completions.create(model="smoke", messages=asking(picture("red")))
    assert answer.choices[0].message.content == "red"
    assert answer.model.endswith("eyes")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="smoke", messages=asking("data:image/png;base64,"))
    assert "Retried" not in str(refused.value)


def test_what_is_no_picture_is_told_so(client: openai.OpenAI) -> None:
    """Nothing is fetched for whoever asks, wherever it points: that the engine stayed up, the last test sees."""
    broken = picture("red").replace("iVBOR", "AAAAA")
    wrong = {
        broken: "Failed to load image",
        "data:image/png;base64,@": "base64",
        "http://redis:6379/a.png": "allowed domains",
        "http://169.254.169.254/a.png": "allowed domains",
    }
    said = {}
    for url in wrong:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="eyes", messages=asking(url))
        said[url] = str(refused.value)
    assert [text for url, text in said.items() if wrong[url] not in text] == []


def test_anthropics_package(stack: Project, key: str) -> None:
    """Whole and as a stream, unchanged."""
    asked: Any = {"model": "smoke", "max_tokens": 8, "messages": [{"role": "user", "content": "Say hello."}]}
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{stack.port}", api_key=key, max_retries=0) as client:
        answer = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            streamed = stream.get_final_message()
    for message in (answer, streamed):
        assert (message.role, message.content[0].type) == ("assistant", "text")
        assert 0 < message.usage.output_tokens <= 8


def test_langchains_package(stack: Project, key: str) -> None:
    """Chat whole and as a stream, and vectors, unchanged."""
    base = f"http://127.0.0.1:{stack.port}/v1"
    secret = SecretStr(key)
    chat_model = langchain_openai.ChatOpenAI(model="smoke", base_url=base, api_key=secret, max_completion_tokens=8)
    assert chat_model.invoke("Say hello.").content
    pieces = list(chat_model.stream("Say hello."))
    assert "".join(str(piece.content) for piece in pieces)
    vectors = langchain_openai.OpenAIEmbeddings(
        model="vectors", base_url=base, api_key=secret, check_embedding_ctx_length=False
    )
    assert [len(vector) for vector in vectors.embed_documents(["warm", "cold"])] == [128, 128]


def test_anthropic_form(stack: Project, key: str) -> None:
    ask = replace(chat(key), path="/v1/messages")
    answer = json.loads(send(stack, ask).body)
    assert (answer["type"], answer["role"], answer["content"][0]["type"]) == ("message", "assistant", "text")
    assert answer["usage"]["output_tokens"] > 0


def test_anthropic_stream(stack: Project, key: str) -> None:
    answer = send(stack, replace(chat(key, stream=True), path="/v1/messages"))
    events = re.findall(r"^event: (\w+)$", answer.body, re.MULTILINE)
    assert (events[0], events[-1]) == ("message_start", "message_stop")
    assert "content_block_delta" in events


def test_figures_of_the_gateway_need_the_key(stack: Project, key: str) -> None:
    assert send(stack, chat(key)).status == 200
    assert send(stack, Ask(path="/metrics/", method="GET")).status == 401
    answer = send(stack, Ask(path="/metrics/", method="GET", key=key))
    assert answer.status == 200
    counted = re.findall(
        r'^litellm_proxy_total_requests_metric_total{.*status_code="200".*} (\S+)', answer.body, re.MULTILINE
    )
    assert sum(map(float, counted)) >= 1


HALF = b'{"model": "smoke", "messages": [{"role": "us'


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_wrong_requests_are_told_what_is_wrong(stack: Project, key: str, path: str) -> None:
    tiny = chat(key).content
    long = chat(key, content="hello " * 60_000)
    wrong = {
        "key": (Ask(path=path, content=tiny, key="sk-" + "0" * 64), 401, "key"),
        "no key": (Ask(path=path, content=tiny), 401, "key"),
        "model": (Ask(path=path, content=chat(key, model="nobody").content, key=key), 400, "nobody"),
        "half a document": (Ask(path=path, content=HALF, key=key), 400, "JSON"),
        "no text": (Ask(path=path, content=b"\xff\xfe\x00", key=key), 400, ""),
        "longer than the context": (Ask(path=path, content=long.content, key=key), 400, "tokens"),
    }
    answers = {name: send(stack, ask) for name, (ask, _, _) in wrong.items()}
    assert {name: answer.status for name, answer in answers.items()} == {
        name: status for name, (_, status, _) in wrong.items()
    }
    assert [name for name, (_, _, word) in wrong.items() if word not in answers[name].message] == []
    assert [name for name, answer in answers.items() if "Traceback" in answer.body] == []


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_engine_stops_for_a_client_that_is_gone(stack: Project, key: str, stream: bool) -> None:
    before = figure(stack, "vllm:generation_tokens_total")
    # With the penalty it says one thing after another: LiteLLM ends a stream that says the same a hundred times.
    ask = chat(key, model="eyes", stream=stream, max_tokens=LONG, ignore_eos=True, frequency_penalty=2)

    async def leave() -> None:
        async with connection(stack.port) as (reader, writer):
            writer.write(ask.head() + ask.content)
            if stream:
                await read_until(reader, b"data: ")
            await asyncio.to_thread(wait_until, lambda: figure(stack, "vllm:num_requests_running") or None)

    asyncio.run(leave())
    wait_until(lambda: figure(stack, "vllm:num_requests_running") == 0 or None)
    assert figure(stack, "vllm:generation_tokens_total") - before < LONG


def test_many_slow_clients_at_once(stack: Project, key: str) -> None:
    """Half of them read a stream a few bytes at a time, half send theirs so: all are answered, and nobody waits for
    them.
    """
    slow = Slow(piece=32, pause_s=0.5)
    reading = chat(key, stream=True, max_tokens=8, ignore_eos=True)

    async def all_at_once() -> tuple[list[Answer], Answer, int]:
        clients = [
            asyncio.create_task(exchange(stack.port, reading, reading=slow))
            if number % 2
            else asyncio.create_task(exchange(stack.port, chat(key), sending=slow))
            for number in range(CLIENTS)
        ]
        await asyncio.sleep(1)
        quick = await exchange(stack.port, chat(key))
        under_way = sum(not client.done() for client in clients)
        return await asyncio.gather(*clients), quick, under_way

    answers, quick, under_way = asyncio.run(all_at_once())
    assert [answer.status for answer in answers] == [200] * CLIENTS
    assert [answer.body[-200:] for answer in answers[1::2] if "[DONE]" not in answer.body] == []
    assert (quick.status, under_way > 0) == (200, True)


def test_the_stack_has_stayed_up(stack: Project) -> None:
    """After all of the above no service has been started anew, and completions come."""
    services = (*ENGINES, "gateway", "redis")
    assert {name: stack.inspect(name)["RestartCount"] for name in services} == dict.fromkeys(services, 0)
    assert stack.complete()
