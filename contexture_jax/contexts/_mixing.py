"""Contexts made of contexts: chains of them (theory.md §4.6).

The words are those of operators and of the zoo. Each result is a context like any
other: it holds its parts, asks them, and multiplies no tables but in `table`.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from contexture_jax._core.forms import one_by_one
from contexture_jax._core.numerics import mm
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Float,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._base import (
    CapabilityError,
    Context,
    as_context,
    as_numbers,
)
from contexture_jax.contexts._density import all_log_densities
from contexture_jax.contexts._mixed import (
    DualStep,
    MixedContext,
    to_draw_from,
    turned,
)
from contexture_jax.contexts._parts import (
    ON_ROWS,
    as_parts,
    check_chain,
    check_one_input,
    has_numbers,
    is_numbered,
    law_of_a,
    rows_of,
    size_of,
    sizes_of,
)
from contexture_jax.contexts._sampling import as_batch, row_keys

__all__ = ["Composed", "compose", "convolve", "reverse"]


@pytree_dataclass
class Composed(MixedContext):
    """The chain X → A₁ → A₂ → …: T = T₁ T₂ ….

    P⁺(a_r|x) = Σ P₁(a₁|x) P₂(a₂|a₁) … P_r(a_r|a_{r−1}); P_X of the first and P_A of the
    last are kept. Finite parts have a table and an operator, which is the product of
    theirs and never multiplied out; others have samples.

    Attributes:
        contexts: the laws, first to last.
        is_stationary: whether P_A of each part is P_X of the next: not after `at`,
            which brings a law of its own. Static.
    """

    contexts: tuple[Any, ...]
    is_stationary: bool = static_field(default=True)

    def _gives(self, name: str) -> bool:
        if name == "log_density":
            # The last is a law on rows, of which those before draw one.
            *others, last = self.contexts
            is_on_rows = all(map(is_numbered, others)) and has_numbers(last, 0)
            return bool(is_on_rows) and self._all(name)
        if name == "kernel":
            return self._all("table") and is_numbered(self)
        if name == "at":
            return "at" in self.contexts[0].capabilities
        if name == "reverse":
            return self.is_stationary and self._all("table")
        return name != "spectrum" and self._all(name)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, m): the inputs of the first and the values of the last."""
        sizes = size_of(self.contexts[0]), size_of(self.contexts[-1])
        if sizes[0] is None or sizes[1] is None:
            raise self._lacks("table")
        return sizes[0][0], sizes[1][1]

    def _laws(self, x: Int[Array, " k"]) -> Float[Array, "k m"]:
        return _chained(self.contexts, x)

    def _before(self, x: ArrayLike) -> tuple[Array, Array]:
        """Of the last part: the numbers of its rows, and P(row|x), shape (k, l)."""
        *others, last = self.contexts
        rows = jnp.arange(sizes_of(last)[0], dtype=jnp.int32)
        x = as_numbers(x, "x", sizes_of(self)[0] or 0)
        # One alone is drawn from at x itself.
        law = _chained(others, x) if others else x[:, None] == rows[None, :]
        return rows, law

    def log_density(self, a: Any, x: ArrayLike) -> Array:
        """Log P⁺(a|x): from whole rows of the law, or by the density of the last."""
        if is_numbered(self):
            return super().log_density(a, x)
        self._check_has("log_density")
        rows, law = self._before(x)
        # Each a by all rows that it may come from: log Σ_l P(l|x) P(a|l).
        logs = all_log_densities(self.contexts[-1], a, rows)
        return jax.nn.logsumexp(logs, axis=1, b=law.astype(logs.dtype))

    def log_densities(self, a: Any, x: ArrayLike) -> Float[Array, "m k"]:
        """Log P⁺(a_j|x_i) for all pairs, for fixed j with respect to one measure."""
        if is_numbered(self):
            return super().log_densities(a, x)
        self._check_has("log_density")
        rows, law = self._before(x)
        logs = all_log_densities(self.contexts[-1], a, rows)
        top = jnp.max(logs, axis=1, keepdims=True)
        top = jnp.where(jnp.isfinite(top), top, 0.0)
        # One product for all pairs, of densities over the largest for each a.
        return jnp.log(mm(jnp.exp(logs - top), law.T.astype(logs.dtype))) + top

    def _law_of_a(self) -> Float[Array, " m"]:
        if self.is_stationary:
            return law_of_a(self.contexts[-1])
        return mm(self._law_of_x(), self._laws(jnp.arange(self.shape[0])))

    def sample(self, key: Array, x: ArrayLike, *, row_offset: ArrayLike = 0) -> Any:
        """Draw from each in turn; every row has a key of its own at every step."""
        self._check_has("sample")
        return _walked(self.contexts, key, as_batch(x, "x"), row_offset)

    @property
    def has_recursion(self) -> bool:
        """Whether `recursion` takes it: steps that cannot draw have a kernel."""
        *steps, last = self.contexts
        return (
            is_numbered(self)
            and bool({"sample", "kernel"}.intersection(last.capabilities))
            and all(
                "sample" in step.capabilities
                or (isinstance(step, DualStep) and "kernel" in step.source.capabilities)
                for step in steps
            )
        )

    def recursion(
        self,
        keys: Sequence[Array],
        x: Int[Array, " b"],
        everyone: Int[Array, " n"],
        *,
        row_offset: ArrayLike = 0,
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """Algorithm 1 of the dissertation on one batch of rows (theory.md §7.8).

        Steps that can draw are walked from X. One that cannot gives its dual kernel
        between X and where the walk stands, and the walk starts at X again. Functions
        of X, taken through the kernels one after the other (`losses.kise(kernels=)`),
        are those that what comes last is to tell.

        Args:
            keys: one for the walk, and one for each draw of the last law; without one
                the kernel of the last law between where the walks stand ends the list.
            x: the rows of this process, shape (b,).
            everyone: those of all processes, shape (N,).
            row_offset: where `x` starts among them.

        Returns:
            The kernels, each of shape (b, N), and the draws.
        """
        *steps, last = self.contexts
        met = [i + 1 for i, s in enumerate(steps) if "sample" not in s.capabilities]
        cut = max(met, default=0)
        walk, *of_draws = keys
        kernels, at = [], everyone
        for key, step in zip(row_keys(walk, cut), steps[:cut], strict=True):
            if "sample" in step.capabilities:
                at = step.sample(key, at)
            else:
                kernels.append(step.source.kernel(x, at))
                at = everyone
        # From X on, as far as there is no kernel.
        rest = steps[cut:]
        if not of_draws:
            at = _walked(rest, jax.random.fold_in(walk, cut), everyone, 0)
            own = jax.lax.dynamic_slice(at, (jnp.asarray(row_offset),), x.shape)
            return (*kernels, last.kernel(own, at)), ()
        to_last = [*rest, last]
        draws = [_walked(to_last, key, x, row_offset) for key in of_draws]
        return tuple(kernels), tuple(draws)

    def at(self, x_new: Any) -> Composed:
        """New inputs in the form that the first takes; the parts after it are kept."""
        self._check_has("at")
        first, *others = self.contexts
        return Composed((first.at(x_new), *others), is_stationary=False)

    def reverse(self) -> Composed:
        """The chain of the reversed parts, from the last to the first."""
        self._check_has("reverse")
        return Composed(tuple(turned(part) for part in self.contexts[::-1]))


def _walked(
    contexts: Sequence[Any], key: Array, x: Array, row_offset: ArrayLike
) -> Any:
    """Where a chain leads from x."""
    # A key for each step, and the rows fold their number into it: two contexts alike in
    # a chain draw differently.
    for step, context in zip(row_keys(key, len(contexts)), contexts, strict=True):
        x = context.sample(step, x, row_offset=row_offset)
    return x


def reverse(context: Context) -> Context:
    """The same joint law with X and A in each other's place: T* for T.

    Args:
        context: a finite one, with a `table` between numbers; of one whose kind has no
            reverse of its own the operator is the adjoint, and `sample` and
            `log_density` form the table. Or one with the capability `reverse`, as laws
            `on_rows`.

    Raises:
        CapabilityError: if it is neither: a join, of which no table is made, or a law
            of A at any x.

    Example:
        >>> import contexture_jax as cx
        >>> cx.contexts.reverse(cx.contexts.joint([[1, 2, 0], [0, 3, 4]])).shape
        (3, 2)
    """
    law = as_context(context)
    if "table" in law.capabilities and is_numbered(law):
        return turned(law)
    return as_context(law, needs=("reverse",)).reverse()


@one_by_one
def compose(*contexts: Context | Any) -> Composed:
    """The chain X → A₁ → A₂ → …: T₁ T₂ … (theory.md §4.6).

    The A of each is the X of the next, with one law where both are finite: P_X of the
    first and P_A of the last are those of the chain. It weakens association: s_i is at
    most the least s_i of the parts. Augmentations composed are a chain, too: each draws
    at what the one before drew, as crop then flip.

    Chains that begin with `compose` are one chain: it is associative. For contexts that
    share X and nothing else, `convolve`.

    Args:
        *contexts: all finite, as tables, graphs, neighbours and kernels, or all laws to
            draw from, as augmentations, row by row. Behind finite ones a law to draw
            from is `on_rows` of data.

    Raises:
        TypeError: if there is none, one neither draws row by row nor is finite, or one
            takes numbers where the one before gives arrays.
        ValueError: if the A of one is not the X of the next, or has another law.

    Example:
        >>> import contexture_jax as cx
        >>> walk = cx.contexts.graph([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
        >>> cx.contexts.compose(walk, walk).shape
        (3, 3)
    """
    laws = as_parts(contexts, "compose")
    is_finite = all("table" in law.capabilities for law in laws)
    for place, law in enumerate(laws):
        if not is_finite and ("sample" not in law.capabilities or not _by_row(law)):
            msg = (
                "compose takes contexts that draw row by row, as crop or erasure, or"
                " that are all finite: with `table` or `sample(key, x, *, row_offset)`;"
                f" got {law._kind} at position {place}"
            )
            raise TypeError(msg)
    check_chain(laws)
    is_stationary = all(getattr(law, "is_stationary", True) for law in laws)
    return Composed(tuple(_links(laws)), is_stationary=is_stationary)


@one_by_one
def convolve(*contexts: Context | Any) -> Context:
    """T_{k₁} … T_{k_{r−1}} T_r, T_k = T T*: steps of dual kernels, then the last.

    The convolution of the dissertation, Algorithm 1 (theory.md §4.6): from X by the
    dual kernel of the first to X′, and so on, and from there to A by the last. It is
    defined for any finite contexts with one law of X, which it keeps, and weakens
    association: s_i is at most the s_i of the last and the s_i² of each before it.
    `convolve(a, convolve(b, c))` is `convolve(a, b, c)`.

    Take it where all contexts are too strong; `join` where all are too weak, and
    `convex_combination` between. A law of A at any x takes part `on_rows` of data; its
    step back is the posterior of the row, and the operator is by Monte Carlo.

    Args:
        *contexts: finite or on rows, with one law of X.

    Raises:
        TypeError: if there is none, or one is no context.
        CapabilityError: if one is a law of A at any x, without a table.
        ValueError: if their inputs differ in number or law.

    Example:
        >>> import contexture_jax as cx
        >>> one = cx.contexts.joint([[2, 1], [1, 2]])
        >>> cx.contexts.convolve(one, one).capabilities
        ('sample', 'log_density', 'kernel', 'table', 'at', 'reverse')
    """
    laws = as_parts(contexts, "convolve")
    for place, law in enumerate(laws):
        if sizes_of(law)[0] is None:
            msg = (
                f"{law._lacks('table')}: convolve takes a step back from A to X, by the"
                f" law of X of a finite context; {ON_ROWS}"
            )
            raise CapabilityError(msg)
        if (
            place + 1 < len(laws)
            and size_of(law) is None
            and "log_density" not in law.capabilities
        ):
            msg = (
                f"{law._lacks('log_density')}: convolve takes a step back from A to X"
                " by Bayes' rule, but for the last"
            )
            raise CapabilityError(msg)
    check_one_input(laws, "convolve")
    *first, last = laws
    if not first:
        return last
    steps = [DualStep(law, back=to_draw_from(law)) for law in first]
    # Within a chain after `at` the laws between its parts are still not theirs.
    is_stationary = getattr(last, "is_stationary", True)
    return Composed(tuple(_links((*steps, last))), is_stationary=is_stationary)


def _chained(parts: Sequence[Context], x: Int[Array, " k"]) -> Float[Array, "k m"]:
    """The rows P⁺(·|x) of a chain of finite parts."""
    rows = rows_of(parts[0], x)
    for part in parts[1:]:
        # Row by row from the left: no table of two parts is formed.
        rows = mm(rows, rows_of(part))
    return rows


def _links(laws: tuple[Context, ...]) -> list[Any]:
    """The parts of chains in place of chains."""
    return [
        part
        for law in laws
        for part in (law.contexts if isinstance(law, Composed) else (law,))
    ]


def _by_row(context: Context) -> bool:
    """Whether `sample`, perhaps of a subclass, is told where its rows start."""
    parameters = inspect.signature(context.sample).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return takes_all or "row_offset" in parameters
