"""The models of the service, in the shape of `REPLICATE_MODELS`."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

from replicate_concurrent import ApiError, Client

from replicate_batch_process.connection import options

_TYPES = {"boolean": "bool", "integer": "int", "number": "float", "string": "str"}


class ModelTable(MutableMapping[str, dict[str, Any]]):
    """The declared models of the service, read at the first use, and entries that the program adds.

    `find` looks up models that the service does not declare. Only the first look takes a request.
    """

    def __init__(self, connect: Callable[[], Client] = lambda: Client(**options())) -> None:
        self._connect = connect
        self._entries: dict[str, dict[str, Any]] | None = None

    def find(self, name: str) -> dict[str, Any]:
        """The entry of a model that the service can run. Raises ValueError with the names of the declared ones."""
        if name not in self.entries:
            try:
                with self._connect() as client:
                    self.entries[name] = entry_of(client.model(name).raw)
            except ApiError as error:
                if error.status not in {400, 404}:
                    raise
                raise ValueError(self._unsupported(name)) from error
        return self.entries[name]

    def is_file(self, model_name: str, parameter: str) -> bool:
        """Whether a parameter takes files: the model's own, or one of that name that another model has."""
        own = self.find(model_name)["supported_params"]
        takers = [own] if parameter in own else self.parameters()
        return any(params.get(parameter, {}).get("type") == "file" for params in takers)

    def parameters(self) -> list[Mapping[str, Any]]:
        """The `supported_params` of each model."""
        return [entry["supported_params"] for entry in self.values()]

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        if self._entries is None:
            with self._connect() as client:
                self._entries = {model.name: entry_of(model.raw) for model in client.models()}
        return self._entries

    def _unsupported(self, name: str) -> str:
        names = "\n".join(f"  - {each}" for each in self)
        return (
            f"Model '{name}' is not supported.\n\nSupported models:\n{names}\n\n"
            "Please use one of the supported models listed above."
        )

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.entries[name]

    def __setitem__(self, name: str, entry: dict[str, Any]) -> None:
        self.entries[name] = entry

    def __delitem__(self, name: str) -> None:
        del self.entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def entry_of(model: Mapping[str, Any]) -> dict[str, Any]:
    """The entry of a model of `GET /models`."""
    properties = {
        name: _plain(schema)
        for name, schema in model["input_schema"].get("properties", {}).items()
        if name != "prompt"
    }
    params = {name: _parameter(schema) for name, schema in properties.items()}
    references = model.get("references") or {}
    return {
        "name": model["name"],
        "model_type": model["kind"],
        "price": (model.get("price") or {}).get("usd"),
        "url": f"https://replicate.com/{model['name']}",
        "description": model.get("description", ""),
        "reference_image": bool(references),
        "reference_audio": any("audio" in name for name, each in params.items() if each["type"] == "file"),
        "image_parameter": references.get("parameter"),
        "supported_params": params,
    }


def _plain(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema without the alternative null, and with the default beside it."""
    alternatives = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    return {**schema, **alternatives[0]} if len(alternatives) == 1 else schema


def _parameter(schema: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"type": _type_of(schema), "default": schema.get("default")}
    if "enum" in schema:
        found["options"] = list(schema["enum"])
    if "minimum" in schema and "maximum" in schema:
        found["range"] = [schema["minimum"], schema["maximum"]]
    if "description" in schema:
        found["description"] = schema["description"]
    return found


def _type_of(schema: Mapping[str, Any]) -> str:
    if "uri" in {schema.get("format"), schema.get("items", {}).get("format")}:
        return "file"
    is_choice = "enum" in schema and schema.get("type", "string") == "string"
    return "select" if is_choice else _TYPES.get(schema.get("type", ""), "any")
