"""No message gives advice that nobody has followed: each one is in a case of advice, in a test named here, or excused.

A message is a text in a ``raise`` or a warning, or a text that such a message is put together from. It gives advice if
a clause of it begins with a verb that tells the reader to act. ``advice.txt`` has a line for each one that no
case of advice covers: the file, words of the message, and ``file::test`` that follows it or a reason why none does.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import test_advice
import test_advice_attacks
import test_advice_data
import test_advice_own
import test_advice_words
from advice import Case

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("fedpriv", "strategies", "clients", "scenarios")
LIST = Path(__file__).with_name("advice.txt")

_VERBS = (
    "add|ask|attack|bring|build|call|change|check|choose|claim|clone|commit|compute|count|declare|delete|draw|drop|export|fetch|"
    "finish|fix|freeze|give|go|initialise|install|keep|leave|let|load|lower|make|mend|move|name|pass|play|point|publish|put|raise|"
    "register|release|remove|rename|replace|repeat|report|restore|resume|return|run|say|scale|see|send|set|show|start|"
    "take|train|try|unfreeze|upgrade|use|wait|write"
)
_CLAUSE = re.compile(
    rf"(?:^|[;:.] |\. )(?:in Python |there, |here |for example )?(?:{_VERBS}|for example) [^ ]", re.IGNORECASE
)
# Outside of a raise only what reads like the end of a message: many texts begin with one of these words.
_ENDING = re.compile(rf"[;:] (?:{_VERBS}) [^ ]|^(?:{_VERBS}) \S+ \S+ \S+|^give \S")
_REASONS = ("environment: ", "contract: ", "no advice: ")


@functools.cache
def texts() -> dict[tuple[str, str], tuple[int, bool]]:
    """Return all texts, as (file, text with {} for what is put in), with their lines and whether they give advice."""
    found: dict[tuple[str, str], tuple[int, bool]] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            documentation = {
                id(node.value)
                for node in ast.walk(tree)
                if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Yield)  # a sentence that refuses
            }
            file = path.relative_to(ROOT).as_posix()
            for line, text, raised in _texts(tree, documentation, raised=False):
                tells = bool((_CLAUSE if raised else _ENDING).search(text))
                found[file, text] = (line, tells or found.get((file, text), (0, False))[1])
    return found


def advice() -> dict[tuple[str, str], int]:
    """Return the messages with advice, and the line where each begins."""
    return {key: line for key, (line, tells) in texts().items() if tells}


def _texts(node: ast.AST, skipped: set[int], *, raised: bool) -> Iterator[tuple[int, str, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = raised or isinstance(child, ast.Raise) or _warns(child)
        if id(child) in skipped:
            continue
        if isinstance(child, ast.JoinedStr):
            pieces = [part.value if isinstance(part, ast.Constant) else "{}" for part in child.values]
            yield child.lineno, "".join(map(str, pieces)), inside
        elif isinstance(child, ast.Constant) and isinstance(child.value, str):
            yield child.lineno, child.value, inside
        elif not (isinstance(child, ast.keyword) and child.arg in ("help", "description", "epilog")):
            yield from _texts(child, skipped, raised=inside)


def _warns(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("warn", "warning")


def followed() -> list[str]:
    """Return the words of all cases of advice."""
    tables = [
        value
        for module in (test_advice, test_advice_attacks, test_advice_data, test_advice_own, test_advice_words)
        for value in vars(module).values()
        if isinstance(value, list)
    ]
    tables.append(test_advice_words.files(Path("nowhere")))
    return [
        one.values[0].said
        for table in tables
        for one in table
        if hasattr(one, "values") and isinstance(one.values[0], Case)
    ]


def listed() -> list[tuple[str, str, str]]:
    """Return the lines of the list."""
    lines = [line for line in LIST.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    return [tuple(part.strip() for part in line.split(" | ")) for line in lines]  # type: ignore[misc]


def test_each_advice_is_followed_by_a_test_or_excused() -> None:
    words, lines = followed(), listed()
    missing = [
        f"{file}:{line}: {text}"
        for (file, text), line in advice().items()
        if not any(one in text for one in words)
        and not any(file == where and fragment in text for where, fragment, _ in lines)
    ]
    assert not missing, "\n".join(["messages whose advice no test follows:", *missing])


def test_the_words_of_a_case_are_those_of_one_message() -> None:
    told, known = {text for _, text in advice()}, {text for _, text in texts()}
    several = [words for words in followed() if sum(words in text for text in told) > 1]
    gone = [words for words in followed() if not any(words in text for text in known)]
    assert (several, gone) == ([], [])


def test_no_line_of_the_list_is_stale() -> None:
    found = advice()
    stale = [line for line in listed() if not any(line[0] == file and line[1] in text for file, text in found)]
    assert not stale


@pytest.mark.parametrize("how", sorted({line[2] for line in listed()}))
def test_what_the_list_names_is_there(how: str) -> None:
    if how.startswith(_REASONS):
        return
    file, _, name = how.partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
