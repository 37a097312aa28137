"""Removes the texts of calls to text models from the ledger. Their facts stay: states, tokens, costs, metadata."""

import json
from dataclasses import dataclass, replace
from typing import Any, Final

from contract.tasks import GONE, TRUNCATED
from ledger.records import Failure, GenerationRecord


@dataclass(frozen=True, slots=True)
class BlankTexts:
    """Remove the texts of these generations, which have ended. With `of_attempts`, those of their attempts instead."""

    work_ids: tuple[str, ...]
    of_attempts: bool = False


_ERROR: Final = """
    error_detail = CASE WHEN error_problems IS NULL THEN error_detail ELSE '' END, error_problems = NULL
"""
"""The problems of an error quote the schema or the answer."""

_GENERATIONS: Final = f"""
    UPDATE generations SET prompt = '', request = NULL, outputs = '[]', text = NULL,
        warnings = CASE WHEN warnings LIKE ? THEN ? ELSE ? END, {_ERROR}
    WHERE id IN (work_ids) AND ended_at IS NOT NULL
"""  # noqa: S608 - of constants only

_ATTEMPTS: Final = f"UPDATE attempts SET {_ERROR} WHERE generation_id IN (work_ids) AND NOT open"  # noqa: S608

_WORK_IDS: Final = {
    False: "SELECT value FROM json_each(?)",
    True: "SELECT json_array_elements_text(?::json)",
}
"""The ids in a parameter that is JSON, in SQLite and in PostgreSQL."""


def blanking(claim: BlankTexts, *, is_shared: bool) -> tuple[str, tuple[Any, ...]]:
    """The statement that removes these texts, with its parameters."""
    ids = json.dumps(claim.work_ids)
    if claim.of_attempts:
        return _ATTEMPTS.replace("work_ids", _WORK_IDS[is_shared]), (ids,)
    warnings = f"%{TRUNCATED}%", json.dumps([TRUNCATED, GONE]), json.dumps([GONE])
    return _GENERATIONS.replace("work_ids", _WORK_IDS[is_shared]), (*warnings, ids)


def blanked(record: GenerationRecord, claim: BlankTexts) -> GenerationRecord:
    """The record without these texts."""
    if claim.of_attempts:
        attempts = tuple(replace(each, error=_without_problems(each.error)) for each in record.attempts)
        return replace(record, attempts=attempts)
    return replace(
        record,
        prompt="",
        request=None,
        outputs=(),
        text=None,
        warnings=(TRUNCATED, GONE) if TRUNCATED in record.warnings else (GONE,),
        error=_without_problems(record.error),
    )


def _without_problems(error: Failure | None) -> Failure | None:
    if error is None or error.problems is None:
        return error
    return replace(error, detail="", problems=None)
