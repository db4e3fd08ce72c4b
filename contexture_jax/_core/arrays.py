"""Arrays at the door: whatever holds numbers becomes an array, what does not is named.

Lists, NumPy arrays of any byte order and width, pandas and polars columns and frames,
tensors of other libraries on the host, and JAX's own arrays all come here first. Python
objects that are numbers count as numbers, as in a frame whose columns have several
types. A masked array is refused: taking its data would unmask it.
"""

from __future__ import annotations

import decimal
import numbers
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from contexture_jax._core.meshes import on_auto_axes
from contexture_jax._core.processes import gathered
from contexture_jax._core.types import Array

__all__ = [
    "as_array",
    "as_device_array",
    "as_floating",
    "as_integers",
    "as_narrow",
    "as_real",
    "floating_dtype",
    "in_range",
    "is_jax_sparse",
    "is_missing",
    "kind_of",
    "raise_not",
    "warn_if_float64",
    "warn_narrowed",
]

_PACKAGE = str(Path(__file__).parents[1])

# Integers up to here are exact in float32.
_MOST_EXACT = 2**24

# The one warning of this process, once it was given.
_said: list[str] = []


def is_jax_sparse(x: Any, *kinds: str) -> bool:
    """Whether `x` is of a class of `jax.experimental.sparse`, which is not loaded."""
    module = sys.modules.get("jax.experimental.sparse")
    classes = (getattr(module, kind) for kind in kinds)
    return module is not None and isinstance(x, tuple(classes))


def as_array(x: Any, name: str) -> np.ndarray:
    """Convert to a NumPy array of whatever dtype, in the byte order of the machine.

    Extended floats become float64, and objects that are all numbers an array of those;
    other objects stay what they are.

    Raises:
        TypeError: if `x` is masked, sparse, or nothing that NumPy reads.
        ValueError: if `x` is nested sequences of different lengths.
    """
    array = as_host(x, name)
    if array.dtype.kind != "O" or not array.ndim or not array.size:
        return array
    entries = array.ravel().tolist()
    if not all(map(_is_number, entries)):
        return array
    if all(isinstance(v, (bool, np.bool_)) for v in entries):
        return array.astype(bool)
    if all(isinstance(v, (numbers.Integral, np.bool_)) for v in entries):
        for dtype in (np.int64, np.uint64):
            if (
                np.iinfo(dtype).min
                <= min(entries)
                <= max(entries)
                <= (np.iinfo(dtype).max)
            ):
                return array.astype(dtype)
    return array.astype(np.float64)


def as_host(x: Any, name: str) -> np.ndarray:
    """As `as_array`, but objects stay what they are."""
    # Subclasses may carry a mask, or a unit.
    if isinstance(x, np.ndarray) and type(x) is np.ndarray:
        return _native(x)
    if _has_mask(x):
        msg = (
            f"{name} must have no mask; got a masked array: give each hidden entry a"
            " value (`filled`), or leave their rows out"
        )
        raise TypeError(msg)
    if hasattr(x, "todense") and not isinstance(x, jax.Array):
        msg = (
            f"{name} must be a dense array; got a {type(x).__name__} of shape"
            f" {tuple(x.shape)}: use its `todense()`"
        )
        raise TypeError(msg)
    missing = _missing_column(x)
    if missing is not None:
        msg = (
            f"{name} must have no missing values; got some{missing}: fill or drop them"
        )
        raise TypeError(msg)
    if getattr(x, "requires_grad", False) is True:
        msg = (
            f"{name} must be an array; got a {type(x).__name__} that records gradients,"
            " which end here: pass x.detach()"
        )
        raise TypeError(msg)
    if isinstance(x, jax.Array):
        return gathered(x)  # what JAX says of a tracer is to the point
    try:
        variable = getattr(x, "__jax_array__", None)
        return _native(np.asarray(x if variable is None else variable()))
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        msg = f"{name} must be an array; got nested sequences of different lengths"
        raise ValueError(msg) from error
    except jax.errors.TracerArrayConversionError:
        raise
    except Exception as error:
        hint = ": pass x.detach().cpu()" if hasattr(x, "cpu") else ""
        msg = (
            f"{name} must be an array; got a {type(x).__name__} that NumPy cannot read"
            f" ({error}){hint}"
        )
        raise TypeError(msg) from error


def as_real(x: Any, name: str) -> Array | np.ndarray:
    """Real numbers as an array of JAX or, in the dtype that they came in, of NumPy.

    Raises:
        TypeError: if `x` is not numeric or is complex.
    """
    array = x if isinstance(x, jax.Array) else _jax_of(x)
    array = as_array(x, name) if array is None else on_auto_axes(array)
    if not _is_real(array.dtype):
        raise_not("real numbers", x, array, name)
    return array


def as_floating(x: Any, name: str) -> Array:
    """Convert to a floating JAX array; f16 and bf16 become f32, integers the default.

    Args:
        x: an array or nested sequence of numbers, any shape, real.
        name: what the caller calls it, for the message.

    Raises:
        TypeError: if `x` is not numeric or is complex.
        ValueError: if a number is beyond float32, or all of an array that is not 0 are
            below it, without `jax_enable_x64`.

    Warns:
        UserWarning: once in a process, as `warn_narrowed` says.
    """
    array = as_real(x, name)
    dtype = floating_dtype(array.dtype)
    if isinstance(array, np.ndarray):
        if dtype == np.float32:
            warn_if_float64(x, array, name)
            _warn_if_rounded(array, name)
        array = in_range(array, dtype, name)
    return jnp.asarray(array, dtype=dtype)


def as_integers(x: Any, name: str) -> np.ndarray:
    """Convert to a NumPy array of int64, of any shape.

    Raises:
        TypeError: if `x` does not hold integers.
        ValueError: if a number is beyond int64.
    """
    array = as_array(x, name)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise_not("integers", x, array, name)
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        msg = f"{name} must be below 2**63; got {array.max()}"
        raise ValueError(msg)
    return array.astype(np.int64)


def as_device_array(x: Any, name: str) -> Array:
    """Convert numbers of any kind to a JAX array, as `as_narrow` does."""
    return jnp.asarray(as_narrow(x, name))


def as_narrow(x: Any, name: str) -> Array | np.ndarray:
    """Numbers of any kind in a dtype that JAX has; on the host, unless JAX has them.

    Without `jax_enable_x64` float64 becomes float32, with the one warning, and integers
    keep their values in 32 bits.

    Raises:
        TypeError: if `x` does not hold numbers.
        ValueError: if an integer does not fit, or a float as in `as_floating`.
    """
    found = x if isinstance(x, jax.Array) else _jax_of(x)
    if found is not None:
        return on_auto_axes(found)
    array = as_array(x, name)
    is_number = array.dtype.kind in "biufc" or jnp.issubdtype(array.dtype, jnp.number)
    if not is_number:
        raise_not("numbers", x, array, name)
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    warn_if_float64(x, array, name)
    if array.dtype.kind in "iu" and array.size:
        low, high = array.min(), array.max()
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            far = high if high > np.iinfo(dtype).max else low
            msg = (
                f"{name} must hold integers of 32 bits; got {far}: number the values,"
                f" or {_enable_x64()}"
            )
            raise ValueError(msg)
    if array.dtype.kind == "f":
        return in_range(array, dtype, name)
    return array.astype(dtype)


def in_range(array: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """Numbers in a dtype; raise a `ValueError` unless its range holds them.

    A few that are small beside others are 0 or nearly so; an array of nothing else
    would be another one, and devices take subnormal numbers for 0.
    """
    try:
        # Infinity that was given casts without a flag; a number that becomes it raises.
        with np.errstate(over="raise"):
            cast = array.astype(dtype, copy=False)
    except FloatingPointError as error:
        largest = np.abs(array[np.isfinite(array)]).max()
        msg = f"{name} must be within float32; got {largest}: {_enable_x64()}"
        raise ValueError(msg) from error
    is_wide = array.dtype.kind in "fc" and array.dtype.itemsize > cast.dtype.itemsize
    if not (is_wide and array.ndim and array.size):
        return cast
    tiny = np.finfo(dtype).tiny
    parts = (np.real(cast), np.imag(cast)) if cast.dtype.kind == "c" else (cast,)
    is_small = all(-tiny < part.min() <= part.max() < tiny for part in parts)
    if is_small and array.any():
        msg = (
            f"{name} must be within float32, whose smallest normal number is {tiny};"
            f" got {np.abs(array).max()} at most: rescale it first, or {_enable_x64()}"
        )
        raise ValueError(msg)
    return cast


def floating_dtype(dtype: Any) -> Any:
    """The dtype that work on `dtype` is done in: f32, f64 or JAX's default float."""
    dtype = np.dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return jnp.zeros(()).dtype
    if dtype.itemsize < 4:  # f16, bf16: LAPACK has no half precision
        return np.dtype(np.float32)
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)
    return np.dtype(jax.dtypes.canonicalize_dtype(dtype))


def warn_narrowed(what: str) -> None:
    """Say, once in a process, that 64-bit numbers are worked on in 32 bits.

    Args:
        what: which numbers of which argument.
    """
    if jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        _warn_once(f"{what} and 64-bit types are off in JAX, so work is in float32")


def _warn_once(message: str) -> None:
    if _said:
        return
    warnings.warn(
        f"{message}. For float64 {_enable_x64()}. This is said once.",
        UserWarning,
        stacklevel=_levels_to_caller(),
    )
    # After the warning: one that a filter makes an error comes again.
    _said.append(message)


def _enable_x64() -> str:
    return (
        'call jax.config.update("jax_enable_x64", True) first, or set JAX_ENABLE_X64=1'
    )


def _levels_to_caller() -> int:
    """The stack level, seen from the caller, of the first frame outside the package."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level


def warn_if_float64(given: Any, array: Array | np.ndarray, name: str) -> None:
    """Say so, once, of a float64 array that is not worked on as such.

    Lists of Python's numbers and single numbers have no width of their own.
    """
    if (
        array.dtype == np.float64
        and array.ndim
        and not isinstance(given, (list, tuple))
    ):
        warn_narrowed(f"{name} holds float64")


def _warn_if_rounded(array: np.ndarray, name: str) -> None:
    """Say so, once, of integers that float32 rounds."""
    if (
        not _said
        and array.dtype.kind in "iu"
        and array.dtype.itemsize >= 4
        and array.size
        and max(-int(array.min()), int(array.max())) > _MOST_EXACT
    ):
        warn_narrowed(f"{name} holds integers beyond 2**24")


def is_missing(value: Any) -> bool:
    """Whether a value stands for a missing one: None, NaN, NaT, pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, (float, np.floating, decimal.Decimal)):
        return bool(value != value)
    return isinstance(value, (np.datetime64, np.timedelta64)) and bool(np.isnat(value))


def kind_of(array: Array | np.ndarray) -> str:
    """What an array holds, in words, for a message."""
    kind = getattr(array.dtype, "kind", "")  # keys have none
    words = {"U": "text", "S": "bytes", "T": "text", "M": "dates", "m": "durations"}
    told = f"dtype {array.dtype}"
    return f"{words[kind]} ({told})" if kind in words else told


def raise_not(expected: str, given: Any, array: Any, name: str) -> NoReturn:
    """Raise the `TypeError` that names what came in place of numbers."""
    if array.dtype != np.dtype(object):
        what = kind_of(array)
    elif not array.ndim:
        what = "None" if given is None else type(given).__name__
    else:
        what = _first_stranger(given, array, name)
    msg = f"{name} must hold {expected}; got {what}"
    raise TypeError(msg)


def _first_stranger(given: Any, array: np.ndarray, name: str) -> str:
    """The first entry of an array of objects that is no number, and where it is."""
    strangers = (item for item in np.ndenumerate(array) if not _is_number(item[1]))
    place, value = next(strangers, (None, None))
    if place is None:
        return f"dtype {array.dtype}"
    where = f"at {name}[{', '.join(map(str, place))}]"
    columns = getattr(given, "columns", None)
    if columns is not None and array.ndim == 2:
        where += f", column {list(columns)[place[1]]!r}"
    if is_missing(value):
        return f"{value} {where}: a missing value"
    shown = repr(value)
    shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
    return f"{shown} ({type(value).__name__}) {where}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (numbers.Real, decimal.Decimal, np.bool_))


def _is_real(dtype: Any) -> bool:
    if jnp.issubdtype(dtype, jax.dtypes.extended):  # keys
        return False
    real = (jnp.floating, jnp.integer)
    return dtype.kind in "biuf" or any(jnp.issubdtype(dtype, kind) for kind in real)


def _native(array: np.ndarray) -> np.ndarray:
    """In the byte order of the machine, and no wider than double precision."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    return array


def _has_mask(x: Any) -> bool:
    if not isinstance(x, (list, tuple)):
        return isinstance(x, np.ma.MaskedArray)
    # By type first: a list of a million numbers is looked at once.
    nested = (list, tuple, np.ma.MaskedArray)
    return any(issubclass(kind, nested) for kind in set(map(type, x))) and any(
        map(_has_mask, x)
    )


def _missing_column(x: Any) -> str | None:
    """Where a column or frame of pandas or polars has a null; None: nowhere.

    NumPy would be given NaN for a null, or not, as the other columns have it.
    """
    if callable(getattr(x, "null_count", None)) and hasattr(x, "__array__"):  # polars
        counts = x.null_count()
        if isinstance(counts, int):
            return "" if counts else None
        nulls = [name for name, n in zip(x.columns, counts.row(0), strict=True) if n]
        return f" in column {nulls[0]!r}" if nulls else None
    if not callable(getattr(x, "isna", None)):
        return None
    names = list(x.columns) if hasattr(x, "columns") else [None]
    for place, name in enumerate(names):
        column = x if name is None else x.iloc[:, place]
        # NaN in a column of floats is a number, and NA of pandas is none.
        null = getattr(getattr(column, "dtype", None), "na_value", None)
        if type(null).__name__ == "NAType" and column.isna().any():
            return "" if name is None else f" in column {name!r}"
    return None


def _jax_of(x: Any) -> Array | None:
    """The array behind a variable of Flax or a list of tracers; None: neither."""
    if isinstance(x, np.ndarray):
        return None
    if hasattr(x, "__jax_array__"):
        x = x.__jax_array__()
        return x if isinstance(x, jax.Array) else None
    if isinstance(x, (list, tuple)) and any(
        isinstance(leaf, Tracer) for leaf in jax.tree.leaves(x)
    ):
        return jnp.asarray(x)
    return None
