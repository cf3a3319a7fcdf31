"""What applications see: typed, documented, and exported once."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

import pytest

import arqon

# `arqon.__main__` is a program.
MODULES = [
    "arqon",
    *(
        f"arqon.{module.name}"
        for module in pkgutil.iter_modules(arqon.__path__)
        if not module.name.startswith("_")
    ),
]


def surface() -> Iterator[tuple[str, object]]:
    """Every public object of the public modules, and every public member of the classes."""
    seen: set[int] = set()
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            found = getattr(module, name)
            if id(found) in seen or not (inspect.isclass(found) or inspect.isfunction(found)):
                continue
            seen.add(id(found))
            yield f"{module_name}.{name}", found
            if not inspect.isclass(found):
                continue
            for member_name, member in vars(found).items():
                if member_name.startswith("_") and member_name != "__init__":
                    continue
                if isinstance(member, property):
                    member = member.fget
                elif isinstance(member, classmethod | staticmethod):
                    member = member.__func__
                if inspect.isfunction(member):
                    yield f"{module_name}.{name}.{member_name}", member


SURFACE = list(surface())
FUNCTIONS = [(name, found) for name, found in SURFACE if inspect.isfunction(found)]


@pytest.mark.parametrize(("name", "function"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_no_argument_and_no_result_is_any(name: str, function: object) -> None:
    assert inspect.isfunction(function)
    annotations = inspect.get_annotations(function)
    for what, annotation in annotations.items():
        # Annotations are texts here: every module has the future import.
        assert not re.search(r"\bAny\b", str(annotation)), f"{what} of {name} is {annotation}"
    if function.__module__.startswith("arqon") and not name.endswith("__init__"):
        missing = set(inspect.signature(function).parameters) - set(annotations) - {"self", "cls"}
        assert not missing
        assert "return" in annotations


@pytest.mark.parametrize(("name", "found"), SURFACE, ids=[name for name, _ in SURFACE])
def test_everything_is_documented(name: str, found: object) -> None:
    if not name.endswith("__init__"):
        assert inspect.getdoc(found), f"{name} has no docstring"


@pytest.mark.parametrize("module_name", MODULES)
def test_all_is_there_and_named_once(module_name: str) -> None:
    module = importlib.import_module(module_name)
    assert len(module.__all__) == len(set(module.__all__))
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_nothing_internal_is_exported() -> None:
    assert [name for name in arqon.__all__ if name.startswith("_")] == ["__version__"]
