"""The models of the service, in the shape of `REPLICATE_MODELS`."""

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from replicate_concurrent import ApiError, Client

from replicate_batch_process.connection import options

_TYPES = {"boolean": "bool", "integer": "int", "number": "float", "string": "str"}


class ModelTable(MutableMapping[str, dict[str, Any]]):
    """The declared models of the service, read at the first use, and entries that the program adds."""

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, Any]] | None = None
        self._others: dict[str, dict[str, Any]] = {}

    def load(self, token: str | None = None) -> dict[str, dict[str, Any]]:
        """The entries. `token` is for a service of this machine, which may have to be started for the first look."""
        if self._entries is None:
            with Client(**options(token)) as client:
                models = [each for each in client.models() if not each.raw.get("usd_per_million_tokens")]
                self._entries = {model.name: entry_of(model.raw) for model in models}
        return self._entries

    def find(self, name: str, token: str | None = None) -> dict[str, Any]:
        """The entry of a model, also of one that the service does not declare.

        Raises ValueError with the names of the declared ones if the service cannot run it.
        """
        found = self.load(token).get(name) or self._others.get(name)
        if found is None:
            try:
                with Client(**options(token)) as client:
                    found = self._others[name] = entry_of(client.model(name).raw)
            except ApiError as error:
                if error.status not in {400, 404}:
                    raise
                raise ValueError(self._unsupported(name)) from error
        return found

    def _unsupported(self, name: str) -> str:
        names = "\n".join(f"  - {each}" for each in self)
        return (
            f"Model '{name}' is not supported.\n\nSupported models:\n{names}\n\n"
            "Please use one of the supported models listed above."
        )

    def __getitem__(self, name: str) -> dict[str, Any]:
        return self.load()[name]

    def __setitem__(self, name: str, entry: dict[str, Any]) -> None:
        self.load()[name] = entry

    def __delitem__(self, name: str) -> None:
        del self.load()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.load())

    def __len__(self) -> int:
        return len(self.load())


class Models:
    """What calls with one token need to know of the models in a table. All raise as `ModelTable.find`."""

    def __init__(self, table: ModelTable, token: str | None = None) -> None:
        self._table = table
        self._token = token

    def full_name(self, name: str) -> str:
        return str(self._find(name).get("name", name))

    def kind(self, name: str) -> str:
        """`image`, `video`, `audio` and so on."""
        return str(self._find(name).get("model_type", "image"))

    def params(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        """The `supported_params` of a model."""
        params: Mapping[str, Mapping[str, Any]] = self._find(name).get("supported_params", {})
        return params

    def image_parameter(self, name: str) -> str | None:
        """The parameter of a model for its reference image."""
        parameter: str | None = self._find(name).get("image_parameter")
        return parameter

    def known_params(self) -> set[str]:
        """The parameters of all declared models."""
        return {each for name in self._table for each in self.params(name)}

    def is_file(self, name: str, parameter: str) -> bool:
        """Whether a parameter takes files: the model's own, or one of that name that another model has."""
        own = self.params(name)
        takers = [own] if parameter in own else map(self.params, self._table)
        return any(params.get(parameter, {}).get("type") == "file" for params in takers)

    def _find(self, name: str) -> dict[str, Any]:
        return self._table.find(name, self._token)


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
