"""No public name goes unnoticed: what can be imported today is listed in ``api_surface.json``.

After adding a name, or taking one away on purpose (and saying so in the changelog), write the list
anew: ``python tests/test_api_surface.py``.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path

import captum_masking

LISTED = Path(__file__).with_name("api_surface.json")


def surface() -> dict[str, list[str]]:
    """List the public names of every module that has ``__all__``."""
    found = {}
    for module in pkgutil.walk_packages(captum_masking.__path__, "captum_masking."):
        if module.name.endswith("__main__") or ".cli" in module.name:
            continue
        names = getattr(importlib.import_module(module.name), "__all__", None)
        if names is not None:
            found[module.name] = sorted(names)
    return {"captum_masking": sorted(captum_masking.__all__), **found}


def test_no_public_name_has_come_or_gone_unnoticed():
    listed = json.loads(LISTED.read_text(encoding="utf-8"))
    assert surface() == listed, "if this is meant: python tests/test_api_surface.py"


def test_every_listed_name_can_be_imported():
    for module, names in json.loads(LISTED.read_text(encoding="utf-8")).items():
        loaded = importlib.import_module(module)
        assert [name for name in names if not hasattr(loaded, name)] == [], module


if __name__ == "__main__":
    LISTED.write_text(json.dumps(surface(), indent=1) + "\n", encoding="utf-8")
