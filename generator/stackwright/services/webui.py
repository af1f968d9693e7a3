"""The front end (Open WebUI): a page to chat with the stack's models in a browser. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from stackwright.domain.catalog import Catalog
from stackwright.domain.plan import Plan, Setting
from stackwright.domain.recipe import locked_recipe
from stackwright.domain.service import (
    AsProcess,
    Dependency,
    Document,
    Executable,
    Health,
    HttpProbe,
    InContainer,
    ListenAddress,
    Login,
    MountedFile,
    Page,
    Port,
    PortOf,
    ProgramRelease,
    ScratchRef,
    Service,
    SettingRef,
    Smoke,
    VolumeRef,
    Word,
)
from stackwright.domain.setting_spec import Kind, SettingSpec, whole_number
from stackwright.services.additions import BIND, SECTION, Addition, PlannedStack, port_setting
from stackwright.services.gateway import ADDRESS, GATEWAY
from stackwright.units import MIB

_NAME = "webui"
_IMAGE, _PORT = "WEBUI_IMAGE", "WEBUI_PORT"
SETTINGS = (
    SettingSpec(key=_IMAGE, section="Images", kind=Kind.IMAGE, meaning="Image of the front end"),
    whole_number(_PORT, SECTION, (1, 65535), "Port that the front end is published on"),
)

VERSION = "0.12.4"
"""What the lock and the catalog's image have."""

# Open WebUI 0.12.4 takes 330 MB when it is ready, and 354 MB after 200 chats, twenty at once, and a text of 5 MB (two
# cores, 2026-11-30); the rest is for what more people keep open.
_BYTES = 450 * 10**6


def _decide(planned: PlannedStack, catalog: Catalog) -> dict[str, Setting]:
    image = catalog.service(_NAME).setting("pinned release")
    return {_IMAGE: image, _PORT: port_setting(3000, planned.environment)}


SECRET_KEY = "webui_secret_key"
ADDITION = Addition(
    name=_NAME,
    title="Open WebUI, a page to chat in",
    decide=_decide,
    memory_bytes=lambda _: _BYTES,
    has_key=True,
)

RECIPE = locked_recipe(_NAME, "open-webui", size_bytes=560 * MIB)

# Of open_webui/env.py and config.py, 0.12.4. The first rows hold at every start; those under ENABLE_SIGNUP are what it
# begins with, and are a person's to change in its own settings.
_VARIABLES: Mapping[str, Word] = {
    # No models, vector store and document readers of its own: the form that its maker's `-slim` image has.
    "USE_SLIM_DOCKER": "true",
    # No package, model or news of a release is fetched.
    "OFFLINE_MODE": "true",
    "ENABLE_VERSION_UPDATE_CHECK": "false",
    # Its first account is taken all the same, and made the administrator's (routers/auths.py, signup).
    "ENABLE_SIGNUP": "false",
    "ENABLE_OLLAMA_API": "false",
    # Sends a chat to its maker's site.
    "ENABLE_COMMUNITY_SHARING": "false",
    # A made-up model that stands for a random one.
    "ENABLE_EVALUATION_ARENA_MODELS": "false",
    # Python in the browser, whose packages come from a public server.
    "ENABLE_CODE_EXECUTION": "false",
    "ENABLE_CODE_INTERPRETER": "false",
    # Each asks the model for more with every answer. A title is asked for once a chat.
    "ENABLE_FOLLOW_UP_GENERATION": "false",
    "ENABLE_TAGS_GENERATION": "false",
    # A text that is attached goes to the model whole: there is nothing here to search it with.
    "BYPASS_EMBEDDING_AND_RETRIEVAL": "true",
}

FILES = tuple(MountedFile(source=name, name=name) for name in ("webui/start.sh", "webui/webui.py", "gateway/trust.py"))

WEBUI = Service(
    name=_NAME,
    kind=_NAME,
    release=ProgramRelease(program=RECIPE.package, version=VERSION),
    image=SettingRef(key=_IMAGE),
    script="webui/start.sh",
    command=("--host", ListenAddress(), "--port", PortOf(service=_NAME)),
    environment={
        "PYTHONUNBUFFERED": "1",
        "WEBUI_GATEWAY": ADDRESS,
        "DATA_DIR": VolumeRef(name=_NAME),
        # It writes its pictures anew at each start.
        "STATIC_DIR": ScratchRef(name="webui.static"),
        **_VARIABLES,
    },
    secrets=(SECRET_KEY, ADDITION.key_secret, "tls_certificate"),
    files=FILES,
    volumes=(_NAME,),
    port=Port(number=8080, published=(BIND, SettingRef(key=_PORT))),
    health=Health(probe=HttpProbe(path="/ready"), start_period="10m"),
    smoke=Smoke(
        what="for the page and the models that the gateway lists for it",
        path="/stackwright/self-test",
        method="POST",
        login=Login(secret=ADDITION.key_secret),
        holds='"page": true, "missing": []',
    ),
    page=Page(title="Open WebUI (the first to sign up is the administrator, and nobody after)"),
    after=(Dependency(service=GATEWAY.name),),
    in_container=InContainer(environment={"HOME": "/tmp"}),
    as_process=AsProcess(environment={"PYTHON": Executable(name="python")}, recipe=RECIPE),
)


def webui_services(plan: Plan) -> tuple[Service, ...]:
    """Return the front end, with the models that people can chat with."""
    chat = tuple(model.name for model in plan.models if model.role.generates)
    names = (*chat, *(model.name for model in plan.gateway.cloud))
    models = Document(fields={"models": names})
    return (replace(WEBUI, environment={**WEBUI.environment, "WEBUI_MODELS": models}),)
