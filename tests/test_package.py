"""The package as a user meets it: what an import loads, its version, its README."""

import doctest
import json
import pydoc
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

import contexture_jax as cx

README = Path(__file__).parents[1] / "README.md"
HEAVY = ("flax", "matplotlib", "optax", "orbax", "pandas", "rich", "sklearn")


def loaded_by(statements: str) -> set[str]:
    """Names of the modules in a new interpreter after the statements."""
    code = f"{statements}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(json.loads(run.stdout))


def test_import_loads_no_heavy_library() -> None:
    loaded = loaded_by("import contexture_jax")
    assert loaded & {*HEAVY, "scipy", "scipy.sparse"} == set()


def test_numerical_layers_load_no_heavy_library() -> None:
    loaded = loaded_by(
        "import contexture_jax as cx\n"
        "cx.contexts.joint, cx.association_operator, cx.svd, cx.evaluation.usefulness,"
        " cx.losses.svme"
    )
    assert "contexture_jax.evaluation" in loaded
    # A third as long to load as JAX itself, for who has no matrix of it.
    assert loaded & {*HEAVY, "scipy", "jax.experimental.sparse"} == set()


def test_version_is_canonical() -> None:
    assert str(Version(cx.__version__)) == cx.__version__


def test_every_public_name_loads() -> None:
    doors = {"association_operator", "extend", "svd", "AssociationOperator", "Context"}
    assert {*cx.__all__, *doors} <= set(dir(cx))
    assert [name for name in dir(cx) if not hasattr(cx, name)] == []
    assert {"Any", "TYPE_CHECKING", "annotations", "importlib"} & set(dir(cx)) == set()


def test_help_fits_on_two_screens_and_names_every_front_door_and_context() -> None:
    text = pydoc.plain(pydoc.render_doc(cx))
    assert len(text.splitlines()) <= 80
    makers = [name for name in cx.contexts.__all__ if name.islower()]
    # Of those who write a context of their own, or want the lists alone.
    helpers = {"row_keys", "nearest_neighbors", "all_log_densities", "judge_density"}
    helpers |= {"row_law", "parts_on_one_input"}
    for name in {*cx.__all__, *makers} - helpers:
        assert re.search(rf"\b{name}\b", text), name


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(cx.__file__).parent / "py.typed").is_file()


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'spectrum_of'"):
        _ = cx.spectrum_of


def test_readme_has_examples_that_can_be_run() -> None:
    examples = doctest.DocTestParser().get_examples(README.read_text(encoding="utf-8"))
    assert any(example.want for example in examples)
