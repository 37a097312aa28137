"""Wrote `ledger-0.4.0.tar.xz` and the answers beside it. It runs at 0.4.0 only: `python -m tests.data.write_ledger`.

Processes of the service follow one another on one directory, before one simulator; between two of them days pass,
as far as the ledger knows. The last is copied while it works, as a kill would leave it.
"""

import shutil
import sqlite3
import tarfile
import time
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import requests

from harness.service_process import until
from simulator import Options, running
from tests.data.inputs import FAILING, PICTURE, Receiver
from tests.data.processes import ASYNC, DAY, Processes
from tests.data.questions import answered
from tests.support.kept_ledgers import (
    LEDGER,
    SERVER_TOKEN,
    TOKENS,
    headers_of,
    move,
    save_answers,
)


class Writer(Processes):
    """The story of the ledger."""

    def ten_days_ago(self) -> None:
        """Simulated, with files. The next process cannot resume the work that is left: it does not simulate."""
        with self.process(then_pass=2, FILES_TTL=604_800):
            models = self.client.get("/models").json["models"]
            for who in ("admin", "ann", "bob"):
                for model in models:
                    self.make(who, model=model["name"], **model["example"])
            self.many("ann", 100, prompt="A heron", max_concurrent=10)
            self.many("admin", 60, prompt="A paper boat", model="flux-schnell", num_outputs=2)
            self.dry_run()
            hanging = self.make("admin", prompt="[[hang]] of another world", wait=False, what="other world")
            self.make("ann", prompt="[[hang]] of another world", wait=False, what="other world")
            self.batch("ann", {"model_name": "flux-dev", "prompts": ["a", "[[hang]] b"]}, wait=False)
            self.come_to("running", hanging)

    def dry_run(self) -> None:
        body = {"model_name": "qwen-image", "prompts": ["a", "b"], "dry_run": True}
        assert self.client.post("/generate-batch", json=body, headers=headers_of("ann")).json["dry_run"]

    def eight_days_ago(self) -> None:
        """Not simulated: every way to fail. The next process gives up the work that is left."""
        with self.process(then_pass=1, simulate=False, REPLICATE_CONCURRENT_LIMIT=8, FILES_TTL=604_800):
            for who, body in FAILING:
                self.make(who, what="special", **body)
            self.simulator.inject(on="delivery", times=20, status=404)
            self.make("ann", prompt="It cannot be fetched", what="special")
            self.account_trouble()
            self.refusals()
            items = [{"model_name": "flux-dev", "prompt": f"item {each}"} for each in range(20)]
            items[3]["prompt"], items[7]["prompt"] = "[[fail]] item", "[[nsfw]] item"
            items += [{"model_name": "veo-3-fast", "prompt": "A wave", "duration": 4}]
            self.batch("bob", {"requests": items, "max_concurrent": 4, "max_cost_usd": 5.0})
            self.many("bob", 200, prompt="A heath", seed=7)
            names = {"file_names": ["first", "second.png"]}
            self.batch("admin", {"model_name": "flux-dev", "prompts": ["a", "b"], **names})
            self.cancellations()
            self.unfinished_for_the_next()

    def account_trouble(self) -> None:
        for who, token in (("admin", SERVER_TOKEN), ("bob", TOKENS["bob"])):
            for trouble in ({"reject": True}, {"reject": False, "credit": "empty"}):
                self.simulator.account(token, **trouble)
                self.make(who, prompt="Who pays", what="special")
                self.batch(who, {"model_name": "flux-dev", "prompts": ["Who pays", "for all"]})
            self.simulator.account(token, credit="ok")

    def refusals(self) -> None:
        for fault, times in (({"status": 503}, 4), ({"status": 429}, 20), ({"status": 422}, 1)):
            self.simulator.inject(on="create", times=times, headers={"Retry-After": "0"}, **fault)
            self.make("ann", prompt=f"Refused with {fault['status']}", what="special")
        self.simulator.inject(on="create", reset="after")
        self.simulator.inject(on="list", status=500, times=50)
        self.make("ann", prompt="Whether it arrived is not known", what="special")
        self.call_off()

    def call_off(self) -> None:
        requests.delete(f"{self.simulator.url}/simulator/faults", timeout=10)

    def cancellations(self) -> None:
        """Of a running one, of a creation on its way, and of queued ones."""
        running = self.make("ann", prompt="[[hang]] cancelled while it ran", wait=False, what="special")
        self.come_to("running", running)
        self.cancel("ann", running)
        self.simulator.inject(on="create", delay=0.5)
        created = self.make(
            "ann", prompt="[[hang]] cancelled while it was created", wait=False, what="special"
        )
        self.come_to("submitting", created)
        self.cancel("ann", created)
        prompts = ["[[hang]] a", "[[hang]] b", "c"]
        body = {"model_name": "flux-dev", "prompts": prompts, "max_concurrent": 1}
        batch = self.batch("admin", body, wait=False, what="special")
        time.sleep(0.5)
        self.cancel("admin", batch)

    def unfinished_for_the_next(self) -> None:
        """Of users: running, being created, queued; and two of the admin's."""
        running = [
            self.make("ann", prompt=f"[[hang]] left {each}", wait=False, what="given up") for each in range(5)
        ]
        self.come_to("running", *running)
        self.simulator.inject(on="create", hang=60, times=2)
        created = [
            self.make("bob", prompt="[[hang]] left while it was created", wait=False, what="given up")
            for _ in range(2)
        ]
        self.come_to("submitting", *created)
        admins = [self.make("admin", prompt="[[hang]] left", wait=False) for _ in range(1)]
        self.come_to("running", *admins)
        for each in range(2):
            self.make("ann", prompt=f"left in the queue {each}", wait=False, what="given up")
        self.batch(
            "bob", {"model_name": "flux-dev", "prompts": ["left", "left too"]}, wait=False, what="given up"
        )
        lost = [
            self.make("admin", prompt=f"not understood {each}", wait=False, what="special")
            for each in range(2)
        ]
        self.snapshot()
        with closing(sqlite3.connect(self.data / "snapshot.db")) as connection, connection:
            for text, target in zip(
                ('{"model_name"', '{"model_name": "gone", "prompt": "x"}'), lost, strict=True
            ):
                connection.execute("UPDATE generations SET request = ? WHERE id = ?", (text, target))

    def snapshot(self) -> None:
        """The ledger as a kill at this moment would leave it."""
        time.sleep(0.2)
        with (
            closing(sqlite3.connect(self.data / "ledger.db")) as source,
            closing(sqlite3.connect(self.data / "snapshot.db")) as copy,
        ):
            source.backup(copy)
        shutil.copytree(self.data / "uploads", self.data / "snapshot.uploads")

    def killed(self, *, passed: int = 0) -> None:
        """The process was killed: everything that it wrote after the snapshot is lost."""
        for name in ("ledger.db-wal", "ledger.db-shm"):
            (self.data / name).unlink(missing_ok=True)
        (self.data / "snapshot.db").replace(self.data / "ledger.db")
        shutil.rmtree(self.data / "uploads")
        (self.data / "snapshot.uploads").rename(self.data / "uploads")
        if passed:
            move(self.data / "ledger.db", -passed * DAY)

    def seven_days_ago(self) -> None:
        """Gives up the work of callers that did not come back, after the admin cancelled some of it."""
        self.call_off()
        with self.process(simulate=False):
            for number in (0, 5, 7):  # running, being created, queued
                self.cancel("admin", self.described["given up"][number])
        with self.process(then_pass=5, simulate=False, RESUME_TTL=0):
            singles = [each for each in self.described["given up"] if each.startswith("gen_")]
            until(lambda: all(self.state(each) in {"failed", "canceled"} for each in singles))
            time.sleep(0.3)

    def two_days_ago(self) -> None:
        """Simulated: most of the rows, and keys that have expired since."""
        with self.process(then_pass=2):
            for number, who in enumerate(("ann", "bob", "admin")):
                model = ("flux-schnell", "qwen-image", "flux-dev")[number]
                self.many(who, 400, prompt=f"A field of {who}'s", model=model)
            self.many("ann", 200, prompt="[[only=flux-dev]] [[nsfw]] A second field", fallback=True)
            self.many("bob", 40, prompt="A short film", model="veo-3-fast", duration=4)
            body = {"model_name": "flux-dev", "prompt": "kept two days ago"}
            self.keep("bob", "/generate", body, key="simulated-expired", expired=True)

    def today_before(self) -> None:
        """Leaves a user's work, which the next process finds: it waits for its owner from then on."""
        with self.process(simulate=False, REPLICATE_CONCURRENT_LIMIT=6):
            body = {
                "model_name": "flux-dev",
                "prompts": ["done", "[[hang]] waits", "waits too"],
                "max_concurrent": 1,
            }
            batch = self.batch("bob", body, wait=False, what="suspended batch")
            running = self.make("ann", prompt="[[hang]] waits for Ann", wait=False, what="suspended")
            self.come_to("running", running)
            until(
                lambda: self.client.get(f"/batches/{batch}", headers=headers_of("bob")).json["succeeded"] == 1
            )
            self.simulator.inject(on="create", hang=60, token=TOKENS["ann"])
            created = self.make("ann", prompt="[[slow=0]] created unheard", wait=False, what="suspended")
            self.come_to("submitting", created)
            self.upload("ann", model_name="kontext-max", prompt="[[hang]] With a large picture")
            for each in range(4):
                self.make("ann", prompt=f"[[hang]] waits {each}", wait=False, what="suspended")
            self.post(
                "ann",
                "/generate",
                {"model_name": "flux-dev", "prompt": "waits under a key"},
                key="waiting",
                **ASYNC,
            )
            time.sleep(0.5)
            self.snapshot()
        self.killed()

    def today_simulated(self) -> None:
        """Webhooks, since only a simulating service calls this machine."""
        with self.process():
            self.webhooks()
            self.young_keys("simulated")

    def today(self) -> None:
        """Work of every caller in every state, copied while the process works."""
        self.call_off()
        with self.process(simulate=False, REPLICATE_CONCURRENT_LIMIT=12):
            self.young_keys("real")
            self.every_state()
            self.snapshot()
        self.killed()

    def webhooks(self) -> None:
        for who in ("ann", "admin"):
            for path in ("heard", "gone", "later"):
                hook = f"{self.hooks}/{path}"
                self.make(who, prompt=f"told at {path}", webhook=hook, what="webhook")
                self.make(who, prompt=f"[[fail]] told at {path}", webhook=hook, what="webhook")
                self.batch(
                    who, {"model_name": "flux-dev", "prompts": ["a", "b"], "webhook": hook}, what="webhook"
                )
        time.sleep(1)

    def young_keys(self, world: str) -> None:
        for who in ("ann", "bob", "admin"):
            for name, body in {
                "made": {"model_name": "flux-dev", "prompt": "under a key"},
                "failed": {"model_name": "flux-dev", "prompt": "[[nsfw]] under a key"},
                "films": {
                    "model_name": "kling-v2.1-master",
                    "prompt": "A fox",
                    "start_image": PICTURE,
                    "duration": 10,
                },
            }.items():
                self.keep(who, "/generate", body, key=f"{world}-{name}", expired=False)
            batch = {"model_name": "flux-dev", "prompts": ["a", "[[fail]] b"], "max_cost_usd": 1}
            self.keep(who, "/generate-batch", batch, key=f"{world}-batch", expired=False)

    def every_state(self) -> None:
        running = [
            self.make(who, prompt=f"[[hang]] runs for {who}", wait=False, what="running")
            for who in ("admin", "bob")
        ]
        self.come_to("running", *running)
        self.simulator.inject(on="create", hang=60, times=3)
        created = [
            self.make(who, prompt=f"[[slow=0]] on its way for {who}", wait=False, what="submitting")
            for who in ("admin", "bob", "admin")
        ]
        self.come_to("submitting", *created)
        self.later(lambda: self.cancel("admin", created[2]))
        self.note("cancelled", created[2])
        self.simulator.inject(on="cancel", hang=60, times=2)
        cancelled = [
            self.make(who, prompt="[[hang]] cancelled", wait=False, what="cancelled")
            for who in ("admin", "bob")
        ]
        self.come_to("running", *cancelled)
        for who, target in zip(("admin", "bob"), cancelled, strict=True):
            self.later(lambda who=who, target=target: self.cancel(who, target))
        fallback = {"prompt": "[[only=flux-dev]] [[fail]]", "fallback": True}
        self.make("admin", what="special", **fallback)
        in_vain = {"prompt": "[[only=flux-dev,qwen-image]] [[fail]]", "fallback": ["qwen-image"]}
        self.make("admin", what="special", **in_vain)
        body = {"model_name": "flux-dev", "prompts": ["done", "[[hang]] runs", "queued"], "max_concurrent": 1}
        for who in ("admin", "bob"):
            self.first_of_batch_done(self.batch(who, {**body, "max_cost_usd": 2.5}, wait=False))
        self.simulator.inject(on="create", status=422, times=1)
        self.make("admin", prompt="[[hang]] with its second model", fallback=True, wait=False, what="running")
        time.sleep(0.3)
        for each in range(3):
            self.make("admin", prompt=f"[[hang]] fills {each}", wait=False, what="running")
        time.sleep(0.5)
        for who in ("admin", "bob"):
            self.make(who, prompt="[[slow=0]] queued", wait=False, what="queued")
            self.make(
                who,
                prompt="[[slow=0]] queued",
                fallback=True,
                placeholder=True,
                file_name="later",
                wait=False,
                what="queued",
            )
        self.upload("admin", model_name="kontext-max", prompt="[[slow=0]] With a large picture")
        self.post(
            "admin",
            "/generate",
            {"model_name": "flux-dev", "prompt": "[[slow=0]] under a key"},
            key="queued",
            **ASYNC,
        )
        time.sleep(0.5)


def main() -> None:
    receiver = Receiver()
    options = Options(prediction_seconds=0.02, creations_per_minute=60_000, others_per_minute=60_000, seed=1)
    with TemporaryDirectory() as directory, running(options) as simulator:
        writer = Writer(Path(directory) / "data", simulator, receiver)
        writer.ten_days_ago()
        writer.eight_days_ago()
        writer.killed(passed=1)
        writer.seven_days_ago()
        writer.two_days_ago()
        writer.today_simulated()
        writer.today_before()
        writer.today()
        receiver.server.shutdown()
        written_at = int(time.time())
        with tarfile.open(LEDGER, "w:xz", preset=9) as packed:
            for name in ("ledger.db", "uploads"):
                packed.add(writer.data / name, name)
    write_answers(written_at, writer)


def write_answers(written_at: int, writer: Writer) -> None:
    save_answers(answered(written_at, writer.described, writer.keys))


if __name__ == "__main__":
    main()
