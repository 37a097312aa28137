"""The state of a simulator: accounts, predictions, trainings, uploads, webhooks, faults and counts.

It belongs to one event loop and is used only there, so it needs no lock.
"""

import asyncio
import math
import random
from dataclasses import replace

from simulator import directives, outputs, representations, trainers, webhooks
from simulator.accounts import Accounts
from simulator.counts import Counters
from simulator.directives import Plan
from simulator.faults import Faults
from simulator.gemini.service import Gemini
from simulator.options import Options
from simulator.predictions import Creation, Prediction, timestamp
from simulator.registry import Registry
from simulator.stores import Store
from simulator.trainings import Training, TrainingCreation
from simulator.uploads import Uploads
from simulator.windows import Clock


class SimulatorState:
    """The state of one simulator."""

    def __init__(self, options: Options, *, clock: Clock) -> None:
        self.options = options
        self.clock = clock
        self.chance = random.Random(options.seed)  # noqa: S311 - durations, not secrets
        self.counters = Counters()
        self.accounts = Accounts(options)
        self.models = Registry(options)
        self.faults = Faults()
        self.uploads = Uploads(clock)
        self.webhooks = webhooks.Webhooks(retry_seconds=options.webhook_retry_seconds, counters=self.counters)
        self.predictions = Store(
            Prediction,
            keep=options.keep,
            clock=clock,
            tally=self.counters.predictions,
            on_event=self._publish,
            skew=options.clock_skew,
        )
        self.trainings = Store(
            Training,
            keep=options.keep,
            clock=clock,
            tally=self.counters.trainings,
            on_event=self._publish_training,
            skew=options.clock_skew,
        )
        self.gemini = Gemini(options.gemini, clock=clock, seed=options.seed)
        self._stalled_until = -math.inf

    def stall(self, seconds: float) -> None:
        """Accept requests but serve them only after `seconds`, even if their callers have disconnected by then.

        Raises:
            ValueError: If `seconds` is not a number from 0 to 3600.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= 3600:
            raise ValueError(f"seconds must be between 0 and 3600, got {seconds}")
        self._stalled_until = max(self._stalled_until, asyncio.get_running_loop().time() + seconds)

    async def wait_for_stall_end(self) -> None:
        """Wait for the end of the current stall, if there is one."""
        clock = asyncio.get_running_loop().time
        while (left := self._stalled_until - clock()) > 0:  # noqa: ASYNC110 - another call may prolong it
            await asyncio.sleep(left)

    def reset(self) -> None:
        """Return to the state of the start. A current stall goes on to its end."""
        self.webhooks.cancel_all()
        self.predictions.close()
        self.trainings.close()
        self.uploads.clear()
        self.faults.clear()
        self.models.reset()
        self.accounts = Accounts(self.options)
        self.counters.reset()
        self.gemini.reset()
        self.chance.seed(self.options.seed)

    async def close(self) -> None:
        """Cancel all timers and webhooks."""
        self.predictions.close()
        self.trainings.close()
        await self.webhooks.close()

    def create(self, creation: Creation) -> Prediction:
        """Create a prediction: plan it and start it."""
        plan = self._plan(creation)
        seed = creation.input.get("seed")
        seed = seed if isinstance(seed, int) else self.chance.randrange(2**31)
        return self.predictions.create(creation, plan, seed=seed)

    def train(self, creation: TrainingCreation) -> Training:
        """Create a training: plan it and start it."""
        archive = creation.archive
        images = self.uploads.images(archive[1], token=creation.token) if archive else None
        if images is not None:
            creation = replace(creation, images=images)
        plan = self._plan_training(creation)
        return self.trainings.create(creation, plan, seed=self.chance.randrange(2**31))

    async def travel(self) -> None:
        """The time that a message is under way: the network delay, and the rest of a stall."""
        delay = self.network_delay()
        if delay:
            await asyncio.sleep(delay)
        await self.wait_for_stall_end()

    def network_delay(self) -> float:
        """The seconds of network delay for the next message."""
        return self._draw(self.options.answer_delay)

    def list_lag(self) -> float:
        """The seconds by which the next list is behind."""
        return self._draw(self.options.list_lag)

    def _draw(self, bounds: tuple[float, float]) -> float:
        least, most = bounds
        return self.chance.uniform(least, most) if most else 0.0

    def _plan(self, creation: Creation) -> Plan:
        text, model = outputs.said(creation.schema, creation.input), creation.model
        found = directives.parse(text, model=model.name)
        account = self.accounts.get(creation.token)
        interrupted = "transient" in found and account.prompts.is_first(text)
        plan = directives.plan(found, usual=self._duration(creation), interrupted=interrupted)
        return self._booted(creation, plan)

    def _plan_training(self, creation: TrainingCreation) -> Plan:
        schema, inputs = creation.schema, creation.input
        text = f"{outputs.said(schema, inputs)} {creation.destination}"
        found = directives.parse(text, model=creation.model.name)
        account = self.accounts.get(creation.token)
        interrupted = "transient" in found and account.prompts.is_first(creation.destination)
        plan = self._booted(
            creation,
            directives.plan_training(found, usual=self._training_duration(creation), interrupted=interrupted),
        )
        error = trainers.lacks_images(schema, inputs, images=creation.images)
        if error is None or plan.error is not None or math.isinf(plan.boot):
            return plan
        return replace(plan, total=plan.boot, final_status="failed", error=error, outputs="none")

    def _booted(self, creation: Creation, plan: Plan) -> Plan:
        """The plan with the boot of the version, and with the failure for lack of an input."""
        now = asyncio.get_running_loop().time()
        boot = self.models.boot(creation.model, creation.version, creation.deployment, now=now)
        if boot:
            plan = replace(plan, boot=plan.boot + boot, total=plan.total + boot)
        error = self.uploads.failed_download(creation)
        if error is None or math.isinf(plan.boot):  # a prediction that never starts downloads nothing
            return plan
        return replace(plan, total=plan.boot, final_status="failed", error=error, outputs="none")

    def _duration(self, creation: Creation) -> float:
        usual = self.options.prediction_seconds
        return self._varied(creation.model.facts.seconds if usual is None else usual)

    def _training_duration(self, creation: TrainingCreation) -> float:
        usual = self.options.training_seconds
        return self._varied(creation.model.facts.trainer.seconds if usual is None else usual)

    def _varied(self, usual: float) -> float:
        jitter = self.options.jitter
        return usual * self.chance.uniform(1 - jitter, 1 + jitter)

    def _publish(self, prediction: Prediction, event: str) -> None:
        made = prediction.creation
        if made.webhook and event in made.webhook_events:
            self.webhooks.send(made.webhook, made.token, representations.prediction(prediction))

    def _publish_training(self, training: Training, event: str) -> None:
        made = training.creation
        if event == "completed" and training.status == "succeeded" and training.output is not None:
            self._add_version(training)
        if made.webhook and event in made.webhook_events:
            self.webhooks.send(made.webhook, made.token, representations.training(training))

    def _add_version(self, training: Training) -> None:
        """Add the version that a training made to its destination."""
        made = training.creation
        version = trainers.new_version(
            training.id, made.model, made.release, created_at=timestamp(self.trainings.now())
        )
        self.models.add_version(made.destination, version, trainers.facts())
