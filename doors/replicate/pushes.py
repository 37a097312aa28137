"""The bodies of webhooks of this door."""

from contract.ids import is_training_id
from doors.replicate import predictions, trainings
from doors.replicate.states import Body
from ledger.records import GenerationRecord


def pushed(record: GenerationRecord, address: str) -> Body:
    """A prediction or a training as the body of a webhook."""
    if is_training_id(record.id):
        return trainings.training(record, address)
    return predictions.pushed(record, address)
