"""docs/events.md has every warning and error event of the code, with its level, and no other."""

import ast
import re
from collections import defaultdict

import pytest

from tests.unit.test_layout import ROOT, SERVICE, offenders

LEVELS = {"warning": "warning", "error": "error", "exception": "error", "critical": "error"}
OTHERS = {
    "warn",
    "fatal",
    "log",
    "msg",
    "bind",
    "new",
    "awarning",
    "aerror",
    "aexception",
    "acritical",
    "alog",
}
"""Ways to log that the code does not use, since no reader of it would see the level or the name."""

ROW = re.compile(r"\| `(\w+)` \| ([a-z, ]+) \| (.+) \| (.+) \|")


def is_logger(node):
    """A module's logger, or one made in place."""
    text = ast.unparse(node)
    return text in {"log", "_log"} or text.startswith("structlog.get_logger(") or is_of_the_server(node)


def is_of_the_server(node):
    """gunicorn's logger, whose lines have words and no fields."""
    return ast.unparse(node).endswith(".log")


def logged(tree):
    """The event and the level of each call of a logger. Fails for a call whose event or level cannot be read."""
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or node.attr not in LEVELS.keys() | OTHERS:
            continue
        if not is_logger(node.value):
            continue
        assert node.attr not in OTHERS, f"line {node.lineno}: name the level"
        if node.attr in LEVELS and is_of_the_server(node.value):
            raise AssertionError(f"line {node.lineno}: log an event instead of a sentence")
        if node.attr in LEVELS:
            assert id(node) in calls, f"line {node.lineno}: call the method where it is named"
            event = calls[id(node)].args[0]
            assert isinstance(event, ast.Constant), f"line {node.lineno}: name the event"
            yield event.value, LEVELS[node.attr]


def in_the_code():
    events = defaultdict(set)
    for path in SERVICE:
        for event, level in logged(ast.parse(path.read_text())):
            events[event].add(level)
    return events


def in_the_table():
    lines = (ROOT / "docs" / "events.md").read_text().splitlines()
    rows = [ROW.fullmatch(line) for line in lines if line.startswith("| `")]
    assert all(rows), "each row has four cells"
    return [(row[1], set(row[2].split(", "))) for row in rows if row]


def test_the_table_has_every_warning_and_error_and_no_other():
    assert in_the_code() == dict(in_the_table())


def test_an_event_has_one_row_and_rows_are_in_order():
    names = [name for name, _ in in_the_table()]

    assert sorted(set(names)) == names


def test_a_module_logs_by_a_logger_that_the_table_is_compared_with():
    def other_loggers(path):
        text = path.read_text()
        if "get_logger" not in text and "getLogger" not in text:
            return set()
        tree = ast.parse(text)
        made = {
            ast.unparse(node.targets[0])
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and "get_logger" in ast.unparse(node.value)
        }
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        return (made - {"log", "_log"}) | (calls & {"logging.getLogger"})

    assert {} == offenders(SERVICE, other_loggers)


@pytest.mark.parametrize(
    "text",
    [
        "tell = log.warning",
        'log.warning(f"a_{b}")',
        'log.log(30, "a")',
        "log.error(event)",
        'log.bind(a=1).error("a")',
        'self.log.error("It failed.")',
    ],
)
def test_a_call_that_cannot_be_compared_is_noticed(text):
    with pytest.raises(AssertionError):
        list(logged(ast.parse(text)))


def test_calls_are_read_wherever_they_are():
    text = """
def run():
    try:
        log.warning("one", reason=1)
    except Exception:
        structlog.get_logger("x").exception("two")
    else:
        log.info("none")
"""
    assert [("one", "warning"), ("two", "error")] == list(logged(ast.parse(text)))
