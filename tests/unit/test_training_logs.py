"""The progress and the end of the logs of a training: only its own bar counts, wherever others stand."""

import pytest

from providers.redaction import REDACTED, Redaction
from providers.replicate.training_logs import TAIL, log_tail, progress_of

PREPARED = (
    "Extracted 12 files from zip to input_images\n"
    "Loading pipeline components...: 100%|██████████| 7/7 [00:03<00:00,  2.12it/s]\n"
    "Captioning images:   0%|          | 0/12 [00:00<?, ?it/s]\r"
    "Captioning images: 100%|██████████| 12/12 [00:21<00:00,  1.79s/it]\n"
    "Caching latents to disk: 100%|██████████| 12/12 [00:04<00:00,  2.8it/s]\n"
    "Turning gradient checkpointing on and quantizing base model, GPU has less than 100 GB of memory\n"
)
OWN = "flux_train_replicate:  83%|████████▎ | 2482/3000 [43:27<09:04,  1.05s/it, lr: 4.0e-04 loss: 2.472e-01]"
OTHER = "Generating Images: 100%|██████████| 4/4 [00:20<00:00,  5.1s/it]"


def unlabelled(done: int, total: int) -> str:
    return f" {100 * done // total}%|███▌      | {done}/{total} [10:00<10:00,  1.0s/it]"


@pytest.mark.parametrize(
    ("logs", "sent", "expected"),
    [
        (PREPARED, {}, None),
        (PREPARED, {"steps": 3000}, None),
        ("Captioning images: 100%|██████████| 12/12 [00:20<00:00,  5.1s/it]", {"steps": 12}, None),
        ("Loading pipeline components...: 100%|███| 7/7 [00:01<00:00,  5.1it/s]", {"steps": 7}, None),
        ("Caching latents: 100%|███| 12/12 [00:01<00:00,  5.1it/s]", {"training_steps": 12}, None),
        (PREPARED + OWN, {}, 82.7),
        (PREPARED + OWN + "\n" + OTHER, {}, 82.7),
        (PREPARED + OWN + OTHER, {"steps": 4}, 82.7),
        (OWN.replace("2482", "2481") + "\r" + OWN, {"steps": 3000}, 82.7),
        (OTHER + OWN, {}, 82.7),
        ("\x1b[A" + OWN, {}, 82.7),
        ("Saving flux_train_replicate: 100%|████| 10/10 [00:01<00:00]", {}, None),
        (OWN.replace("flux", "qwen"), {}, 82.7),
        (OWN.replace("flux_train_replicate", "Steps"), {}, 82.7),
        (OWN.replace("flux_train_replicate", "my own run"), {}, None),
        (OWN.replace("flux_train_replicate", "my own run"), {"steps": 3000}, 82.7),
        (PREPARED + unlabelled(250, 1000), {"training_steps": 1000}, 25.0),
        (PREPARED + unlabelled(250, 1000), {"max_train_steps": 1000.0}, 25.0),
        (PREPARED + unlabelled(250, 1000), {"num_train_steps": 1000}, 25.0),
        (PREPARED + unlabelled(250, 1000), {"train_steps": 1000}, 25.0),
        (PREPARED + unlabelled(250, 1000), {"steps": 2000}, None),
        (PREPARED + unlabelled(250, 1000) + "\n" + OTHER, {"steps": 1000}, 25.0),
        (PREPARED + unlabelled(250, 1000), {}, None),
        (PREPARED + "loss is 50% lower, 500/1000 done", {"steps": 1000}, None),
        (unlabelled(2000, 1000), {"steps": 1000}, None),
        ("flux_train_replicate:   0%|          | 0/0 [00:00<?, ?it/s]", {"steps": 0}, None),
        ("flux_train_replicate:   0%|          | 0/1000 [00:00<?, ?it/s]", {"steps": 1000}, 0.0),
        (OWN.replace("2482/3000", "5999/6000"), {}, 99.9),
        (OWN.replace("2482/3000", "6000/6000"), {}, 100.0),
        ("", {}, None),
        (None, {}, None),
        (OWN, None, 82.7),
        (unlabelled(1, 2), {"steps": float("inf"), "training_steps": True}, None),
    ],
)
def test_only_the_bar_of_the_steps_counts(logs, sent, expected):
    assert expected == progress_of(logs, sent)


def test_long_lines_without_a_bar_are_read_in_no_time():
    """Each would take minutes if a part of it were tried from each of its characters."""
    for filler in ("|", "1", "%|", "1%|", "a: ", "[", " "):
        assert progress_of(filler * 500_000, {"steps": 1000}) is None


def test_the_tail_has_the_last_characters_and_counts_all():
    logs = "a" * 5 + "b" * TAIL

    tail = log_tail(logs, Redaction())

    assert ("b" * TAIL, TAIL + 5) == (tail.text, tail.end)


def test_a_tail_has_no_credentials_even_where_it_begins_within_one():
    secret = "hf_a_secret_of_many_letters"
    for before in range(TAIL - 2 * len(secret), TAIL + 5_000):
        if before % 7:
            continue
        logs = "x" * 10_000 + secret + "y" * before
        tail = log_tail(logs, Redaction(secret))
        assert secret[-6:] not in tail.text
    assert f"login {REDACTED} ok" == log_tail(f"login {secret} ok", Redaction(secret)).text


@pytest.mark.parametrize("logs", [None, "", 5, ["a"]])
def test_without_logs_there_is_no_tail(logs):
    assert log_tail(logs, Redaction()) is None
