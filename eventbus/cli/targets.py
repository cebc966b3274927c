"""What `module:function` on a command line means."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from difflib import get_close_matches
from typing import Any

from .. import ConfigError


def find(target: str) -> Any:
    """What is called so in a module, which is imported; it may be in the current directory.

    ConfigError: there is no such module, or nothing called so in it. What the module raises itself goes through.
    """
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise ConfigError(f"{target!r} names no function: write module:function, shop.events:handle say")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    found: Any = _module(module_name, here)
    for part in name.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"there is no {name!r} in {module_name}{_nearest(part, found)}")
        found = getattr(found, part)
    if inspect.isclass(found):
        raise ConfigError(f"{target} is a class: a handler is a function, or a method of an object")
    return found


def _module(name: str, here: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name == missing or name.startswith(f"{missing}."):
            raise ConfigError(f"there is no module {name!r}, neither in {here} nor installed") from None
        raise  # the module is there, and what it imports is not


def _nearest(name: str, within: object) -> str:
    near = get_close_matches(name, [one for one in dir(within) if not one.startswith("_")], n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
