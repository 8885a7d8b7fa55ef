"""Makes way for the package where this clone's folder is imported for it, because it has the same name.

Python looks for ``fedpriv`` beside a script before it asks an editable install. If the clone lies there, in a folder
named ``fedpriv``, the folder would be taken for the package. What is installed is imported instead, or else the package
in this clone.
"""

import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

_CLONE = Path(__file__).resolve().parent


def _package(name: str) -> ModuleSpec | None:
    """Find what is installed under a name, wherever but here; else the package in this clone."""
    elsewhere = [entry for entry in sys.path if (Path(entry) / name).resolve() != _CLONE]
    for finder in sys.meta_path:
        spec = finder.find_spec(name, elsewhere if finder is PathFinder else None)
        if spec is not None and spec.loader is not None:
            return spec
    inside = _CLONE / "fedpriv"
    folders = [str(inside), str(_CLONE)]  # strategies, clients and scenarios lie beside the rest
    return spec_from_file_location(name, inside / "__init__.py", submodule_search_locations=folders)


if __name__ == "fedpriv":
    _spec = _package(__name__)
    if _spec is None or _spec.loader is None:
        raise ImportError(f"the package fedpriv is missing from {_CLONE}; clone it anew.")
    sys.modules[__name__] = module_from_spec(_spec)
    _spec.loader.exec_module(sys.modules[__name__])
