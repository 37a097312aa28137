"""The requests of the recording, as tables: each scene is the service with its settings, and steps in their order.

To record more, add a step. `{name}` in a path or body is the id that an earlier step kept as `name`, and `{name.file}`
the path of its first file.
"""
# ruff: noqa: E501 - a table is read by its rows

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

PNG: Final = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mNgYGAAAAAEAAHI6uv5AAAAAElFTkSuQmCC"
)
PICTURE: Final = {"model_name": "flux-dev", "prompt": "[[slow=0]] A lighthouse", "seed": 7}
BATCH: Final = {
    "model_name": "flux-dev",
    "prompts": ["[[slow=0]] a", "[[fail]] b", "[[nsfw]] c"],
    "max_concurrent": 1,
}
ASYNC: Final = {"Prefer": "respond-async"}
IMAGE: Final = "https://example.com/a.png"


@dataclass(frozen=True, slots=True)
class Step:
    """One request. It is repeated until its answer has the status `until`. Before it, the simulator gets the order `fault`
    and the account `account`. After it, the recorder waits until `webhooks` of them have come."""

    method: str
    path: str
    who: str | None = None
    json: Any = None
    data: Any = None
    form: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    keep: str | None = None
    until: str | None = None
    fault: Mapping[str, Any] | None = None
    account: Mapping[str, Any] | None = None
    webhooks: int | None = None
    pause: float = 0.0
    """Seconds before it, in which pending webhooks and answers arrive."""


@dataclass(frozen=True, slots=True)
class Scene:
    """`kind` is how the service runs: `app` in this process, `draining` after SIGTERM, `kept` on a copy
    of the ledger of 0.4.0."""

    name: str
    steps: Sequence[Step]
    settings: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "app"


def generate(body: Any, who: str | None = "user", **more: Any) -> Step:
    return Step("POST", "/generate", who, json=body, **more)


def batch(body: Any, who: str | None = "user", **more: Any) -> Step:
    return Step("POST", "/generate-batch", who, json=body, **more)


def get(path: str, who: str | None = "user", **more: Any) -> Step:
    return Step("GET", path, who, **more)


ROUTES: Final = (
    "/generate", "/generate-batch", "/configure", "/models", "/status", "/health", "/openapi.json", "/docs", "/generations",
    "/generations/gen_1", "/generations/gen_1/events", "/batches/batch_1", "/usage", "/webhooks/replicate", "/files/gen_1/0.png",
    "/", "/nowhere", "/generate/", "/health//", "/GENERATE",
)  # fmt: skip
METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW")

METHOD_STEPS = [Step(method, path) for path in ROUTES for method in METHODS]

BAD_BODIES: Final[tuple[Any, ...]] = (
    None, [], "text", 3, {}, {"model_name": "flux-dev"}, {"prompt": "a"}, {"model_name": "nope", "prompt": "a"},
    {"model_name": "flux-devv", "prompt": "a"}, {"model_name": 3, "prompt": "a"}, PICTURE | {"prompt": ""},
    PICTURE | {"prompt": 5}, PICTURE | {"seed": "3"}, PICTURE | {"seed": True}, PICTURE | {"num_outputs": 99},
    PICTURE | {"guidance": -1, "num_inference_steps": 99, "wrong": 1}, PICTURE | {"aspect_ratio": "7:7"},
    PICTURE | {"negative_prompt": "a"}, PICTURE | {"timeout": 0}, PICTURE | {"timeout": 9999}, PICTURE | {"timeout": "5"},
    PICTURE | {"fallback": "yes"}, PICTURE | {"fallback": ["nope"]}, PICTURE | {"fallback": [3]}, PICTURE | {"placeholder": 1},
    PICTURE | {"webhook": "ftp://x"}, PICTURE | {"webhook": "http://example.com/"}, PICTURE | {"webhook": "https://10.0.0.1/"},
    PICTURE | {"file_name": ""}, PICTURE | {"file_name": "a/b"}, PICTURE | {"max_cost_usd": -1}, PICTURE | {"prompts": ["a"]},
    PICTURE | {"image": "http://example.com/a.png"}, PICTURE | {"image": "data:image/png;base64,AAAA"}, PICTURE | {"image": [IMAGE]},
    PICTURE | {"image": "https://localhost/a.png"}, PICTURE | {"dry_run": True}, PICTURE | {"input_image": IMAGE},
    {"model_name": "kontext-max", "prompt": "a"}, {"model_name": "veo-3-fast", "prompt": "a", "duration": 99},
    {"model_name": "flux-1.1-pro", "prompt": "a", "width": 1000}, {f"x{number}": 1 for number in range(150)} | PICTURE,
)  # fmt: skip
BAD_BATCHES: Final[tuple[Any, ...]] = (
    [], {}, {"prompts": ["a"]}, {"model_name": "flux-dev", "prompts": []}, {"model_name": "flux-dev", "prompts": "a"},
    {"model_name": "flux-dev", "prompts": ["a", 3, ""]}, {"requests": []}, {"requests": [3]}, {"requests": {}},
    {"requests": [PICTURE, PICTURE | {"guidance": 99}]}, {"requests": [PICTURE], "model_name": "flux-dev"},
    {"model_name": "flux-dev", "prompts": ["a"], "max_concurrent": 0}, {"model_name": "flux-dev", "prompts": ["a"], "prompt": "b"},
    {"model_name": "flux-dev", "prompts": ["a", "b"], "file_names": ["x"]}, {"model_name": "flux-dev", "prompts": ["a"], "file_name": "x"},
    {"model_name": "flux-dev", "prompts": ["a", "b"], "file_names": ["x", "X.png"]}, {"model_name": "flux-dev", "prompts": ["a"] * 10_001},
    {"model_name": "flux-dev", "prompts": ["a"], "dry_run": "yes"}, {"model_name": "flux-dev", "prompts": ["a"], "webhook": "x"},
)  # fmt: skip
BAD_LIMITS: Final[tuple[Any, ...]] = (
    {},
    [],
    {"concurrent_limit": 0},
    {"concurrent_limit": 1001},
    {"requests_per_minute": "5"},
    {"nope": 1},
)
BAD_TEXTS: Final = (
    b"",
    b"{",
    b'{"a": NaN}',
    b'{"a": 1, "a": 2}',
    b"\xff",
    b'{"a": 1e999}',
    b"[" * 5000,
    b'"\\ud800"',
    b"null",
)
QUERIES: Final = (
    "/generations?limit=0", "/generations?limit=201", "/generations?limit=x", "/generations?state=nope", "/generations?model=nope",
    "/generations?since=nope", "/generations?cursor=nope", "/generations?wrong=1", "/generations?limit=1&limit=2",
    "/generations?since=2026-01-01", "/generations?model=flux-dev&state=failed", "/usage?group_by=nope", "/usage?since=x&until=y",
    "/usage?wrong=1", "/usage?since=2020-01-01&until=2020-01-02", "/models?kind=video", "/models?kind=nope", "/models?tier=free",
    "/models?tier=nope&kind=x", "/models?kind=image&kind=video&tier=basic", "/models?wrong=1",
)  # fmt: skip

JSON: Final = {"Content-Type": "application/json"}
INPUT_STEPS = [
    *(generate(body) for body in BAD_BODIES),
    *(batch(body) for body in BAD_BATCHES),
    *(Step("POST", "/configure", "admin", json=body) for body in BAD_LIMITS),
    *(Step("POST", path, "admin", data=text, headers=JSON) for path in ("/generate", "/configure") for text in BAD_TEXTS),
    *(get(path) for path in QUERIES),
    *(Step("POST", "/generate", "user", data=b"a", headers={"Content-Type": kind})
      for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")),
    Step("POST", "/generate", "user", data=b"{}", headers=JSON | {"Content-Encoding": "gzip"}),
    Step("POST", "/generate", "user", data=b"a" * 20_000_000, headers=JSON),
    *(generate(PICTURE, headers={"Idempotency-Key": key}) for key in ("", "a b", "x" * 256)),
]  # fmt: skip

KEYS: Final[tuple[dict[str, str], ...]] = ({}, {"X-Admin-API-Key": "wrong"}, {"X-Admin-API-Key": ""}, {"X-Replicate-API-Key": ""}, {"X-Replicate-API-Key": "a b"},
               {"X-Admin-API-Key": "wrong", "X-Replicate-API-Key": "r8_user"})  # fmt: skip
DOOR_STEPS = [
    *(Step(method, path, json={}, headers=keys)
      for method, path in (("POST", "/generate"), ("POST", "/generate-batch"), ("POST", "/configure"), ("GET", "/usage"),
                           ("GET", "/generations"), ("GET", "/generations/gen_1"), ("DELETE", "/batches/batch_1"))
      for keys in KEYS),
    Step("POST", "/configure", "user", json={"concurrent_limit": 5}),
]  # fmt: skip

ENDING_STEPS = [
    generate(PICTURE, "admin", keep="a"),
    get("/generations/{a}", "admin"), get("/generations/{a}", "user"), get("/generations/{a}/events", "admin"),
    Step("DELETE", "/generations/{a}", "admin"), get("/batches/{a}", "admin"),
    get("{a.file}", None), Step("HEAD", "{a.file}"),
    *(get("{a.file}", None, headers={"Range": given})
      for given in ("bytes=0-9", "bytes=5-", "bytes=-7", "bytes=0-0,2-3", "bytes=999999999-", "bytes=9-1", "x=1-2")),
    get("{a.file}", None, headers={"If-None-Match": "*"}), get("{a.file}?download=1", None), get("{a.file}x", None),
    generate(PICTURE | {"file_name": "Möwe.png", "num_outputs": 2}, keep="b"), get("{b.file}", None),
    *(generate(PICTURE | {"prompt": prompt})
      for prompt in ("[[fail]]", "[[fail=of its own]]", "[[nsfw]]", "[[empty]]", "[[fewer]]", "[[canceled]]", "[[aborted]]",
                     "[[transient]] x", "[[early]]", "[[sparse]]", "Ünïcödé 🦉")),
    generate(PICTURE | {"prompt": "[[hang]]", "timeout": 1}),
    generate(PICTURE | {"prompt": "[[nsfw]]", "placeholder": True}, keep="black"), get("{black.file}", None),
    *(generate(PICTURE | body)
      for body in ({"prompt": "[[only=flux-dev]] [[nsfw]]", "fallback": True, "num_outputs": 2},
                   {"prompt": "[[nsfw]]", "fallback": True}, {"prompt": "[[fail]]", "fallback": ["imagen-4-ultra"], "max_cost_usd": 0.03},
                   {"prompt": "[[only=flux-dev]] [[fail]]", "fallback": ["nano-banana", "qwen-image"], "image": IMAGE},
                   {"max_cost_usd": 0.01})),
    *(generate({"model_name": model, "prompt": "[[slow=0]] x", **more}, "admin")
      for model, more in (("flux-schnell", {"num_outputs": 2, "seed": 1}), ("qwen-image", {"seed": 1}), ("imagen-4-ultra", {}),
                          ("kontext-max", {"input_image": IMAGE}), ("nano-banana", {"image_input": [IMAGE]}),
                          ("veo-3-fast", {"duration": 4, "seed": 1}), ("black-forest-labs/flux-1.1-pro", {}))),
    *(generate(PICTURE, fault={"on": "create", "times": times, "status": status, "headers": {"Retry-After": "0"}})
      for status, times in ((503, 4), (429, 20), (422, 1), (400, 1), (404, 1))),
    *(generate(PICTURE, who, account={"token": token, **trouble})
      for who, token in (("user", "r8_user"), ("admin", "r8_server"))
      for trouble in ({"reject": True}, {"reject": False, "credit": "empty"})),
    *(generate(PICTURE, who, account={"token": token, "credit": "ok"}) for who, token in (("user", "r8_user"), ("admin", "r8_server"))),
    Step("POST", "/generate", "user", form={**PICTURE, "seed": "7"}),
    Step("POST", "/generate", "user", form={"model_name": "kontext-max", "prompt": "[[slow=0]] x", "input_image": PNG}),
    Step("POST", "/generate", "user", form={"model_name": "kontext-max", "prompt": "[[slow=0]] x", "input_image": PNG.ljust(300_000)}),
    Step("POST", "/generate", "user", form={"model_name": "kontext-max", "prompt": "x", "input_image": b"no image"}),
    Step("POST", "/generate-batch", "user", form={"model_name": "flux-dev", "prompts": "[[slow=0]] one"}),
]  # fmt: skip

KEY: Final = {"Idempotency-Key": "k"}
COMING_BACK_STEPS = [
    generate(PICTURE, headers=KEY), generate(PICTURE, headers=KEY), generate(PICTURE, headers=KEY | ASYNC),
    generate(PICTURE | {"seed": 8}, headers=KEY), generate(PICTURE, "other", headers=KEY), generate(PICTURE, "admin", headers=KEY),
    batch(BATCH, headers={"Idempotency-Key": "b"}), batch(BATCH, headers={"Idempotency-Key": "b"}),
    generate(PICTURE, headers={"Prefer": "wait=20"}), generate(PICTURE | {"prompt": "[[hang]]"}, headers={"Prefer": "wait=1"}, keep="h"),
    get("/generations/{h}", until="running"), get("/generations/{h}", "other"), get("/generations/{h}", "admin"),
    Step("DELETE", "/generations/{h}", "other"), Step("DELETE", "/generations/{h}", "user"), get("/generations/{h}/events"),
    generate(PICTURE, headers=ASYNC, keep="later"), get("/generations/{later}", until="succeeded"),
    generate(PICTURE | {"prompt": "[[slow=1]]"}, headers=ASYNC, keep="live"), get("/generations/{live}", until="running"),
    get("/generations/{live}/events"), generate(PICTURE, headers={"X-Request-ID": "mine"}), get("/nowhere", headers={"X-Request-ID": "a b"}),
]  # fmt: skip

BATCH_STEPS = [
    batch(BATCH, keep="b"), get("/batches/{b}"), get("/batches/{b}", "other"), get("/batches/{b}", "admin"), get("/generations/{b}"),
    batch(BATCH, headers={"Accept": "application/x-ndjson"}), batch(BATCH | {"dry_run": True}),
    batch({"requests": [PICTURE, PICTURE | {"model_name": "qwen-image"}, PICTURE | {"prompt": "[[nsfw]]"}]}, "admin"),
    batch(BATCH | {"max_cost_usd": 0.01}), batch(BATCH | {"file_names": ["x", "y", "z"]}),
    batch(BATCH, headers=ASYNC, keep="c"), get("/batches/{c}", until="completed"), Step("DELETE", "/batches/{c}", "user"),
    batch({"model_name": "flux-dev", "prompts": ["[[hang]]", "[[hang]]"], "max_concurrent": 1}, headers=ASYNC, keep="d"),
    Step("DELETE", "/batches/{d}", "user", pause=0.5), get("/batches/{d}", until="completed"),
    get("/generations?limit=3"), get("/generations?state=failed&limit=200"), get("/generations?limit=200"), get("/generations", "admin"),
    *(get(f"/usage?group_by={group}", who) for group in ("model", "caller", "day") for who in ("admin", "user")), get("/usage"),
    get("/status", None), Step("POST", "/configure", "admin", json={"concurrent_limit": 5, "requests_per_minute": 700}),
    get("/status", None), get("/models", None), get("/openapi.json", None), get("/docs", None), get("/health", None),
]  # fmt: skip

HOOK_STEPS = [
    generate(PICTURE | {"webhook": "{hook}"}, keep="a", webhooks=1), get("/generations/{a}"),
    batch(BATCH | {"webhook": "{hook}"}, "admin", keep="b", webhooks=2), get("/batches/{b}", "admin"),
    generate(PICTURE | {"webhook": "{hook}", "prompt": "[[fail]]"}, webhooks=3),
]  # fmt: skip

INBOUND: Final = {"webhook-id": "msg_1", "webhook-timestamp": "1", "webhook-signature": "v1,AAAA"}
INBOUND_STEPS = [
    generate(PICTURE, "admin", keep="a"),
    Step("POST", "/webhooks/replicate?generation={a}&attempt=1", data=b"{}"),
    Step("POST", "/webhooks/replicate?generation={a}&attempt=1", data=b"{}", headers=INBOUND),
    Step("POST", "/webhooks/replicate?generation=gen_none&attempt=1", data=b"{}", headers=INBOUND),
    Step("POST", "/webhooks/replicate", data=b"no"),
]  # fmt: skip

EVERY_ROUTE = [
    generate(PICTURE), batch(BATCH), generate(PICTURE, "admin"), batch(BATCH | {"dry_run": True}, "admin"), get("/generations"),
    get("/generations", "admin"), get("/generations/gen_1", "admin"), get("/usage", "admin"), get("/usage"), get("/health", None), get("/status", None),
    get("/models?kind=video", None), Step("POST", "/configure", "admin", json={"concurrent_limit": 3}), get("/files/gen_1/0.png", None),
    Step("DELETE", "/generations/gen_1", "admin"),
]  # fmt: skip

KEPT_STEPS = [
    *(get(f"/generations?limit=25&state={state}", who) for state in ("succeeded", "failed", "canceled") for who in ("admin", "ann", "bob")),
    *(get(f"/usage?group_by={group}", who) for group in ("model", "caller") for who in ("admin", "ann", "bob")),
]  # fmt: skip

SCENES: Final = (
    Scene("methods", METHOD_STEPS),
    Scene("inputs", INPUT_STEPS),
    Scene("doors", DOOR_STEPS),
    Scene("no admin key", DOOR_STEPS[:12], {"CONCURRENT_DOCKER_ADMIN_API_KEY": ""}),
    Scene("no token", [generate(PICTURE, "admin"), batch(BATCH, "admin"), generate(PICTURE)], {"REPLICATE_API_TOKEN": ""}),
    Scene("endings", ENDING_STEPS),
    Scene("coming back", COMING_BACK_STEPS),
    Scene("batches", BATCH_STEPS),
    Scene("signed webhooks", HOOK_STEPS, {"REPLICATE_SIMULATE": 1, "WEBHOOK_SECRET": "whsec_c2VjcmV0c2VjcmV0c2VjcmV0"}),
    Scene("unsigned webhooks", HOOK_STEPS, {"REPLICATE_SIMULATE": 1}),
    Scene("inbound webhooks", INBOUND_STEPS),
    Scene("no files", [generate(PICTURE), generate(PICTURE | {"prompt": "[[fail]]", "placeholder": True})], {"FILES_TTL": 0}),
    Scene("budget", [generate(PICTURE), generate(PICTURE), batch(BATCH), generate(PICTURE, "admin")], {"BUDGET_USD_PER_DAY": 0.03}),
    Scene("full", [batch(BATCH), generate(PICTURE)], {"MAX_QUEUED": 2}),
    Scene("public address", [generate(PICTURE)], {"PUBLIC_URL": "https://pictures.example.com/base/"}),
    Scene("ledger down", EVERY_ROUTE, {"DATABASE_URL": "sqlite:////proc/nowhere/ledger.db"}),
    Scene("draining", EVERY_ROUTE, kind="draining"),
    Scene("ledger of 0.4.0", KEPT_STEPS, {"REPLICATE_SIMULATE": 1}, kind="kept"),
)  # fmt: skip
