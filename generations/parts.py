"""Makes parts of the core from the settings."""

import asyncio
from dataclasses import dataclass
from functools import partial

from auth import Authenticator
from catalog.families import TrainedModels
from catalog.published import Published
from catalog.tariff import Tariff
from generations.archive import Archive
from generations.budget import Budget
from generations.budgets import Budgets
from generations.following import JoinedItems
from generations.key_budgets import HasKeys, KeyBudgets, SharedKeyBudgets
from generations.learned import Learned
from generations.model_pages import ModelPages
from generations.progress import ProgressOfRows
from generations.published_models import PublishedModels
from generations.recovery import Recovery
from generations.resolver import AllowedModels, Resolver, WordOf
from generations.retention import Retention
from generations.running import RunningWork
from generations.shared_budget import SharedBudget
from generations.text_retention import TextRetention
from generations.training_parts import TrainingKinds
from ledger import Ledger, Queries
from parsing.attachments import Attachments
from parsing.context import ParseContext
from providers import AccountSource
from providers.models import ModelSource
from providers.payers import Payers
from settings import Settings
from webhooks.outbox import Outbox
from webhooks.signing import SigningSecrets


def joined(archive: Archive) -> JoinedItems:
    running = RunningWork()
    progress = ProgressOfRows(archive=archive, running=running)
    return JoinedItems(running=running, progress=progress, archive=archive)


def models(
    settings: Settings, ledger: Ledger, archive: Archive, source: ModelSource
) -> PublishedModels[Published]:
    return PublishedModels(
        ledger=ledger,
        archive=archive,
        source=source,
        compiled=Published.of,
        simulated=settings.REPLICATE_SIMULATE,
    )


@dataclass(frozen=True, slots=True)
class KnownModels:
    """The models and trainers of Replicate, which of them may be run, and how requests name them."""

    models: PublishedModels[Published]
    allowed: AllowedModels
    kinds: TrainingKinds
    resolver: Resolver
    pages: ModelPages


def known_models(
    settings: Settings,
    ledger: Ledger,
    archive: Archive,
    context: ParseContext,
    source: ModelSource,
    authenticator: Authenticator,
    tariff: Tariff,
) -> KnownModels:
    found = models(settings, ledger, archive, source)
    allowed = AllowedModels(settings.MODELS_ALLOWED.split(","), context.registry, authenticator)
    kinds = TrainingKinds.of(settings, ledger, archive, found, allowed, tariff)
    of_names = resolver(settings, context, found, allowed, tariff, kinds.trained.word_of)
    return KnownModels(found, allowed, kinds, of_names, ModelPages(context.registry, source, found, of_names))


def recovery(
    attachments: Attachments, context: ParseContext, queries: Queries, known: KnownModels
) -> Recovery:
    return Recovery(
        attachments=attachments,
        context=context,
        model_of=partial(known.resolver.restored, queries),
        trainer_of=partial(known.kinds.trainers.restored, queries),
    )


def resolver(
    settings: Settings,
    context: ParseContext,
    models: PublishedModels[Published],
    allowed: AllowedModels,
    tariff: Tariff,
    word_of: WordOf,
) -> Resolver:
    registry, lora = context.registry, settings.LORA_MODEL_ID
    return Resolver(
        registry=registry,
        published=models,
        allowed=allowed,
        tariff=tariff,
        lora=lora,
        trained=TrainedModels({*context.trigger_words, *([lora] if lora else [])}),
        word_of=word_of,
        simulated=settings.REPLICATE_SIMULATE,
    )


def payers(
    settings: Settings, ledger: Ledger, provider: AccountSource, authenticator: Authenticator
) -> Payers:
    simulated = settings.REPLICATE_SIMULATE
    return Payers(provider.tokens, ledger, authenticator.keyed_hash, simulated=simulated)


def budgets(settings: Settings, ledger: Ledger, archive: Archive, keys: HasKeys) -> Budgets:
    of_keys = KeyBudgets if ledger.process is None else SharedKeyBudgets
    simulated = settings.REPLICATE_SIMULATE
    return Budgets(
        _budget(settings, ledger, archive),
        of_keys(ledger=ledger, archive=archive, keys=keys, simulated=simulated),
        simulated=simulated,
    )


def _budget(settings: Settings, ledger: Ledger, archive: Archive) -> Budget:
    limit, simulated = settings.BUDGET_USD_PER_DAY, settings.REPLICATE_SIMULATE
    if limit is None or ledger.process is None:
        return Budget(limit, simulated=simulated)
    return SharedBudget(limit, ledger=ledger, archive=archive, process=ledger.process, simulated=simulated)


def learned(settings: Settings, ledger: Ledger, archive: Archive) -> Learned:
    clock = asyncio.get_running_loop().time
    return Learned(ledger=ledger, archive=archive, simulated=settings.REPLICATE_SIMULATE, clock=clock)


def outbox(settings: Settings, ledger: Ledger, archive: Archive, authenticator: Authenticator) -> Outbox:
    return Outbox(
        ledger=ledger,
        message=archive.result,
        secrets=SigningSecrets(authenticator.keyed_hash, settings.webhook_secret),
        loopback=settings.REPLICATE_SIMULATE,
        allowed_hosts=settings.webhook_hosts,
    )


def retentions(
    settings: Settings, ledger: Ledger, archive: Archive, context: ParseContext
) -> tuple[Retention | None, TextRetention]:
    """The parts that delete old work, and old texts."""
    return _retention(settings, ledger, archive), _text_retention(settings, ledger, archive, context)


def _retention(settings: Settings, ledger: Ledger, archive: Archive) -> Retention | None:
    days = settings.LEDGER_KEEP_DAYS
    if days is None:
        return None
    return Retention(
        ledger=ledger,
        archive=archive,
        days=days,
        files_ttl=settings.FILES_TTL,
        weights_ttl=settings.WEIGHTS_TTL,
    )


def _text_retention(
    settings: Settings, ledger: Ledger, archive: Archive, context: ParseContext
) -> TextRetention:
    models = [each.name for each in context.texts.models]
    return TextRetention(ledger=ledger, archive=archive, ttl=settings.TEXTS_TTL, models=models)
