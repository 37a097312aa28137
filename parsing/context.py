"""What parsing depends on."""

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from catalog.model import Model
from catalog.registry import Registry
from catalog.text_values import ACCEPTED
from catalog.trigger_words import TriggerWords
from network.host_rules import NO_HOSTS, HostRules
from parsing.shapes import MAX_TIMEOUT
from safety.rules import Rules


@dataclass(frozen=True, slots=True)
class ParseContext:
    """What parsing depends on: the models, whether webhooks may go to this machine (`loopback`), and to which hosts of
    the operator. A request that was `accepted` before, by an earlier version or under other settings, is not refused by
    newer rules. A `lenient` one is read as Replicate reads inputs: those that the model does not have are passed on,
    a text that is exactly a number or a boolean becomes one where the model takes that, and no defaults are added.
    `resolved` has the other models of the request by the names that it uses, or why a name leads to none. `may_run`
    returns whether the caller may run a model. `timeout` and `start_timeout` are those of requests without their own,
    in seconds. `texts` are the text models, and `others` are the models that have other routes than this request. The
    `rules` are compared with its texts."""

    registry: Registry
    loopback: bool = False
    webhook_hosts: HostRules = NO_HOSTS
    accepted: bool = False
    lenient: bool = False
    timeout: float = MAX_TIMEOUT
    start_timeout: float = 0.0
    resolved: Mapping[str, Model | str] = field(default_factory=dict)

    may_run: Callable[[Model], bool] = lambda model: True

    trigger_words: TriggerWords = field(default_factory=dict)

    texts: Registry = field(default_factory=Registry)

    others: Registry = field(default_factory=Registry)

    rules: Rules | None = None

    def find(self, name: str) -> Model | None:
        """The model of this name, declared or resolved."""
        found = self.resolved.get(name) or self.registry.find(name)
        return found if isinstance(found, Model) else None

    def secrets_in(self, model: Model, given: Iterable[str]) -> Set[str]:
        """Those of these names that hold a secret of the model, or of a declared one that a fallback may lead to."""
        return (self.registry.secrets | model.inputs.secrets) & {*given}

    def refusal(self, name: str) -> str | None:
        """Why this name leads to no model, if that is known: the model has other routes, or the resolver found a
        reason."""
        if (other := self.others.find(name)) is not None:
            return routes_of(other)
        found = self.resolved.get(name)
        return found if isinstance(found, str) else None

    @property
    def validation(self) -> Mapping[str, Any] | None:
        return ACCEPTED if self.accepted else None


def routes_of(model: Model) -> str:
    """The routes of a model, in a sentence about a field that names it where it has none."""
    if model.kind == "text":
        return (
            "is a text model; call it by POST /chat, /structured-output or /cinematic-story-design, several times by "
            "POST /batch and the same path"
        )
    return (
        f"is not a text model; it makes {model.kind or 'output'}s by POST /generate and POST /generate-batch"
    )
