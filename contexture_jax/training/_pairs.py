"""Batches of pairs (x, a) ~ P⁺ of a context, each a function of the seed and the step.

So a run can be resumed anywhere, and each process can read its own rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import as_array, check_integer
from contexture_jax._core.types import Array, ArrayLike, short_repr, summary
from contexture_jax.contexts import (
    Context,
    ConvexCombination,
    MixedContext,
    OnRows,
    TupleContext,
    drawable,
)
from contexture_jax.operators import association_operator
from contexture_jax.training._data import Batches, batches

__all__ = ["PairBatch", "PairBatches", "pair_batches", "takes_numbers"]

_EQUAL = 1e-5  # of the largest share: as much as a law in float32 is rounded
_OF_X = 2**31 - 1  # folded into the key of a step for x; draws of a count from 0
# The method of a context that gives a batch.
_METHODS = {
    "draws": "sample",
    "kernel": "kernel",
    "parts": "sample_all",
    "recursion": "recursion",
}


class PairBatch(NamedTuple):
    """A batch of pairs; a pytree with rows in front.

    Attributes:
        x: what an encoder of X sees, shape (b, …).
        a: what one of A sees, for each draw given x, each of shape (b, …); by "parts"
            a tuple of one for each context that is mixed.
        kernel: the dual kernel k(x_i, x_j) of these rows with those of all processes,
            shape (b, batch_size), in place of draws; by "recursion" a tuple of those
            that are met; or None.
    """

    x: Any
    a: tuple[Any, ...]
    kernel: Any = None


@short_repr
@dataclasses.dataclass(frozen=True, eq=False)
class PairBatches:
    """The batches of `pair_batches`, by step; iterate for the endless sequence of them.

    Attributes:
        context: what is paired with what; None for aligned arrays.
        picks: which rows come when: in epochs; the cumulative sums of a law, shape
            (n,); or None where x is drawn anew.
        batch_size: pairs of the whole batch, over all processes.
        seed: of all that is drawn.
        num_draws: how many a are drawn for an x.
        x: what the encoder of X sees of each row; None: its number; or a sampler.
        a: likewise of each value of A; for aligned arrays one for each draw.
        form: "draws", "kernel", "parts" or "recursion": what a batch holds.
        shard: (i, k): this process holds the i-th of k equal parts of each batch.
    """

    context: Any
    picks: Batches | np.ndarray | None
    batch_size: int
    seed: int
    num_draws: int
    x: Any
    a: Any
    form: str
    shard: tuple[int, int]

    @property
    def takes_numbers(self) -> bool:
        """Whether the context draws for row numbers, rather than what rows hold."""
        return self.context is not None and takes_numbers(self.context)

    def rows(self, step: int) -> np.ndarray:
        """Which rows this process holds in the batch of a step, shape (b,)."""
        return self._rows(step, self.shard)

    def at(self, step: int) -> PairBatch:
        """This process's part of the batch of a step."""
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        if self.picks is None:
            # The whole batch in each process, and its share of that: a sampler knows no
            # offsets, and the parts together are to be the batch of one.
            x = self.x(jax.random.fold_in(key, _OF_X), self.batch_size)
            x = jax.tree.map(lambda leaf: leaf[self._own(self.shard)], x)
            return PairBatch(x, self._draws(key, x))
        rows = self.rows(step)
        x = rows.astype(np.int32) if self.x is None else _take(self.x, rows)
        if self.context is None:
            return PairBatch(x, tuple(_take(a, rows) for a in self.a))
        if self.form in ("kernel", "recursion"):
            # (b, batch_size): this process's rows against those of all, as `kise` takes
            # it.
            both = rows, self._rows(step, (0, 1))
            numbers = [jnp.asarray(r.astype(np.int32)) for r in both]
            if self.form == "kernel":
                by_number = self.x is None or self.takes_numbers
                given = numbers if by_number else [_on_device(self.x, r) for r in both]
                return PairBatch(x, (), np.asarray(self._program(*given)))
            keys = [jax.random.fold_in(key, i) for i in (_OF_X, *range(self.num_draws))]
            kernels, drawn = self._program(keys, *numbers, **self._offset())
            return PairBatch(x, self._seen(drawn), kernels)
        # What an encoder sees of a row and what the context draws for may differ.
        given = rows.astype(np.int32) if self.takes_numbers else x
        return PairBatch(x, self._draws(key, given))

    def from_step(self, step: int) -> Iterator[PairBatch]:
        """The batches of the steps `step`, `step + 1`, … without end."""
        while True:
            yield self.at(step)
            step += 1

    def __iter__(self) -> Iterator[PairBatch]:
        return self.from_step(0)

    @functools.cached_property
    def _program(self) -> Callable[..., Any]:
        # Of these batches, as long as they live: one of the module would keep what is
        # static in a context, as a function of the caller's.
        return _compiled(self.context, _METHODS[self.form])

    def _own(self, shard: tuple[int, int]) -> slice:
        share = self.batch_size // shard[1]
        return slice(shard[0] * share, (shard[0] + 1) * share)

    def _rows(self, step: int, shard: tuple[int, int]) -> np.ndarray:
        if isinstance(self.picks, Batches):
            # Which rows come does not depend on the number of processes; the shard only
            # cuts.
            return dataclasses.replace(self.picks, shard=shard).at(step)
        # The whole batch in every process, for the same reason.
        rng = np.random.default_rng((self.seed, step))
        uniform = rng.random(self.batch_size)[self._own(shard)]
        # The inverse of the law's cumulative sums. "right": a row of probability 0 adds
        # nothing to them, and is never found.
        return np.searchsorted(self.picks, uniform, side="right")  # pyright: ignore

    def draw(self, key: Array, x: Any) -> Any:
        """One draw of A for each x that the context takes, as an encoder sees it."""
        return self._seen((self._program(key, jax.tree.map(jnp.asarray, x)),))[0]

    def _offset(self) -> dict[str, int]:
        # Where one process holds all rows, contexts need not know of offsets.
        return {"row_offset": self._own(self.shard).start} if self.shard[1] > 1 else {}

    def _draws(self, key: Array, x: Any) -> tuple[Any, ...]:
        x = jax.tree.map(jnp.asarray, x)
        # One key a draw; rows fold their number in themselves (theory.md §4.7).
        keys = [jax.random.fold_in(key, draw) for draw in range(self.num_draws)]
        return self._seen(tuple(self._program(k, x, **self._offset()) for k in keys))

    def _seen(self, drawn: tuple[Any, ...]) -> tuple[Any, ...]:
        """What an encoder sees of draws."""
        if self.a is None:
            return drawn
        if self.form == "parts" or isinstance(self.context, TupleContext):
            return tuple(
                tuple(_looked_up(t, a) for t, a in zip(self.a, values, strict=True))
                for values in drawn
            )
        return tuple(_looked_up(self.a, a) for a in drawn)


def pair_batches(
    context: Context | Any,
    batch_size: int,
    *,
    seed: int,
    x: Any = None,
    a: Any = None,
    num_draws: int = 1,
    weights: ArrayLike | None = None,
    kernel: bool = False,
    parts: bool = False,
    recursion: bool = False,
    shard: tuple[int, int] = (0, 1),
) -> PairBatches:
    """Batches of pairs (x, a) ~ P⁺, endless and random access, for `fit`.

    What is paired depends on the context:

    - X and A are numbers (`joint`, `pairs`, `labels`, `graph`, `knn`, `rbf`, …): rows
      are drawn from P_X, and a given the row; `x` and `a` are tables of what encoders
      see of each, None for the numbers themselves.
    - A is drawn for any x (`gaussian_noise`, `crop`, `scarf`, the zoo, …): `x` holds
      inputs, shape (n, …), or is a sampler `x(key, batch_size)` of new ones.
    - A table alone, as an object of one's own may have: its numbers, as `joint`.
    - None: row i of `x` goes with row i of `a`: two modalities, or the states
      `s[:-1]` and `s[1:]` of a time series. A list of arrays is several draws of a.

    Rows that are equally likely come in epochs, each in an order of its own. The batch
    of a step depends on `seed` and the step alone, whatever came before; in several
    processes, the parts together are the batch of one.

    Args:
        context: the law of the pairs, any object with methods of one, or None.
        batch_size: pairs of a batch, over all processes.
        seed: of all that is drawn.
        x: see above.
        a: see above. Of a mixture by `parts`, and of a `join`, a tuple of a table for
            each context, None for what it draws itself.
        num_draws: how many a are drawn for an x, independently given it; 0 by
            `recursion`: the kernel of the last context in their place.
        weights: probabilities of the rows, shape (n,), up to a scale; None: P_X of a
            context between numbers, uniform for others.
        kernel: give the dual kernel between the rows of a batch in place of draws: that
            of their numbers, or of the rows of `x` for a context that takes any x. One
            of `kernel`, `parts` and `recursion` at most.
        parts: of a `convex_combination`, give an a of every context for the same x in
            each draw, in place of that of one context at random.
        recursion: of a `convolve` whose steps need not draw, give what its `recursion`
            gives: kernels between the rows of a batch, and draws of the last context.
        shard: (i, k): hold the i-th of k equal parts of each batch only, for k
            processes: (jax.process_index(), jax.process_count()).

    Raises:
        CapabilityError: if the context cannot sample, or has no kernel to give.
        TypeError: if `x` holds no rows, or `context` is none.
        ValueError: if sizes do not fit, or an argument plays no part.

    Example:
        >>> import contexture_jax as cx
        >>> context = cx.contexts.labels([0, 1, 2])
        >>> pairs = cx.training.pair_batches(context, 4, seed=0, num_draws=2)
        >>> batch = pairs.at(7)
        >>> bool((batch.x == batch.a[1]).all())
        True
    """
    size = check_integer(batch_size, "batch_size", low=1)
    seed = check_integer(seed, "seed", low=0)
    form = _form(kernel=kernel, parts=parts, recursion=recursion)
    draws = check_integer(num_draws, "num_draws", low=0 if recursion else 1)
    count = check_integer(shard[1], "shard[1]", low=1)
    shard = (check_integer(shard[0], "shard[0]", low=0, high=count - 1), count)
    if size % count:
        msg = f"batch_size must be a multiple of the {count} shards; got {size}"
        raise ValueError(msg)
    # An argument without effect is a mistake of the caller's.
    if kernel and (a is not None or draws > 1 or context is None):
        msg = (
            "kernel=True takes a context, and neither a nor num_draws: nothing is drawn"
        )
        raise ValueError(msg)
    if context is None:
        # `num_draws` may be left at 1 and is then that of `a`.
        x, a, draws = *_aligned(x, a), max(draws, _count(a))
        if draws != len(a):
            msg = f"num_draws must be that of a, {len(a)}; got {draws}"
            raise ValueError(msg)
    else:
        needs = {"kernel": ("kernel",), "recursion": ()}.get(form, ("sample",))
        context = drawable(context, needs=needs)
        if parts and not isinstance(context, ConvexCombination):
            msg = f"parts=True takes a convex_combination; got a {context._kind}"
            raise TypeError(msg)
    # New inputs at every step: there are no rows to number, weigh or compare.
    if callable(x):
        if context is None or takes_numbers(context) or kernel or weights is not None:
            msg = "a sampler x goes with a context that draws for any x, no weights"
            raise ValueError(msg)
        return PairBatches(context, None, size, seed, draws, x, a, form, shard)
    x = None if x is None else jax.tree.map(np.asarray, x)
    picks = _picks(context, x, weights, size, seed)
    return PairBatches(context, picks, size, seed, draws, x, a, form, shard)


def _form(**asked: bool) -> str:
    """What a batch is to hold, of what is asked for in place of draws."""
    found = [name for name, is_asked in asked.items() if is_asked]
    if len(found) > 1:
        msg = (
            "a batch holds one of kernel, parts and recursion in place of draws; got"
            f" {' and '.join(f'{name}=True' for name in found)}"
        )
        raise ValueError(msg)
    return found[0] if found else "draws"


def takes_numbers(context: Context) -> bool:
    """Whether a context draws for row numbers, rather than for what rows hold."""
    if isinstance(context, MixedContext):
        return all(map(takes_numbers, context.contexts))
    if isinstance(context, OnRows):
        return True
    capabilities = context.capabilities
    # A context that has inputs of its own draws for those, although it has a table.
    return "table" in capabilities and "inputs" not in capabilities


def _aligned(x: Any, a: Any) -> tuple[Any, list[Any]]:
    if x is None or a is None or callable(x):
        msg = "without a context x and a must be aligned arrays; got " + (
            "no x" if x is None else "no a" if a is None else "a sampler"
        )
        raise ValueError(msg)
    many = list(a) if isinstance(a, (list, tuple)) else [a]
    many = [jax.tree.map(np.asarray, one) for one in many]
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves((x, many))}
    if len(counts) != 1:
        msg = f"x and a must have the same number of rows; got {sorted(counts)}"
        raise ValueError(msg)
    return x, many


def _count(a: Any) -> int:
    return len(a) if isinstance(a, (list, tuple)) else 1


def _picks(
    context: Any, x: Any, weights: ArrayLike | None, size: int, seed: int
) -> Batches | np.ndarray:
    """Which rows come when: in epochs, which vary less than draws, if all are alike."""
    if context is not None and takes_numbers(context) and weights is None:
        # X of what is made of contexts is that of the first, which has an operator
        # where the whole may have none, or a large one.
        while isinstance(context, MixedContext):
            context = context.contexts[0]
        p_x = getattr(context, "p_x", None)
        if isinstance(context, OnRows):
            p_x = np.full(len(context.x), 1.0)
        # As the degree law of a graph, which no constructor is given.
        weights = association_operator(context).p_x if p_x is None else p_x
    counts = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(x)}
    if weights is None and (len(counts) != 1 or counts == {()}):
        msg = (
            f"x must hold inputs, one a row, or be a sampler of them; got {summary(x)}"
        )
        raise TypeError(msg)
    # No law at all: uniform on what `x` holds.
    if weights is None:
        return batches(np.arange(counts.pop()[0]), size, seed=seed)
    weights = as_array(weights, "weights")
    if counts - {weights.shape}:
        msg = f"x must have one row for each of weights, {len(weights)}; got {counts}"
        raise ValueError(msg)
    total = weights.sum(dtype=np.float64)
    if not (total > 0 and (weights >= 0).all()):
        msg = "weights must hold probabilities, non-negative and not all 0"
        raise ValueError(msg)
    # Rows that have no probability do not come, equal or not.
    present = np.flatnonzero(weights)
    if np.ptp(weights[present]) <= _EQUAL * weights.max():
        return batches(present, size, seed=seed)
    # By its own last entry: `total`, summed in another order, may leave it below 1, and
    # a draw above it would be no row.
    up_to = np.cumsum(weights, dtype=np.float64)
    return up_to / up_to[-1]


def _looked_up(table: Any, a: Any) -> Any:
    """Rows of a table for numbers; None: what is drawn is seen as it is."""
    return a if table is None else _take(table, np.asarray(a))


def _take(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(lambda leaf: np.take(leaf, rows, axis=0), tree)


def _on_device(tree: Any, rows: np.ndarray) -> Any:
    return jax.tree.map(jnp.asarray, _take(tree, rows))


def _compiled(context: Any, name: str) -> Callable[..., Any]:
    """A method of a context as one program, if the context is a pytree."""
    method = getattr(context, name)
    # What an object that is no Context was adopted from has the leaves.
    owner = getattr(method, "__self__", context)
    if jax.tree_util.all_leaves([owner]):
        # A class of the user's own may be no pytree, and is called as it is.
        return method
    leaves, tree = jax.tree.flatten(owner)

    def call(leaves: Any, *given: Any, **offset: Any) -> Any:
        return getattr(jax.tree.unflatten(tree, leaves), name)(*given, **offset)

    return functools.partial(jax.jit(call), leaves)
