"""Matrices that are known by their products: functions and objects of the caller.

None of them is kept alive here. Programs hold them by weak references, and are kept for
as long as what they were compiled for lives.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.types import Array

__all__ = [
    "Products",
    "Source",
    "is_map",
    "output_dtype",
    "products_of",
    "sources_of",
]


class Products(NamedTuple):
    """M and its conjugate transpose, as functions of a block and further arrays.

    Attributes:
        functions: (matmat, rmatmat), each of (block, *values).
        programs: what was compiled for them, by plan; None: nothing is to be kept.
        on_host: whether they call NumPy code, inside a trace from the host.
    """

    functions: tuple[Callable[..., Array], Callable[..., Array]]
    programs: dict[Any, Any] | None
    on_host: bool


class Source(NamedTuple):
    """Where a product comes from.

    Attributes:
        owner: a function of blocks, or an object.
        way: what of the object: "" is itself, else the name of what gives its adjoint;
            None: the owner is the function.
    """

    owner: Any
    way: str | None = None

    @property
    def identity(self) -> tuple[Any, ...]:
        """Equal for what is the same as long as both live."""
        return *(id(part) for part in _parts(self.owner)), self.way


# By identity of the owners, whose end takes an entry away.
_KNOWN: dict[Any, Products] = {}


def is_map(a: Any) -> bool:
    """Whether `a` is known by its products alone: it has a shape and is no array."""
    # Arrays have a shape and `@`, too, and so has what NumPy would take for one.
    is_array = isinstance(a, (jax.Array, np.ndarray, np.generic)) or any(
        hasattr(a, name)
        for name in ("__array__", "__jax_array__", "__array_interface__")
    )
    has_product = any(hasattr(a, name) for name in ("matmat", "matvec", "__matmul__"))
    return hasattr(a, "shape") and has_product and not is_array


def sources_of(a: Any, expected: str) -> tuple[Source, Source]:
    """(matmat, rmatmat) of an object.

    Raises:
        TypeError: `expected`, if it has no adjoint.
    """
    for name in ("rmatmat", "rmatvec"):
        if callable(getattr(a, name, None)):
            return Source(a, ""), Source(a, name)
    # A bare transpose last: it takes two conjugations to be an adjoint.
    for name in ("H", "adjoint", "T"):
        if _attribute(a, name) is not None:
            return Source(a, ""), Source(a, name)
    raise TypeError(f"{expected}; got {type(a).__name__} without an adjoint")


def output_dtype(source: Source, num_rows: int) -> Any:
    """The dtype of a product with a block in float32."""
    # Promotion tells: a wider map makes a float32 block wider.
    product = _Product(_strongly(source.owner), source.way)
    return _apply(product, (num_rows, 1), np.dtype(np.float32), "matmat")[0].dtype


def products_of(
    sources: tuple[Source, Source], shape: tuple[int, int], dtype: Any, *, kept: bool
) -> tuple[tuple[tuple[Any, ...], tuple[Any, ...]], Products]:
    """Products of a map with what is traced of it.

    Args:
        sources: of matmat and rmatmat.
        shape: (n, m).
        dtype: that work is done in.
        kept: whether programs may outlive this call, as long as the owners live.

    Returns:
        The traced values that each function closes over, to be its further arguments,
        and the functions.
    """
    (n, m), nothing = shape, ((), ())
    # In a trace all that is made is traced and must not outlive it.
    kept = kept and not isinstance(jnp.zeros(()), Tracer)
    key = (*(source.identity for source in sources), shape, dtype)
    if kept and key in _KNOWN:
        return nothing, _KNOWN[key]
    sizes = ((m, n), (n, m))
    # Strong for this call: the caller may hold no reference itself.
    strong = [_Product(_strongly(s.owner), s.way) for s in sources]
    # Both are tried before work begins, so that what is wrong raises with its name.
    traceable = [
        _is_traceable(product, size, dtype, name)
        for product, size, name in zip(
            strong, sizes, ("matmat", "rmatmat"), strict=True
        )
    ]

    def wrapped(products: list[_Product]) -> tuple[Any, Any]:
        one, other = map(_wrap, products, (n, m), traceable, (dtype, dtype))
        return one, other

    # A custom derivative refuses tracers that its functions close over.
    one, other = map(_hoist, wrapped(strong), (m, n), (dtype, dtype), traceable)
    values = (one[1], other[1])

    def compiled(pair: tuple[Any, Any]) -> tuple[Any, Any]:
        """Programs of their own; what JAX cannot trace is called as it is."""
        one, other = (
            jax.jit(function) if inside else function
            for function, inside in zip(pair, traceable, strict=True)
        )
        return one, other

    functions = compiled((one[0], other[0]))
    on_host = not all(traceable)
    # Programs with the values of one trace serve that trace alone.
    if any(values) or not kept:
        return values, Products(functions, None, on_host)
    try:
        weak = [_Product(_weakly(s.owner), s.way) for s in sources]
    except TypeError:  # there are no weak references to it
        return nothing, Products(functions, None, on_host)
    # Weak, or an entry would keep alive the owner whose end it waits for.
    products = Products(compiled(wrapped(weak)), {}, on_host)
    _KNOWN[key] = products
    # An id is used again once its owner is gone: the entry must go first. At exit there
    # is nothing to free.
    for part in {id(p): p for s in sources for p in _parts(s.owner)}.values():
        weakref.finalize(part, _KNOWN.pop, key, None).atexit = False
    return nothing, products


def _parts(owner: Any) -> tuple[Any, ...]:
    """What lives as long as an owner; a bound method itself is made anew each time."""
    return (owner.__self__, owner.__func__) if inspect.ismethod(owner) else (owner,)


def _strongly(owner: Any) -> Callable[[], Any]:
    return lambda: owner


def _weakly(owner: Any) -> Callable[[], Any]:
    is_bound = inspect.ismethod(owner)
    return weakref.WeakMethod(owner) if is_bound else weakref.ref(owner)


class _Product:
    """A product with what a reference gives, as a function of a block; see `Source`."""

    def __init__(self, get: Callable[[], Any], way: str | None) -> None:
        self.get, self.way = get, way

    def __call__(self, block: Any) -> Any:
        owner, way = self.get(), self.way
        if way is None:
            return owner(block)
        if way in ("rmatmat", "rmatvec"):
            return _multiply(owner, block, "rmatmat", "rmatvec")
        other = _attribute(owner, way) if way else owner
        if way == "T":  # the adjoint of the conjugate
            return _multiply(other, block.conj()).conj()
        return _multiply(other, block)


def _multiply(
    a: Any, block: Any, of_blocks: str = "matmat", of_vectors: str = "matvec"
) -> Any:
    """A product by whatever the object has for it."""
    if callable(getattr(a, of_blocks, None)):
        return getattr(a, of_blocks)(block)
    multiply = getattr(a, of_vectors, None)
    if not callable(multiply):
        return a @ block
    # NumPy code takes its vectors one by one.
    if isinstance(block, np.ndarray):
        return np.stack([np.asarray(multiply(x)).ravel() for x in block.T], axis=1)
    return jax.vmap(multiply, in_axes=1, out_axes=1)(block)


def _attribute(a: Any, name: str) -> Any:
    """An attribute, or what it gives if it is a method without arguments."""
    # `H` is a property of SciPy's operators, `adjoint` a method.
    value = getattr(a, name, None)
    return value() if inspect.ismethod(value) else value


def _hoist(
    function: Any, size: int, dtype: Any, traceable: bool
) -> tuple[Any, tuple[Any, ...]]:
    """The function with the values that it closes over as arguments, if one is traced.

    Not by `jax.closure_convert`, which keeps whatever it was given.
    """
    if not traceable:
        return function, ()
    # Of one column: shapes are part of a jaxpr, and blocks have several widths.
    column = jax.make_jaxpr(lambda g: function(g[:, None])[:, 0])(
        jax.ShapeDtypeStruct((size,), dtype)
    )
    if not any(isinstance(value, Tracer) for value in column.consts):
        return function, ()

    # Here: it loads all of Pallas.
    from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

    def hoisted(block: Array, *values: Any) -> Array:
        of_column = jaxpr_as_fun(ClosedJaxpr(column.jaxpr, list(values)))
        return jax.vmap(lambda g: of_column(g)[0], in_axes=1, out_axes=1)(block)

    return hoisted, tuple(column.consts)


def _is_traceable(
    product: _Product, size: tuple[int, int], dtype: Any, name: str
) -> bool:
    """Whether JAX can trace a product; otherwise it is called on the host."""
    take, give = ((rows, 1) for rows in size)
    out, traced = _apply(product, take, dtype, name)
    if out.shape != give:
        msg = f"{name} must take {take} blocks to {give}; got shape {out.shape}"
        raise ValueError(msg)
    # Work in a real dtype would drop the imaginary part in silence.
    narrower = jnp.issubdtype(out.dtype, jnp.complexfloating) and dtype.kind == "f"
    if narrower:
        msg = f"{name} must give the dtype of a, {dtype}; got {out.dtype}"
        raise TypeError(msg)
    return traced


def _wrap(
    product: _Product, num_rows: int, traceable: bool, dtype: Any
) -> Callable[..., Array]:
    """A product as a function that JAX traces."""
    if traceable:
        return lambda g: jnp.asarray(product(g), dtype)

    def on_host(g: Any) -> Array:
        if not isinstance(g, Tracer):
            # A copy: the caller may write over what it gave.
            return jax.device_put(np.array(product(np.asarray(g)), dtype))
        result = jax.ShapeDtypeStruct((num_rows, g.shape[1]), dtype)
        return jax.pure_callback(
            lambda block: np.asarray(product(np.asarray(block)), dtype), result, g
        )

    return on_host


def _apply(
    function: Any, take: tuple[int, int], dtype: Any, name: str
) -> tuple[jax.ShapeDtypeStruct, bool]:
    """What the function makes of a block, and whether JAX can trace it."""
    # Nothing is computed: a tracer goes through, or foreign code fails on it.
    try:
        block = jax.ShapeDtypeStruct(take, dtype)
        return jax.eval_shape(lambda g: jnp.asarray(function(g)), block), True
    except Exception as error:  # whatever foreign code makes of a tracer
        failure = error
    try:
        out = jax.eval_shape(lambda: jnp.asarray(function(np.zeros(take, dtype))))
    except Exception as error:
        # It is JAX code after all: what it said of the tracer is the reason.
        cause = failure if isinstance(error, jax.errors.JAXTypeError) else error
        msg = (
            f"{name} must take blocks such as those of shape {take}; it failed with"
            f" {type(cause).__name__}: {cause}"
        )
        raise ValueError(msg) from cause
    return out, False
