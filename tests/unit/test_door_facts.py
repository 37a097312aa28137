"""What the Replicate door remembers of a call survives the ledger."""

from contract.door_facts import DoorFacts


def test_facts_of_a_call_are_the_same_after_the_ledger():
    facts = DoorFacts(
        "acme/watercolor:" + "ab" * 32,
        {"prompt": "a fox 🦊", "seed": 3, "images": ["data:image/png;base64,AAAA"]},
        webhook="https://a.com/b",
        webhook_events=("start", "completed"),
        deadline=1.5,
        output=[{"$kept": 0}, None],
    )

    assert facts == DoorFacts.from_json(facts.as_json())
    assert DoorFacts("a/b") == DoorFacts.from_json(DoorFacts("a/b").as_json())
