"""Heads and layers of attention as contexts, beside what the layers compute."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import contexture_jax as cx
from contexture_jax.diagnostics import attention_heads, attention_rollout, head_profile
from tests.tolerances import promised

RNG = np.random.default_rng(2)
KEY = jax.random.key(2)
TOKENS = RNG.normal(size=(6, 8)).astype(np.float32)
MEMORY = RNG.normal(size=(5, 8)).astype(np.float32)
MASK = np.tril(np.ones((6, 6), bool))
near: Any = {"rtol": 0, "atol": promised(np.float32)}


def layer_of(**options: Any) -> Any:
    return nnx.MultiHeadAttention(4, 8, decode=False, rngs=nnx.Rngs(1), **options)


def read(layer: Any, heads: Any, memory: Any) -> Any:
    """What the layer gives, by the operators of its heads."""
    values = layer.value(memory[None])[0]
    values = jnp.repeat(values, len(heads) // values.shape[1], axis=1)
    out = [
        cx.association_operator(head).matmat(values[:, h])
        for h, head in enumerate(heads)
    ]
    return layer.out(jnp.stack(out, axis=1)[None])[0]


def test_the_read_out_of_a_layer_is_that_of_its_heads():
    layer = layer_of(num_kv_heads=2, normalize_qk=True)
    heads: Any = attention_heads(layer, TOKENS, mask=MASK)
    assert [head.shape for head in heads] == [(6, 6)] * 4
    np.testing.assert_allclose(
        read(layer, heads, TOKENS), layer(TOKENS[None], mask=MASK)[0], **near
    )


@pytest.mark.slow
def test_so_is_that_of_a_layer_that_asks_others():
    layer = layer_of()
    heads = attention_heads(layer, TOKENS, MEMORY)
    np.testing.assert_allclose(
        read(layer, heads, MEMORY), layer(TOKENS[None], MEMORY[None])[0], **near
    )
    own: Any = cx.models.CrossAttentionEncoder(
        cx.models.CrossAttentionConfig(
            in_features=8, context_features=8, out_features=2, width=8, num_heads=2
        ),
        rngs=nnx.Rngs(0),
    )
    attention = own.blocks[0].attention
    of_ours = attention_heads(attention, TOKENS, MEMORY)
    values = attention.value(MEMORY).reshape(5, 2, 4)
    out = [
        cx.association_operator(head).matmat(values[:, h])
        for h, head in enumerate(of_ours)
    ]
    np.testing.assert_allclose(
        attention.out(jnp.concatenate(out, axis=1)),
        attention(jnp.asarray(TOKENS)[None], jnp.asarray(MEMORY)[None])[0],
        **near,
    )


def test_layers_are_a_chain_with_the_law_that_each_leaves():
    tables = RNG.gamma(0.5, size=(2, 2, 6, 6)) + 0.01
    tables /= tables.sum(axis=-1, keepdims=True)
    layers = [[cx.contexts.conditional(one) for one in layer] for layer in tables]
    p_x = np.arange(1, 7) / 21
    flow = attention_rollout(layers, residual=0.3, p_x=p_x)
    first, second = 0.3 * np.eye(6) + 0.7 * tables.mean(axis=1)
    expected = p_x[:, None] * (second @ first)
    np.testing.assert_allclose(flow.table(), expected, **near)
    op = cx.association_operator(flow)
    np.testing.assert_allclose(op.p_a, expected.sum(axis=0), **near)


def test_heads_alike_share_all_their_functions():
    table = RNG.gamma(0.5, size=(6, 6)) + 0.01
    one, other = (cx.contexts.conditional(t) for t in (table, table[:, ::-1]))
    same = cx.contexts.conditional(np.ones((6, 6)) + np.eye(6))
    # A chain knows no energy of its own: two of its values are not all.
    chain = cx.contexts.compose(same, same)
    found = head_profile([one, other, same, chain], 2, key=KEY)
    np.testing.assert_allclose(found.shared[0, 1], 1, **near)
    np.testing.assert_allclose(
        found.singular_values[0], found.singular_values[1], **near
    )
    # I / 7 beside the constant: five values of 1 / 7.
    np.testing.assert_allclose(found.singular_values[2], 1 / 7, **near)
    np.testing.assert_allclose(found.chi_squared[2:], [5 / 49, 5 / 7**4], **near)


def test_bad_input_is_told():
    with pytest.raises(TypeError, match="a Linear has no query, key, num_heads"):
        attention_heads(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), TOKENS)
    none = MASK.copy()
    none[2] = False
    with pytest.raises(ValueError, match="mask lets query 2 see no key"):
        attention_heads(layer_of(), TOKENS, mask=none)
    with pytest.raises(TypeError, match="mask must be boolean"):
        attention_heads(layer_of(), TOKENS, mask=MASK.astype(int))
    wide = cx.contexts.conditional(np.ones((6, 5)))
    with pytest.raises(ValueError, match=r"heads of layers\[0\] must have shape"):
        attention_rollout([[wide]])
    with pytest.raises(ValueError, match="residual must be in"):
        attention_rollout([[cx.contexts.conditional(np.ones((6, 6)))]], residual=2.0)
    with pytest.raises(ValueError, match="at least 1 context"):
        head_profile([], 2, key=KEY)
