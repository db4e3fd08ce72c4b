"""Contexts of token sequences: masked tokens, the next token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from contexture_jax._core.checks import (
    as_array,
    check_concrete,
    check_integer,
    check_ndim,
)
from contexture_jax._core.types import (
    Array,
    ArrayLike,
    Int,
    pytree_dataclass,
    static_field,
)
from contexture_jax.contexts._numbered import NumberedContext, lower_bound, shares_of
from contexture_jax.contexts._paired import Groups, make_groups
from contexture_jax.contexts._pairs import pairs
from contexture_jax.contexts._sampling import (
    SamplingContext,
    as_batch,
    check_rate,
    rate_like,
)
from contexture_jax.contexts._sparse_joint import SparseJoint

__all__ = ["MaskedTokens", "NextToken", "masked_tokens", "next_token"]


@pytree_dataclass
class MaskedTokens(SamplingContext):
    """Tokens chosen independently are hidden, replaced or kept (Devlin et al. 2019).

    `log_density` is with respect to counting measure.

    Attributes:
        rate: probability that a token is chosen, shape ().
        mask_token: what a hidden token becomes. Static.
        vocabulary_size: replacements are uniform on 0, …, vocabulary_size − 1. Static.
        random_share: share of the chosen that is replaced. Static.
        keep_share: share of the chosen that stays, unseen. Static.
        padding: a token that is never chosen; None: there is none. Static.
    """

    rate: float | Array
    mask_token: int = static_field()
    vocabulary_size: int = static_field()
    random_share: float = static_field()
    keep_share: float = static_field()
    padding: int | None = static_field(default=None)

    def _inputs(self, x: ArrayLike, name: str) -> Array:
        tokens = as_batch(x, name)
        check_ndim(tokens, 2, name)
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            msg = f"{name} must hold integer tokens; got dtype {tokens.dtype}"
            raise TypeError(msg)
        return tokens

    def _rates(self, x: Array) -> Array:
        """Probability of being chosen, token by token."""
        rate = rate_like(self.rate, x)
        if self.padding is None:
            return rate
        # Padding is no token of the text: neither hidden nor counted.
        return jnp.where(x == self.padding, jnp.zeros_like(rate), rate)

    def _draw(self, key: Array, x: Array) -> Array:
        key_which, key_action, key_token = jax.random.split(key, 3)
        chosen = jax.random.bernoulli(key_which, self._rates(x))
        action = jax.random.uniform(key_action, x.shape)
        # Drawn for every place and used at some: shapes do not depend on what is
        # chosen.
        token = jax.random.randint(key_token, x.shape, 0, self.vocabulary_size, x.dtype)
        hidden = jnp.asarray(self.mask_token, x.dtype)
        # [0, random) replaced, [1 − keep, 1) kept, hidden between: one uniform number
        # decides.
        changed = jnp.where(action < self.random_share, token, hidden)
        changed = jnp.where(action >= 1 - self.keep_share, x, changed)
        return jnp.where(chosen, changed, x)

    def _log_density(self, a: Array, x: Array) -> Array:
        rate = self._rates(x)
        zero = jnp.zeros_like(rate)
        # A replacement may be the token itself, so that the three cases overlap;
        # probabilities add.
        share = self.random_share / self.vocabulary_size
        is_token = (a >= 0) & (a < self.vocabulary_size)
        hidden = 1 - self.random_share - self.keep_share
        # Not chosen, or chosen and left.
        kept = jnp.where(a == x, 1 - rate + rate * self.keep_share, zero)
        masked = jnp.where(a == self.mask_token, rate * hidden, zero)
        return jnp.log(kept + masked + jnp.where(is_token, rate * share, zero)).sum()


def masked_tokens(
    rate: ArrayLike = 0.15,
    *,
    mask_token: int,
    vocabulary_size: int,
    random_share: float | int = 0.0,
    keep_share: float | int = 0.0,
    padding: int | None = None,
) -> MaskedTokens:
    """X is a sequence of tokens, A the sequence with some of them hidden.

    Args:
        rate: probability that a token is chosen.
        mask_token: what a hidden token becomes; one outside the vocabulary makes the
            mask visible, as in `erasure`.
        vocabulary_size: number of tokens that a replacement is drawn from.
        random_share: share of the chosen tokens that is replaced by a uniform one.
            Devlin et al. take 0.1.
        keep_share: share of the chosen that stays; 0.1 there.
        padding: a token that is left alone.

    Raises:
        ValueError: if shares are not in [0, 1] or exceed 1 together.
    """
    checked = check_rate(rate)
    shares = [
        check_rate(value, name)
        for value, name in (
            (random_share, "random_share"),
            (keep_share, "keep_share"),
        )
    ]
    if jnp.ndim(checked):
        msg = f"rate must be one number; got shape {jnp.shape(checked)}"
        raise ValueError(msg)
    # The rest is hidden, and cannot be negative.
    if sum(shares) > 1:
        msg = f"random_share + keep_share must be at most 1; got {sum(shares)}"
        raise ValueError(msg)
    return MaskedTokens(
        checked,
        int(mask_token),
        check_integer(vocabulary_size, "vocabulary_size", low=1),
        float(random_share),
        float(keep_share),
        padding,
    )


@pytree_dataclass
class NextToken(NumberedContext):
    """X is a window of a text, A the token that follows a window like it.

    Windows are numbered by where they start. P⁺(a|x) is the share of a among what
    follows the windows of the text that equal window x.

    Attributes:
        groups: windows that are equal, each group sorted by what follows.
        followers: what follows each window, in the order of `groups.order`, shape (n,).
        windows: the distinct ones, a row a group, shape (g, length).
        vocabulary_size: m. Static.
    """

    groups: Groups
    followers: Int[Array, " n"]
    windows: Int[Array, "g length"]
    vocabulary_size: int = static_field()

    @property
    def shape(self) -> tuple[int, int]:
        """(number of windows, vocabulary_size)."""
        return self.followers.shape[0], self.vocabulary_size

    def _draw(self, key: Array, x: Array) -> Array:
        group = self.groups.group[x]
        which = jax.random.randint(key, (), 0, self.groups.counts[group], jnp.int32)
        # A uniform one of the windows like x: its follower has the law of shares.
        return self.followers[self.groups.starts[group] + which]

    def _log_density(self, a: Array, x: Array) -> Array:
        group = self.groups.group[x]
        start, count = self.groups.starts[group], self.groups.counts[group]
        # Followers are sorted within a group: those equal to a are a run, found by two
        # searches.
        first = lower_bound(self.followers, start, start + count, a)
        last = lower_bound(self.followers, start, start + count, a + 1)
        dtype = jnp.zeros(()).dtype
        return jnp.log((last - first).astype(dtype) / count.astype(dtype))

    def _law_of_a(self) -> Array:
        return shares_of(self.followers, self.vocabulary_size)

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.windows.shape[1]

    def at(self, x_new: ArrayLike) -> SparseJoint:
        """New windows that the text holds somewhere, shape (k, length)."""
        check_concrete((self.windows, x_new), "x_new, with the text,")
        known = np.asarray(self.windows)
        new = _tokens(x_new, "x_new", ndim=2).astype(np.int64)
        if new.shape[1] != self.length:
            msg = f"x_new must have shape (k, {self.length}); got shape {new.shape}"
            raise ValueError(msg)
        # Known windows first: what equals one of them falls into its group.
        _, group = np.unique(np.concatenate([known, new]), axis=0, return_inverse=True)
        # Of known windows, which are distinct, each has a group of its own.
        row = np.full(group.max() + 1, -1)
        row[group.reshape(-1)[: len(known)]] = np.arange(len(known))
        found = row[group.reshape(-1)[len(known) :]]
        if (found < 0).any():
            which = new[np.argmin(found)].tolist()
            msg = (
                f"x_new must hold windows of the text; {which} is not in it, so what"
                " follows it is not known"
            )
            raise ValueError(msg)
        return self.joint().at(found)

    def joint(self) -> SparseJoint:
        """The law of distinct windows, in the order of their tokens, and followers."""
        # In the order of `followers`.
        group = np.asarray(self.groups.group)[np.asarray(self.groups.order)]
        shape = (len(self.groups.counts), self.vocabulary_size)
        return pairs(group, np.asarray(self.followers), shape=shape)


def next_token(
    tokens: ArrayLike, length: int, *, vocabulary_size: int | None = None
) -> NextToken:
    """X is a window of `length` tokens of a text, A the token after it.

    `tokens[row : row + length]` is the window that row number `row` stands for.
    `.joint()` is the same law with equal windows as one row, stored sparse.

    Args:
        tokens: the text, shape (N,), non-negative integers, N > length.
        length: tokens of a window, at least 1.
        vocabulary_size: m; None: one more than the largest token.

    Raises:
        TypeError: if tokens are not integers.
        ValueError: if there is no window, or a token is outside the vocabulary.

    Example:
        >>> import contexture_jax as cx
        >>> context = cx.contexts.next_token([0, 1, 0, 2, 0, 1], 1)
        >>> context.shape, context.joint().table().shape
        ((5, 3), (3, 3))
    """
    check_concrete(tokens, "tokens")
    text = _tokens(tokens, "tokens", ndim=1)
    length = check_integer(length, "length", low=1)
    if text.size <= length:
        msg = f"tokens must be more than length, {length}; got {text.size}"
        raise ValueError(msg)
    size = int(text.max()) + 1 if vocabulary_size is None else vocabulary_size
    if text.min() < 0 or text.max() >= size:
        msg = (
            f"tokens must be between 0 and {size - 1}; got {text.min()} to {text.max()}"
        )
        raise ValueError(msg)
    # Views, not copies: N windows of the text take no memory of their own. The last one
    # has no follower.
    windows = np.lib.stride_tricks.sliding_window_view(text, length)[:-1]
    distinct, group = np.unique(windows, axis=0, return_inverse=True)
    followers = text[length:]
    groups = make_groups(group.reshape(-1), within=followers)
    ordered = jnp.asarray(followers[np.asarray(groups.order)], jnp.int32)
    return NextToken(groups, ordered, jnp.asarray(distinct, jnp.int32), size)


def _tokens(values: ArrayLike, name: str, *, ndim: int) -> np.ndarray:
    tokens = as_array(values, name)
    check_ndim(tokens, ndim, name)
    if tokens.dtype.kind not in "iu":
        msg = f"{name} must hold integers; got dtype {tokens.dtype}"
        raise TypeError(msg)
    return tokens
