"""The rules that keep the package in layers, read off its source.

Each rule is a function from source text to complaints, so that a test can show that it
complains about what it should.
"""

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "contexture_jax"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 450  # of a file of the package
MAX_TEST_LINES = 600  # of a test or a benchmark
MAX_FUNCTION_LINES = 70  # without its docstring

CORE = frozenset({"jax", "jaxtyping", "numpy"})


class Layer(NamedTuple):
    """What a folder of the package may import."""

    ours: frozenset[str]
    others: frozenset[str] = CORE


def _layer(ours: str = "", others: str = "") -> Layer:
    return Layer(frozenset(ours.split()), CORE | frozenset(others.split()))


# A layer imports what stands above it here. Losses and solvers do not know each other,
# models know no loss, training joins both; `data` knows no JAX, so that it loads fast.
LAYERS = {
    "_core": _layer("", "scipy"),  # within `single_threaded_lapack`
    "kernels": _layer("_core"),
    "data": Layer(frozenset(), frozenset({"numpy", "pyarrow", "scipy", "sklearn"})),
    "contexts": _layer("_core kernels"),
    "zoo": _layer("_core contexts"),
    "operators": _layer("_core kernels contexts"),
    "solvers": _layer("_core kernels contexts operators"),
    "losses": _layer("_core contexts operators"),
    "models": _layer("_core", "flax"),
    "training": _layer(
        "_core contexts operators losses models",
        "flax optax orbax rich tensorboardX",
    ),
    "evaluation": _layer("_core kernels contexts operators solvers"),
    "prediction": _layer("_core contexts operators solvers", "optax sklearn"),
    "diagnostics": _layer("_core contexts operators solvers evaluation prediction"),
    "ranking": _layer(
        "_core contexts operators solvers evaluation prediction",
        "scipy",  # its linear programs; JAX brings it
    ),
    "learning": _layer(
        "_core contexts zoo operators losses models training evaluation", "flax optax"
    ),
    "planning": _layer(
        "_core contexts operators solvers losses models training evaluation learning",
        "flax optax",
    ),
    "benchmarking": _layer(
        "_core kernels contexts operators solvers losses models training",
        # Its peers, and what training is made of.
        "faiss flax optax scipy sklearn threadpoolctl torch",
    ),
    "plotting": _layer("_core contexts operators solvers evaluation", "matplotlib"),
    "cli": _layer(
        "_core data contexts operators solvers losses models training evaluation"
        " prediction diagnostics ranking learning planning benchmarking plotting",
        "flax matplotlib optax platformdirs pyarrow rich scipy sklearn",
    ),
}

# Kernels leave compiling to their caller. These are front doors that eager users call.
JIT_ALLOWED = {
    "benchmarking/_kernels.py": "what is timed is a program",
    "benchmarking/_learning.py": "likewise",
    "benchmarking/_roofs.py": "likewise",
    "_core/fingerprint.py": "one pass over arrays too large for NumPy",
    "_core/factorizations.py": "for eager callers: each is some thirty operations",
    "_core/numerics.py": "a transpose that is stored, not a view inside a program",
    "_core/programs.py": "programs of trees with static parts of the caller's",
    "contexts/_numbered.py": "binary searches among entries, for eager code",
    "contexts/_rbf.py": "new inputs, for eager callers of `extend`",
    "contexts/_softmax.py": "tables, draws and Bayes' rule over tiles, for eager code",
    "kernels/neighbors/_lists.py": "blocks of one shape, searched from eager code",
    "kernels/neighbors/_ring.py": "a search over devices, for eager callers",
    "kernels/neighbors/_scoring.py": "blocks of one shape, searched from eager code",
    "kernels/neighbors/_pruned.py": "lower bounds, whose outcome the host reads",
    "kernels/neighbors/_pruning.py": "directions and images, likewise",
    "learning/_learn.py": "embeddings of all rows, their averages and Ritz values",
    "learning/_learned.py": "functions at new inputs, for eager callers",
    "evaluation/_judgement.py": "each judge of a solved context is one program",
    "evaluation/_agreement.py": "maps over shuffles and groups, for eager callers",
    "evaluation/_compare.py": "maps over shuffles and groups, for eager callers",
    "evaluation/_dependence.py": "maps over shuffles and groups, likewise",
    "evaluation/_geometry.py": "a handful of sums, for eager callers",
    "evaluation/_in_context.py": "maps over shuffles and groups, likewise",
    "evaluation/_kernel_alignment.py": "likewise",
    "evaluation/_monte_carlo.py": "maps over batches and signs, for eager callers",
    "evaluation/_perturbation.py": "what is known of a cluster, cluster by cluster",
    "evaluation/_risks.py": "a map over replicates, likewise",
    "diagnostics/_relations.py": "maps over shuffles and groups, likewise",
    "evaluation/_similarity.py": "counts of neighbours by blocks, likewise",
    "evaluation/_kernel.py": "a kernel by blocks, row against row, likewise",
    "evaluation/_near_kernels.py": "maps over shuffles and groups, for eager callers",
    "evaluation/_sphere.py": "all pairs by blocks, for eager callers",
    "evaluation/_units.py": "likewise",
    "evaluation/_alignment.py": "`alignment` measures many shuffles of one shape",
    "prediction/_energies.py": "decompositions for each belief, for eager callers",
    "prediction/_equations.py": "loops around products, likewise",
    "prediction/_logistic.py": "nested loops, for eager callers",
    "prediction/_propagation.py": "a loop around products, likewise",
    "solvers/_implicit.py": "their backward pass, which eager `jax.grad` runs",
    "solvers/_certificate.py": "a seed and a norm, for `certify` outside a trace",
    "_core/either.py": "what NumPy does on a CPU, where it cannot read the arrays",
    "operators/_base.py": "`matmat` and `rmatmat`, for eager callers",
    "operators/_expectation.py": "`extend` at new points, likewise",
    "operators/_kernel.py": "three passes over tiles, likewise",
    "operators/streamed/_kernel.py": "sums over a pair of blocks, pair after pair",
    "operators/streamed/_products.py": "what a block adds, block after block",
    "operators/streamed/_sums.py": "sums of a block, likewise",
    "operators/sharded/_kernel.py": "Z and P_A by processes that wait for each other",
    "operators/sharded/_common.py": "a share's program: `shard_map` runs op by op",
    "solvers/_extend.py": "what follows the average, for eager callers",
    "solvers/_exact.py": "a dense factorisation; a matrix that the host decomposes",
    "solvers/_linear_map.py": "products with M, of solvers and certificates alike",
    "solvers/_maps.py": "the products of a caller's functions",
    "solvers/_nystrom.py": "the small programs of a step, likewise",
    "solvers/_one_pass.py": "what rows that are seen once add to a sketch",
    "solvers/_pieces.py": "those that several methods share",
    "solvers/_run.py": "signs, energies and status of a result",
    "solvers/_svd.py": "all passes in one program, over meshes and in traces",
    "solvers/_truncated.py": "products with stored matrices; all passes in a trace",
    "training/_bits.py": "whether a state is finite, and its sums, for the host",
    "training/_pairs.py": "draws and kernels of a batch, made between steps",
    "training/_parallel.py": "`compile_step`",
}


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def source_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@functools.cache
def parsed(source: str) -> ast.Module:
    """Once for all rules."""
    return ast.parse(source)


def found_in(paths: Iterable[Path], rule: Callable[[Path], Any]) -> dict[str, Any]:
    """What a rule finds wrong, by the file: one test for all takes far less time."""
    found = {path.relative_to(ROOT).as_posix(): rule(path) for path in paths}
    return {name: wrong for name, wrong in found.items() if wrong}


def imported_modules(source: str, package: str) -> list[str]:
    """Dotted names of all that a module imports, wherever in it the import stands."""
    names = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                parents = parents[: len(parents) - node.level + 1]
                base = ".".join([*parents, base]).rstrip(".")
            names += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and _name(node.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            names += [_literal(node.args[0]) if node.args else "a computed name"]
    return names


def _literal(node: ast.expr) -> str:
    is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
    return str(ast.literal_eval(node)) if is_text else "a computed name"


def _name(node: ast.AST) -> str:
    """`a.b.c` of an attribute chain; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _name(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def forbidden_imports(source: str, layer: str) -> list[str]:
    """Imports of a module in `layer` that its row of `LAYERS` does not allow."""
    rule = LAYERS[layer]
    bad = []
    for name in imported_modules(source, f"contexture_jax.{layer}"):
        top, _, rest = name.partition(".")
        if top == "contexture_jax":
            # The package itself re-exports every layer, so it counts as the last one.
            inner, *within = rest.split(".")
            if inner in ("__version__", layer):
                continue
            # Of another layer only what it shows: `_core` is everybody's.
            is_shown = inner == "_core" or not any(n.startswith("_") for n in within)
            if inner in rule.ours and is_shown:
                continue
            if inner not in LAYERS and layer == "cli":
                continue
            bad.append(name)
        elif name.startswith("jax._src") or not (
            top in rule.others or top in sys.stdlib_module_names
        ):
            bad.append(name)
    return bad


def jit_uses(source: str) -> list[int]:
    """Lines that name a compiling transformation of JAX."""
    lines = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Attribute):
            names = [_name(node)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        if any(n.startswith("jax.") and n.endswith((".jit", ".pjit")) for n in names):
            lines.append(node.lineno)
    return lines


def uses_of_jax_numpy(source: str) -> list[str]:
    """Imports of `jax.numpy`: a module without it holds no mathematics on arrays."""
    names = imported_modules(source, "")
    return [n for n in names if n == "jax.numpy" or n.startswith("jax.numpy.")] + [
        _name(node)
        for node in ast.walk(parsed(source))
        if isinstance(node, ast.Attribute) and _name(node) == "jax.numpy"
    ]


def undocumented(module_name: str) -> list[str]:
    """Names in `__all__` that do not exist, or are ours and lack a docstring."""
    module = importlib.import_module(module_name)
    bad = []
    for name in getattr(module, "__all__", ()):
        if not hasattr(module, name):
            bad.append(f"{name} does not exist")
            continue
        value = getattr(module, name)
        owner = value.__name__ if inspect.ismodule(value) else value_module(value)
        if not owner.startswith("contexture_jax"):
            continue  # a constant, or a name that another library documents
        text = value.__doc__ or ""
        # Dataclasses and NamedTuples write their signature where they find no text.
        if not text.strip() or text.startswith(f"{name}("):
            bad.append(f"{name} has no docstring")
    return bad


def value_module(value: object) -> str:
    """Where a function or class was defined; empty for anything else."""
    is_definition = inspect.isroutine(value) or inspect.isclass(value)
    return str(getattr(value, "__module__", "")) if is_definition else ""


def statements_beyond_exports(source: str) -> list[int]:
    """Lines of an `__init__.py` that do more than import and list names."""
    return [
        node.lineno
        for node in parsed(source).body
        if not (
            isinstance(node, (ast.Import, ast.ImportFrom))
            or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (
                isinstance(node, ast.Assign)
                and [_name(target) for target in node.targets] == ["__all__"]
            )
        )
    ]


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0]


LAYERED = [path for path in MODULES if path.parent != PACKAGE]


def test_every_folder_has_a_layer() -> None:
    folders = {layer_of(path) for path in LAYERED}
    assert folders <= set(LAYERS), "give the new folder a row in LAYERS"


def test_nothing_but_init_lies_beside_the_layers() -> None:
    assert [path.name for path in MODULES if path.parent == PACKAGE] == ["__init__.py"]


def test_imports_point_to_earlier_layers_and_allowed_libraries() -> None:
    def rule(path: Path) -> list[str]:
        return forbidden_imports(source_of(path), layer_of(path))

    assert found_in(LAYERED, rule) == {}


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("contexts", "from contexture_jax.operators import AssociationOperator"),
        ("contexts", "from contexture_jax import operators"),
        ("contexts", "from ..operators import AssociationOperator"),
        ("contexts", "import contexture_jax as cx"),
        ("operators", "def f():\n    from contexture_jax.solvers import svd"),
        ("solvers", "from contexture_jax.losses import svme"),
        ("losses", "from contexture_jax.solvers import svd"),
        ("models", "from contexture_jax.losses import svme"),
        ("_core", "from contexture_jax.contexts import Context"),
        ("contexts", "from jax._src import core"),
        ("evaluation", "import scipy.stats"),
        ("evaluation", "from sklearn import metrics"),
        ("solvers", "import importlib\nimportlib.import_module('pandas')"),
        ("plotting", "import pandas"),
        ("evaluation", "import flax.linen as nn"),
        ("operators", "from contexture_jax.contexts._joint import DenseJoint"),
        ("solvers", "from contexture_jax.operators import _dense"),
        ("data", "import jax"),
    ],
)
def test_forbidden_import_is_found(layer: str, source: str) -> None:
    assert len(forbidden_imports(source, layer)) == 1


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("operators", "from contexture_jax.contexts import Context"),
        ("operators", "from contexture_jax._core.types import Array"),
        ("operators", "from . import _dense"),
        ("cli", "import contexture_jax as cx\nfrom contexture_jax import svd"),
        ("plotting", "import matplotlib.pyplot as plt"),
        ("contexts", "import functools, jax.numpy as jnp, numpy as np"),
    ],
)
def test_allowed_import_is_let_through(layer: str, source: str) -> None:
    assert forbidden_imports(source, layer) == []


def test_only_front_doors_compile() -> None:
    lines = {relative(path): jit_uses(source_of(path)) for path in MODULES}
    there = {name for name, found in lines.items() if found}
    others = there - set(JIT_ALLOWED)
    assert not others, "leave compiling to the caller, or say why in JIT_ALLOWED"
    idle = set(JIT_ALLOWED) & set(lines) - there
    assert not idle, "these compile nothing: take them off JIT_ALLOWED"


def test_the_command_holds_no_mathematics() -> None:
    def rule(path: Path) -> list[Any]:
        source = source_of(path)
        return [*uses_of_jax_numpy(source), *jit_uses(source)]

    assert found_in((p for p in LAYERED if layer_of(p) == "cli"), rule) == {}


@pytest.mark.parametrize(
    "source",
    [
        "import jax.numpy as jnp",
        "from jax import numpy as jnp",
        "from jax.numpy import linalg",
        "import jax\nx = jax.numpy.ones(3)",
    ],
)
def test_mathematics_is_found(source: str) -> None:
    assert len(uses_of_jax_numpy(source)) == 1


def test_no_exception_outlives_its_file() -> None:
    assert set(JIT_ALLOWED) <= {relative(path) for path in MODULES}


@pytest.mark.parametrize(
    "source",
    [
        "import jax\nf = jax.jit(g)",
        "import jax, functools\n@functools.partial(jax.jit, static_argnames='n')\n"
        "def f(n): ...",
        "from jax import jit",
        "from jax.experimental.pjit import pjit",
    ],
)
def test_compiling_is_found(source: str) -> None:
    assert len(jit_uses(source)) == 1


def test_public_names_exist_and_are_documented() -> None:
    # To import a `__main__` is to run it.
    paths = [p for p in MODULES if p.name != "__main__.py"]
    assert found_in(paths, lambda path: undocumented(dotted(path))) == {}


@pytest.mark.parametrize(
    "path",
    [p for p in LAYERED if p.name == "__init__.py"],
    ids=relative,
)
def test_folder_only_exports(path: Path) -> None:
    source = source_of(path)
    assert statements_beyond_exports(source) == []
    assert path.parent.name == "_core" or "__all__" in source


def test_files_are_short() -> None:
    def rule(path: Path) -> int | None:
        limit = MAX_LINES if path.is_relative_to(PACKAGE) else MAX_TEST_LINES
        num_lines = len(source_of(path).splitlines())
        return num_lines if num_lines > limit else None

    folders = PACKAGE, ROOT / "tests", ROOT / "benchmarks"
    assert found_in((p for f in folders for p in f.rglob("*.py")), rule) == {}


def long_functions(source: str) -> list[str]:
    """Functions of more lines than `MAX_FUNCTION_LINES`, their docstrings left out."""
    found = []
    for node in ast.walk(parsed(source)):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        first = node.body[0] if ast.get_docstring(node, clean=False) else None
        lines = _num_lines(node) - (_num_lines(first) if first else 0)
        if lines > MAX_FUNCTION_LINES:
            found.append(node.name)
    return found


def _num_lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_functions_are_short() -> None:
    assert found_in(MODULES, lambda path: long_functions(source_of(path))) == {}


def test_a_long_function_is_found_and_its_docstring_not_counted() -> None:
    text, body = '    """A.\n' + "\n" * 70 + '    """\n', "    x = 1\n"
    assert long_functions("def f():\n" + text + 69 * body) == []
    assert long_functions("def f():\n" + text + 70 * body) == ["f"]


# The file that writes the symmetrised matrix, and why it is there.
SYMMETRISED = {"_core/symmetrised.py": "its home, below contexts and the zoo"}


def symmetrises(source: str) -> list[str]:
    """Functions that take the square roots of both marginals of one law."""
    found = []
    if "p_a" not in source and "columns" not in source:
        return found
    for function in ast.walk(parsed(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        # √p for p in (p_x, p_a) is of both.
        loops = {
            node.target.id: node.iter
            for node in ast.walk(function)
            if isinstance(node, (ast.comprehension, ast.For))
            and isinstance(node.target, ast.Name)
        }
        names = set()
        for node in ast.walk(function):
            for part in ast.walk(_under_root(node) or ast.Pass()):
                of = loops.get(part.id, part) if isinstance(part, ast.Name) else part
                names |= {_name(n).rpartition(".")[2] for n in ast.walk(of)}
        if names >= {"p_x", "p_a"} or names >= {"rows", "columns"}:
            found.append(function.name)
    return found


def _under_root(node: ast.AST) -> ast.expr | None:
    """What a square root is taken of."""
    if isinstance(node, ast.Call) and _name(node.func).endswith("sqrt") and node.args:
        return node.args[0]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        power = ast.unparse(node.right).strip("()")
        return node.left if power in ("0.5", "-0.5", "1 / 2") else None
    return None


def test_the_symmetrised_matrix_has_one_home() -> None:
    found = {path: symmetrises(source_of(path)) for path in MODULES}
    assert {relative(path) for path, ours in found.items() if ours} == set(SYMMETRISED)


@pytest.mark.parametrize(
    "line",
    [
        "jnp.sqrt(op.p_x)[:, None] * T / jnp.sqrt(op.p_a)",
        "p_x[:, None] ** 0.5 * T * p_a ** -0.5",
        "P / np.sqrt(np.outer(rows, columns))",
        "[safe_sqrt(p) for p in (op.p_x, op.p_a)]",
    ],
)
def test_another_home_is_found(line: str) -> None:
    assert symmetrises(f"def f(op):\n    return {line}") == ["f"]
