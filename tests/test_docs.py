"""The documents match the code: files, modules, arrows between packages, public names, examples."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import pytest
from mutate import copy_to

ROOT = Path(__file__).parent.parent
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/architecture.md", "docs/flower-accountant.md")
FOLDERS = ("fedpriv", "strategies", "clients", "scenarios")
NO_ALL = {
    "fedpriv.__main__", "fedpriv.cohort.fast", "fedpriv.deploy", "fedpriv.exposure", "fedpriv.lrs", "fedpriv.runtime",
    "fedpriv.scenarios.lrs_net", "fedpriv.scenarios.lrs_ratings", "fedpriv.scenarios.lrs_synthetic",
    "fedpriv.scenarios.maml", "fedpriv.scenarios.maml_attack", "fedpriv.scenarios.pmtl",
}  # fmt: skip
"""Modules that export nothing, or (scenarios) what their own docstring says."""

SCRIPT = """\
from fedpriv import Experiment, Target, free_folder, load
from fedpriv.clients import MeanRegularized
from fedpriv.strategies import Billboard

tasks = load("digits").partition("dirichlet", tasks=200, alpha=0.3, seed=0)
run = Experiment(
    tasks=tasks,
    model="linear",
    client=MeanRegularized(strength=1.0, learning_rate=0.5, epochs=5, batch_size=10, final_epochs=20),
    strategy=Billboard(
        clipping_norm=0.5, sampling_rate=0.5, rounds=40, server_learning_rate=1.5,
        target=Target(epsilon=2.0, delta=1e-5),
    ),
).run(out=free_folder("runs", "first"))    # runs/first; the next time runs/first-2
print(run.guarantee)          # a sentence: notion, unit, relation, observer, epsilon, delta, accountant
accuracy = run.diagnostics.accuracy        # means over tasks; diagnostics, not released
print(f"personal {accuracy.personal:.2f}, local only {accuracy.local_only:.2f}, billboard {accuracy.billboard:.2f}")
"""

BASE = {"errors", "files", "machine", "names", "settings"}
"""What everybody may import, and what imports nobody."""
ENTRIES = {"__main__", "exposure"}
"""What nobody imports."""
PUBLIC_FLOWER = {"flwr.app", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.clientapp"}
PRIVATE_FLOWER = {
    *("fedpriv.runtime.flower_private", "fedpriv.runtime.flower_tasks"),
    *("fedpriv.runtime.grid", "fedpriv.strategies.base"),
}
"""Modules that may name what is not Flower's public interface, with the reasons in docs/architecture.md."""


def read(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


@lru_cache
def modules() -> dict[str, Path]:
    """Dotted name, as it is imported, to file."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if folder == "fedpriv" else ("fedpriv", *parts)
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


@lru_cache
def parsed(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


def package(module: str) -> str:
    return [*module.split("."), ""][1] or "fedpriv"


def imports(name: str) -> Iterator[tuple[str, str | None]]:
    """Yield (module, imported name or None) for every import, wherever it stands."""
    for node in ast.walk(parsed(name)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: relative imports hide the arrows"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield (inner, None) if inner in modules() else (str(node.module), alias.name)


def exported(name: str) -> list[str] | None:
    """Return ``__all__`` as written, or None."""
    for node in parsed(name).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if [ast.unparse(target) for target in targets] == ["__all__"]:
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    return None


# --- files that the pages name ---------------------------------------------------------------------------------------


def anchors(page: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", read(page), flags=re.DOTALL | re.MULTILINE), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if re.match(r"[a-z]+://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), f"{page}: no heading for {target}"


EXAMPLES = {
    "clients/interpolated.py", "strategies/server_updates/nesterov.py", "fedpriv/privacy/votes.py",
    "strategies/wards.py",
    "scenarios/hello/__init__.py", "scenarios/hello/tiny.toml",
}  # fmt: skip
"""Files that CONTRIBUTING.md tells the reader to make."""


@pytest.mark.parametrize("page", PAGES)
def test_files_named_in_code_type_exist(page: str) -> None:
    pattern = r"`((?:fedpriv|strategies|clients|scenarios|tests|docs)/[\w./]*)`"
    for name in set(re.findall(pattern, read(page))):
        if page == "CONTRIBUTING.md" and name in EXAMPLES:
            assert not (ROOT / name).exists(), f"{name} is an example of {page} and must not be left in the project"
        else:
            assert (ROOT / name).exists(), f"{page} names {name}, which is not there"


def test_every_folder_is_named_and_every_module_says_what_it_holds() -> None:
    folders = {str(path.relative_to(ROOT).parent) for path in modules().values()}
    unnamed = {folder for folder in folders if f"`{folder}/`" not in read("docs/architecture.md")}
    assert unnamed == set(), "packages that docs/architecture.md does not name"
    silent = [name for name in modules() if not ast.get_docstring(parsed(name))]
    assert silent == [], "modules without a docstring"


def test_invariants_name_tests_that_exist() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", read("CONTRIBUTING.md"))
    assert len(named) >= 10
    for file, function in named:
        assert f"def {function}(" in read(f"tests/{file}"), f"CONTRIBUTING.md names {file}::{function}"
    rows = re.findall(r"^\| (\d+)\. ", read("CONTRIBUTING.md"), re.MULTILINE)
    assert rows == [str(number) for number in range(1, 12)]
    assert rows == re.findall(r"^\| (\d+)\. ", read("docs/architecture.md"), re.MULTILINE)


# --- arrows ----------------------------------------------------------------------------------------------------------


def lint(tree: Path) -> tuple[int, str]:
    """Lint a copy of the code; an import that is not in its contract is an error, wherever it stands."""
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_every_import_follows_an_arrow(tmp_path: Path) -> None:
    copy_to(tmp_path)
    assert lint(tmp_path)[0] == 0, lint(tmp_path)[1]
    for file, line in {
        "privacy/plan.py": "def late() -> None:\n    import torch\n    from fedpriv.runtime import grid\n",
        "names.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from fedpriv.cohort import Tasks\n",
        "strategies/silent.py": "def late() -> None:\n    from fedpriv.strategies.billboard import Billboard\n",
        "strategies/billboard.py": "def late() -> None:\n    from fedpriv.strategies.silent import Silent\n",
    }.items():
        place = tmp_path / "fedpriv" / file
        place.write_text(f"{place.read_text()}\n\n{line}")
    code, said = lint(tmp_path)
    assert code == 1
    broken = set(re.findall(r"^(.*) BROKEN", said, re.MULTILINE))
    assert broken == {"no circles", "importers of runtime", "importers of torch", "importers of cohort"}, said


def test_every_package_has_a_contract_and_stands_above_what_it_imports() -> None:
    """The page draws packages in layers, each above all that it may import but for what closes a circle."""
    circles, *contracts = tomllib.loads(read("pyproject.toml"))["tool"]["importlinter"]["contracts"]
    upwards = {tuple(package(name) for name in arrow.split(" -> ")) for arrow in circles["ignore_imports"]}
    importers = {
        one["protected_modules"][0].removeprefix("fedpriv."): {package(name) for name in one["allowed_importers"]}
        for one in contracts
    }
    packages = {package(name) for name in modules()} - BASE - ENTRIES - {"fedpriv"}
    assert set(importers) == packages | {"ray", "flwr", "torch"}
    (drawn,) = re.findall(r"```\n(__main__.*?)```", read("docs/architecture.md"), re.DOTALL)
    height = {name: -number for number, line in enumerate(drawn.splitlines()) for name in line.split()}
    assert set(height) == packages | ENTRIES | BASE | {"fedpriv"}
    for name in packages:
        for one in importers[name]:
            assert (one, name) in upwards or height[one] > height[name], f"{one} must stand above {name}"


def test_what_flower_does_not_publish_is_imported_where_the_page_says() -> None:
    private = {
        name
        for name in modules()
        for target, _ in imports(name)
        if target.split(".")[0] == "flwr" and target not in PUBLIC_FLOWER
    }
    assert private <= PRIVATE_FLOWER


# --- public names ----------------------------------------------------------------------------------------------------


def test_public_names_exist_and_are_public() -> None:
    for name in modules():
        public = exported(name)
        if public is None:
            assert name in NO_ALL, f"{name} has no __all__"
            continue
        assert len(public) == len(set(public)), f"{name}: a name stands twice in __all__"
        assert [one for one in public if one.startswith("_")] == [], f"{name} exports private names"
        loaded = import_module(name)
        assert [one for one in public if not hasattr(loaded, one)] == [], f"{name} exports names that it does not have"


def test_packages_export_what_they_collect() -> None:
    """What a package's ``__init__`` takes from its own modules is its public interface, no more and no less."""
    for name, path in modules().items():
        if path.name != "__init__.py" or name in NO_ALL | {"fedpriv.scenarios"}:
            continue
        taken = {what for target, what in imports(name) if target.startswith(f"{name}.")}
        assert taken == set(exported(name) or ()), name


def test_only_public_names_are_imported_elsewhere() -> None:
    wrong = set()
    for name in modules():
        for target, what in imports(name):
            if what is not None and target in modules() and what not in (exported(target) or ()):
                wrong.add(f"{name} imports {target}.{what}, which is not in its __all__")
    assert wrong == set()


# --- examples --------------------------------------------------------------------------------------------------------


def test_the_script_of_the_readme_is_the_one_promised() -> None:
    """test_experiment.py runs it."""
    assert blocks("README.md", "python") == [SCRIPT]


def test_examples_compile_and_are_short() -> None:
    examples = blocks("CONTRIBUTING.md", "python")
    assert len(examples) >= 6
    for example in examples:
        compile(example, "CONTRIBUTING.md", "exec")
        assert example.count("\n") < 60


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_settings_on_shown_command_lines_exist(page: str) -> None:
    """Keys that need no example's class are fields of today's classes; commands and options are today's, too."""
    import fedpriv.clients
    import fedpriv.strategies
    from fedpriv.config import SECTIONS

    known = {"name"}
    for package_of in (fedpriv.clients, fedpriv.strategies):
        for public in package_of.__all__:
            known |= set(getattr(package_of, public).model_fields)
    known |= {"epsilon", "delta", "share", "server_update", "server_momentum", "hidden", "tasks"}
    for section, key in re.findall(r"--set (\w+)\.(\w+)=", read(page)):
        assert section in SECTIONS
        assert key in known, f"{page}: {section}.{key}"
    source = "".join(path.read_text() for name, path in modules().items() if package(name) == "cli")
    for option in set(re.findall(r"fedpriv [a-z][^`#\n]*? (--[a-z-]+)", read(page))):
        assert option == "--help" or f'"{option}"' in source or f"{option[2:].replace('-', '_')}:" in source, option


def test_the_licence_is_the_one_declared() -> None:
    text = read("LICENSE")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in read("pyproject.toml")
