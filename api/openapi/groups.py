"""The groups of routes in the OpenAPI document: its tags, and examples of bodies. The page `/docs` shows both."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from api.openapi.schemas import JSON
from catalog.model import Model
from catalog.texts.declared import TEXT_MODELS


@dataclass(frozen=True, slots=True)
class Group:
    """A tag of operations: those of these paths, and of all below them."""

    name: str
    description: str
    below: tuple[str, ...] = ()

    def has(self, path: str) -> bool:
        return any(path == each or path.startswith(f"{each}/") for each in self.below)


GROUPS: Final = (
    Group(
        "generate",
        "Make images, videos and other outputs. Each body is checked before anything is spent.",
        ("/generate", "/generate-batch"),
    ),
    Group(
        "text",
        "Call text models: chats, structured output and stories, single and in batches.",
        ("/chat", "/structured-output", "/cinematic-story-design", "/batch"),
    ),
    Group(
        "train",
        "Train a model of your own on images. The images are checked before anything is spent.",
        ("/trainings",),
    ),
    Group(
        "look up",
        "Each key sees its own work. Keys of the roles `admin` and `viewer` see all.",
        ("/generations", "/batches", "/usage", "/files"),
    ),
    Group(
        "keys",
        "A named key for each service: its role, limits, budget and models. Its text is shown once.",
        ("/keys",),
    ),
    Group("audit", "What administrators did.", ("/audit",)),
    Group("models", "The declared models, and any other model of Replicate.", ("/models",)),
    Group(
        "semaphores",
        "Further limits, on the work that names them and on other services.",
        ("/_admin/semaphores", "/semaphores"),
    ),
    Group(
        "OpenAI door",
        "OpenAI's images and chats, for its clients. Errors are `{error: {message, type, param, code}}`.",
        ("/v1",),
    ),
    Group(
        "Replicate door",
        "Replicate's API, for its clients. Errors are `{title, detail, status, code}`.",
        ("/replicate/v1",),
    ),
    Group(
        "operate",
        "Limits, statistics, health and documentation.",
    ),
)
"""In the order of the page. The last has all other routes."""


def tags() -> list[JSON]:
    return [{"name": each.name, "description": each.description} for each in GROUPS]


def grouped(paths: JSON, models: tuple[Model, ...]) -> JSON:
    """The paths, ordered by group. Each operation has the tag of its group, and examples of its JSON body."""
    examples = _examples(models)
    return {
        path: {
            method: _with_examples({**operation, "tags": [group.name]}, examples.get(f"{method} {path}", {}))
            for method, operation in paths[path].items()
        }
        for group, path in _in_order(paths)
    }


def _in_order(paths: JSON) -> Iterator[tuple[Group, str]]:
    *groups, last = GROUPS
    for group in groups:
        yield from ((group, path) for path in paths if group.has(path))
    yield from ((last, path) for path in paths if not any(group.has(path) for group in groups))


def _with_examples(operation: JSON, examples: Mapping[str, Any]) -> JSON:
    if not examples:
        return operation
    body = operation["requestBody"]
    named = {name: {"value": value} for name, value in examples.items()}
    content = body["content"] | {
        "application/json": {**body["content"]["application/json"], "examples": named}
    }
    return {**operation, "requestBody": {**body, "content": content}}


def _examples(models: tuple[Model, ...]) -> Mapping[str, Mapping[str, Any]]:
    """Bodies by method and path, each by what it shows."""
    each = {example["model_name"]: example for example in (model.as_json()["example"] for model in models)}
    name, prompts = next(iter(each)), ["A red fox", "A blue fox"]
    mixed = [{field: one[field] for field in ("model_name", "prompt")} for one in [*each.values()][:3]]
    return {
        "post /generate": each,
        "post /generate-batch": {
            "one model, many prompts": {"model_name": name, "prompts": prompts},
            "only how it would go": {"model_name": name, "prompts": prompts, "dry_run": True},
            "whole requests, models mixed": {"requests": mixed},
        },
        **_OF_TEXTS,
        **_OF_TRAININGS,
        **_OF_KEYS,
        **_OF_OPERATORS,
        **_of_doors(models),
    }


_PERSON: Final[JSON] = {
    "system_prompt": "Extract facts about people.",
    "user_content": "My name is Jane and I live in New York.",
    "json_schema": {
        "type": "object",
        "properties": {"name": {"type": "string"}, "city": {"type": "string"}},
        "required": ["name", "city"],
    },
}
_STORY: Final[JSON] = {
    "system_prompt": "You are a storyteller.",
    "user_content": "A lighthouse keeper who collects the sounds of storms.",
}

_OF_TEXTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "post /chat": {
        "a question": {"prompt": "What is the speed of light?"},
        "a conversation": {
            "system_prompt": "Answer in one sentence.",
            "messages": [
                {"role": "user", "content": "Name a colour."},
                {"role": "assistant", "content": "Blue."},
            ],
            "prompt": "And another one?",
        },
        "in pieces": {"prompt": "Tell a short story.", "stream": True},
    },
    "post /structured-output": {"a person": _PERSON},
    "post /cinematic-story-design": {"a story": _STORY},
    "post /batch/chat": {
        "two questions": {"requests": [{"prompt": "Why is the sky blue?"}, {"prompt": "And grass?"}]}
    },
    "post /batch/structured-output": {"one person": {"requests": [_PERSON]}},
    "post /batch/cinematic-story-design": {"one story": {"requests": [_STORY]}},
}

_OF_TRAININGS: Final[Mapping[str, Mapping[str, Any]]] = {
    "post /trainings": {
        "a subject": {
            "trainer": "ostris/flux-dev-lora-trainer", "destination": "my-dog", "create_destination": True,
            "images": "https://example.com/dogs.zip", "trigger_word": "TOK", "input": {"steps": 1000},
        },
        "only a forecast of the cost": {
            "trainer": "replicate/fast-flux-trainer", "destination": "acme/my-dog",
            "images": "https://example.com/dogs.zip", "trigger_word": "TOK", "dry_run": True,
        },
    },
}  # fmt: skip

_OF_KEYS: Final[Mapping[str, Mapping[str, Any]]] = {
    "post /keys": {
        "a service with limits": {
            "name": "shop", "role": "caller", "max_concurrent": 5, "requests_per_minute": 60,
            "budget_usd": 20, "budget_period": "month", "tags": {"team": "web"},
        },
        "a reader": {"name": "dashboard", "role": "viewer"},
        "a scraper": {"name": "prometheus", "role": "metrics"},
    },
    "patch /keys/{key_id}": {
        "another budget": {"budget_usd": 40, "budget_period": "month"}, "no budget": {"budget_usd": None},
    },
    "post /keys/{key_id}/rotate": {"both hold for an hour": {"grace_seconds": 3600}},
}  # fmt: skip

_OF_OPERATORS: Final[Mapping[str, Mapping[str, Any]]] = {
    "post /configure": {
        "both limits": {"concurrent_limit": 10, "requests_per_minute": 600},
        "those of text models": {
            "gemini": {"concurrency_limit": 20, "limits": {"*": {"rpm": 600, "tpm": 2_000_000}}}
        },
    },
    "post /_admin/semaphores": {"two permits": {"semaphore_id": "gpu", "limit": 2}},
    "post /semaphores/{semaphore}/leases": {"for a minute": {"ttl": 60}},
}


def _of_doors(models: tuple[Model, ...]) -> Mapping[str, Mapping[str, Any]]:
    prompt = {"prompt": "A lighthouse at dusk"}
    call = {"model": models[0].short_name, **prompt}
    editor = next((each for each in models if each.most_references), models[0])
    edit = {**call, "model": editor.short_name, "image": "https://example.com/a.png"}
    question = [{"role": "user", "content": "Why is the sky blue?"}]
    chat = {"model": TEXT_MODELS.models[0].name, "messages": question}
    return {
        "post /v1/images/generations": {
            "one image": {**call, "size": "1536x1024"},
            "its content": {**call, "response_format": "b64_json"},
            "fields of ours": {**call, "fallback": True, "max_cost_usd": 0.05},
        },
        "post /v1/images/edits": {"by address": edit},
        "post /v1/chat/completions": {"a question": chat, "as a stream": {**chat, "stream": True}},
        "post /replicate/v1/predictions": {"by name": {"version": models[0].name, "input": prompt}},
        "post /replicate/v1/models/{owner}/{name}/predictions": {"an input": {"input": prompt}},
        "post /replicate/v1/models": {
            "a destination": {"owner": "acme", "name": "my-dog", "visibility": "private", "hardware": "cpu"}
        },
        "post /replicate/v1/models/{owner}/{name}/versions/{version}/trainings": {
            "a subject": {
                "destination": "acme/my-dog",
                "input": {"input_images": "https://example.com/dogs.zip", "trigger_word": "TOK"},
            }
        },
        "post /replicate/v1/deployments/{owner}/{name}/predictions": {"an input": {"input": prompt}},
    }
