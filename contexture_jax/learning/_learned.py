"""What learning a context gives: functions in order, at given and at new rows."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_device_array, check_values
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import Array, ArrayLike, Float, short_repr
from contexture_jax.evaluation import Interval, RayleighRitz
from contexture_jax.learning._file import Part, check_savable, read, write
from contexture_jax.learning._towers import Tower
from contexture_jax.operators import conditional_expectation

__all__ = ["Functions", "Learned", "check_run", "load", "mean_of_draws"]

# The error of a mean falls with the root: an eighth of the spread of a draw.
_NUM_DRAWS = 64


@short_repr
@dataclasses.dataclass(frozen=True, eq=False)
class Functions:
    """How functions of X are read from what was trained.

    Attributes:
        source: "phi": (Φ(x) − mean) @ rotation; "psi": the expectation of (Ψ(A) −
            mean) @ rotation given x.
        tower: Φ, or Ψ.
        mean: shape (d,).
        rotation: shape (d, r).
        context: the law of A given x, for "psi".
        values: (Ψ(a) − mean) @ rotation at the values of A, shape (m, r); None where A
            is drawn for any x: then the mean of draws stands for the expectation.
        parts: of a mixture of contexts (w_j, functions of T_j Ψ_j), whose sum they are;
            `tower` is then that of all.
    """

    source: str
    tower: Tower
    mean: np.ndarray
    rotation: np.ndarray
    context: Any = None
    values: np.ndarray | None = None
    parts: tuple[tuple[float, Functions], ...] = ()

    def __call__(self, x: Any) -> Array:
        """The functions at some x, shape (k, r); traceable where the context is."""
        if self.parts:
            given = x if isinstance(x, tuple) else (x,) * len(self.parts)
            terms = zip(self.parts, given, strict=True)
            return sum(weight * part(one) for (weight, part), one in terms)  # pyright: ignore
        if self.source == "phi":
            return self._compiled(self._checked(x))
        if self.values is not None:
            # The law at x is known, and summed over.
            return conditional_expectation(self.context.at(x), self.values)
        return self._compiled(as_device_array(x, "x_new"))

    # Kept: a new `jit` at every call would compile at every call.
    @functools.cached_property
    def _compiled(self) -> Any:
        def at(x: Any) -> Array:
            if self.source == "phi":
                embedding = self.tower.apply(self.tower.params, x)
            else:
                embed = functools.partial(self.tower.apply, self.tower.params)
                embedding = mean_of_draws(self.context, x, embed)
            mean, rotation = jnp.asarray(self.mean), jnp.asarray(self.rotation)
            # An encoder of the caller's own may embed in another dtype.
            return mm(embedding.astype(mean.dtype) - mean[None, :], rotation)

        return jax.jit(at)

    def _checked(self, x: Any) -> Any:
        made_of = self.tower.made_of
        # What the caller's own encoder takes, only it knows.
        if made_of is None:
            return x
        x = as_device_array(x, "x_new")
        if made_of["kind"] == "table":
            size = made_of["size"]
            if x.ndim != 1 or not jnp.issubdtype(x.dtype, jnp.integer):
                msg = (
                    "x_new must hold row numbers, shape (k,), as what was learned has"
                    f" no features; got {x.dtype} of shape {x.shape}"
                )
                raise TypeError(msg)
            within = f"between 0 and {size - 1}"
            # Indexing clamps what is out of range, and would answer with the last
            # row's.
            check_values(x, "x_new", lambda v: (v >= 0) & (v < size), within)
            return x
        columns = made_of["columns"]
        if x.shape[1:] not in ((columns,), () if columns == 1 else (columns,)):
            msg = (
                f"x_new must hold the {columns} features of what was learned, shape (k,"
                f" {columns}); got shape {x.shape}"
            )
            raise ValueError(msg)
        check_values(x, "x_new", np.isfinite, "finite")
        return x.astype(made_of["dtype"])


@short_repr
@dataclasses.dataclass(frozen=True, eq=False)
class Learned:
    """What `learn` found.

    Attributes:
        singular_values: of the functions, descending, shape (r,): Ritz values, at most
            those of the law, where there is an operator; else estimates from pairs that
            were not trained on, but to which Ritz values are fitted: optimistic, the
            more the wider the encoder and the fewer the pairs. `held_out` is not.
        left: the functions at the rows of the operator, or at the rows held out, of
            mean 0, variance 1 and uncorrelated under their law, shape (n, r).
        functions: the same at any x.
        towers: the encoders: "phi" of X, "psi" of A, or one of them.
        ritz: what each of them holds, "psi" by its average T Ψ; `functions` are of one.
        held_out: intervals from one half of the pairs for functions of the other; None
            with an operator.
        rows: which rows of x were held out, shape (n,); None with an operator.
        status: how the run ended, as `FitResult`.
        message: more words on that.
        num_steps: steps done.
        history: the rows of the log as columns.
        weights: of the contexts of a `convex_combination`, shape (j,); None without,
            and after `load`.
        preprocessing: what `save` was given, after `load`. Of a model of `contexture
            train` its "columns" are what `cx.data.as_encodings` makes encodings of, by
            which `cx.data.load_like` reads new rows.
    """

    singular_values: np.ndarray
    left: np.ndarray
    functions: Functions
    towers: dict[str, Tower] = dataclasses.field(default_factory=dict)
    ritz: dict[str, RayleighRitz] = dataclasses.field(default_factory=dict)
    held_out: Interval | None = None
    rows: np.ndarray | None = None
    status: str = "finished"
    message: str = ""
    num_steps: int = 0
    history: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    weights: np.ndarray | None = None
    preprocessing: Any = None

    def transform(self, x_new: ArrayLike) -> Float[Array, "k r"]:
        """The functions at new inputs.

        May be traced, and exported with any number of rows, by `jax.export`, whose
        `serialize` takes the package `flatbuffers`.

        Args:
            x_new: of Φ: what it was trained on, features of shape (k, d) or row numbers
                of shape (k,). Of the average T Ψ: what `at` of the context takes, or
                inputs to draw A for; the mean of 64 draws, which are the same each
                time, has an error of about an eighth of the spread of Ψ(A). Of a
                mixture what all of its contexts take, or a tuple of one for each.

        Raises:
            CapabilityError: if the context of T Ψ has no law at new inputs.
            TypeError: if features came where row numbers were meant.
            ValueError: if the shape does not fit, or a feature is not finite.
        """
        return self.functions(x_new)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What it can do: "transform", and "save" unless that would refuse."""
        try:
            check_savable(_saved(self.functions))
        except TypeError:
            return ("transform",)
        return "transform", "save"

    def save(self, path: str | Path, *, preprocessing: Any = None) -> None:
        """Write what `transform` needs to one file, which `load` reads anywhere.

        An .npz of arrays with a header of JSON, whatever the suffix; nothing is
        pickled. Towers and history are not in it. Functions that are averages T Ψ
        (`functions.source` is "psi") need the law of A at new inputs: their file holds
        the context with its data, as the points of `knn` or `rbf`: whoever has the file
        has the rows. That of Φ holds an encoder and no rows.

        So functions of Φ ("svme", "vamp" and other losses that train an encoder of X)
        are saved for any context, and averages T Ψ ("kise", the default, and others
        that train none) for contexts of `cx.contexts` and `cx.zoo`. Encoders are
        `Encoder`s in both. `capabilities` tells which is the case, and
        `learn(savable=True)` before anything is trained.

        Args:
            path: the file, replaced if it is there.
            preprocessing: what JSON can hold, for whoever makes features of new data.

        Raises:
            TypeError: if an encoder or the context of T Ψ is of the caller's own
                making, of which no file can tell: learn by another loss, or export
                `transform` by `jax.export`.
            OSError: if it cannot be written.
        """
        functions = self.functions
        header = {
            "source": functions.source,
            "status": str(self.status),
            "message": self.message,
            "num_steps": self.num_steps,
            "preprocessing": preprocessing,
            # A mixture needs no encoder and no context but those of its parts.
            "weights": [weight for weight, _ in functions.parts],
        }
        arrays = {
            "singular_values": self.singular_values,
            "left": self.left,
            "mean": functions.mean,
            "rotation": functions.rotation,
        }
        write(path, header, arrays, _saved(functions))


def _saved(functions: Functions) -> list[Part]:
    held = [part for _, part in functions.parts] or [functions]
    return [(part.tower, part.context, part.values) for part in held]


def check_run(source: str, tower: Tower, context: Any, *, is_summed: bool) -> None:
    """Raise unless `save` could write what a run will give.

    Args:
        source: as of `Functions`.
        tower: Φ, or Ψ.
        context: of averages T Ψ.
        is_summed: whether these are sums over values of A.
    """
    is_phi = source == "phi"
    has_values = is_summed and not is_phi
    values = np.zeros(0) if has_values else None
    check_savable([(tower, None if is_phi else context, values)])


def load(path: str | Path) -> Learned:
    """What `Learned.save` wrote.

    Args:
        path: the file.

    Returns:
        A `Learned` with the same functions, and without towers and history.

    Raises:
        ValueError: if it is no such file, is damaged, or is of a newer version.
        OSError: if it cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> import contexture_jax as cx
        >>> x = np.random.default_rng(0).normal(size=(40, 2)).astype("float32")
        >>> learned = cx.learning.learn(
        ...     cx.contexts.knn(x, 5), x, rank=2, num_steps=2, batch_size=32, seed=0
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "model.npz"
        ...     learned.save(path)
        ...     again = cx.learning.load(path)
        >>> bool((again.transform(x[:3]) == learned.transform(x[:3])).all())
        True
    """
    header, arrays, held = read(path)
    shared = header["source"], arrays["mean"], arrays["rotation"]
    found = [
        Functions(shared[0], tower, *shared[1:], context, values)
        for tower, context, values in held
    ]
    functions = found[0]
    if weights := header.get("weights"):
        parts = tuple(zip(weights, found, strict=True))
        functions = Functions(shared[0], found[0].tower, *shared[1:], parts=parts)
    return Learned(
        arrays["singular_values"],
        arrays["left"],
        functions,
        status=header["status"],
        message=header["message"],
        num_steps=header["num_steps"],
        preprocessing=header["preprocessing"],
    )


def mean_of_draws(context: Any, x: Any, embed: Any) -> Array:
    """The mean of Ψ(a) over draws of A given x, the same in each call, shape (k, d)."""
    if "at" in context.capabilities:
        # A law of numbered rows: these take the place of its own.
        context, x = context.at(x), jnp.arange(len(x), dtype=jnp.int32)

    def add(total: Array, key: Array) -> tuple[Array, None]:
        return total + embed(context.sample(key, x)), None

    # One after the other: all at once would take 64 times the room.
    keys = jax.random.split(jax.random.key(0), _NUM_DRAWS)
    first = embed(context.sample(keys[0], x))
    return jax.lax.scan(add, first, keys[1:])[0] / _NUM_DRAWS
