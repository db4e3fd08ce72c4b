"""What is special about each family: order, padding, causality, graphs, categories."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.experimental import sparse

from contexture_jax import models
from contexture_jax.models._blocks import check_sizes
from contexture_jax.models._convolutional import _pool
from tests.tolerances import tol

SMALL: Any = {"out_features": 6, "width": 8, "num_heads": 2}
EXACT = tol(np.float32, factor=20)


def built(module):
    params, apply = models.functional(module)
    return params, jax.jit(apply)


def text(**fields):
    config = models.TextTransformerConfig(
        vocabulary_size=11, max_length=6, **{**SMALL, "depth": 1, **fields}
    )
    return built(models.TextTransformer(config, rngs=nnx.Rngs(0)))


@pytest.mark.slow
def test_text_without_positions_does_not_depend_on_the_order_of_tokens():
    params, apply = text(use_positions=False)
    x = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
    shuffled = x[:, jnp.array([2, 0, 4, 1, 3])]
    np.testing.assert_allclose(apply(params, x), apply(params, shuffled), atol=EXACT)
    params, apply = text()
    assert abs(apply(params, x) - apply(params, shuffled)).max() > 1e-3


@pytest.mark.slow
def test_causal_tokens_see_only_what_comes_before():
    # With h(t|S) the last layer of token t that sees S, the causal mean of (t, u) has
    # h(t|t) + h(u|tu), and the mean of all has h(t|tu) + h(u|tu).
    params, causal = text(use_positions=False, causal=True)
    _, full = text(use_positions=False)
    t, u = jnp.array([[3]]), jnp.array([[7]])
    tu, ut = jnp.concatenate([t, u], axis=1), jnp.concatenate([u, t], axis=1)
    left = 2 * causal(params, tu) + 2 * causal(params, ut)
    right = 2 * full(params, tu) + causal(params, t) + causal(params, u)
    np.testing.assert_allclose(left, right, atol=EXACT)
    assert abs(causal(params, tu) - full(params, tu)).max() > 1e-4


@pytest.mark.slow
def test_padding_changes_nothing():
    params, apply = text(padding=0)
    x = jnp.array([[3, 1, 4]])
    padded = jnp.array([[3, 1, 4, 0, 0]])
    np.testing.assert_allclose(apply(params, x), apply(params, padded), atol=EXACT)
    assert np.isfinite(apply(params, jnp.zeros((1, 3), jnp.int32))).all()


def test_causal_and_padded_at_once_is_causal():
    params, causal = text(causal=True)
    _, both = text(causal=True, padding=0)
    x, padded = jnp.array([[3, 1, 4]]), jnp.array([[3, 1, 4, 0, 0]])
    np.testing.assert_allclose(both(params, padded), causal(params, x), atol=EXACT)


@pytest.mark.slow
def test_without_positions_patches_of_an_image_have_no_order():
    config = models.VisionTransformerConfig(
        image_size=(8, 4), in_channels=1, **{**SMALL, "depth": 1}
    )
    params, apply = built(models.VisionTransformer(config, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (2, 8, 4, 1), jnp.float32)
    wide = models.VisionTransformerConfig(
        image_size=(4, 8), in_channels=1, **{**SMALL, "depth": 1}
    )
    _, apply_wide = built(models.VisionTransformer(wide, rngs=nnx.Rngs(0)))
    beside = jnp.concatenate([x[:, :4], x[:, 4:]], axis=2)
    np.testing.assert_allclose(apply_wide(params, beside), apply(params, x), atol=EXACT)
    swapped = jnp.concatenate([x[:, 4:], x[:, :4]], axis=1)
    assert abs(apply(params, swapped) - apply(params, x)).max() > 1e-4
    orderless = {**params, "positions": 0 * params["positions"]}
    np.testing.assert_allclose(
        apply(orderless, swapped), apply(orderless, x), atol=EXACT
    )


@pytest.mark.slow
def test_pooled_cells_are_means_of_parts_of_the_map():
    """Of a map of 4 × 5: halves of the rows, and columns 0 to 2 and 2 to 4."""
    net = models.ConvNet(
        models.ConvNetConfig(in_channels=1, out_features=3, channels=(4,), pool=2),
        rngs=nnx.Rngs(0),
    )
    x = jax.random.normal(jax.random.key(0), (6, 8, 10, 1))
    h = net.config.activation_fn(net.layers[0](x))
    assert h.shape == (6, 4, 5, 4)
    rows, columns = (slice(0, 2), slice(2, 4)), (slice(0, 3), slice(2, 5))
    means = [h[:, r, c].mean(axis=(1, 2)) for r in rows for c in columns]
    expected = net.head(jnp.concatenate(means, axis=1))
    assert jnp.abs(net(x) - expected).max() < EXACT


def test_means_of_half_precision_are_taken_in_single():
    ones = jnp.ones((1, 300, 300, 1), jnp.bfloat16)
    pooled = _pool(ones, 2)
    assert pooled.dtype == jnp.bfloat16
    assert (pooled == 1).all()


@pytest.mark.parametrize(
    ("declared", "value", "message"),
    [
        (int, (2, 3), r"size must be an integer; got \(2, 3\)"),
        (tuple[int, ...], 8, "size must be a tuple of integers; got 8"),
        (tuple[int, ...], (8, 0), "size must be at least 1; got 0"),
    ],
)
def test_sizes_are_integers_or_tuples_as_declared(declared, value, message):
    config = dataclasses.make_dataclass("Config", [("size", declared)])
    with pytest.raises((TypeError, ValueError), match=message):
        check_sizes(config(value), "size")


@pytest.mark.slow
def test_cross_attention_does_not_depend_on_the_order_of_the_context():
    config = models.CrossAttentionConfig(in_features=5, context_features=3, **SMALL)
    params, apply = built(models.CrossAttentionEncoder(config, rngs=nnx.Rngs(0)))
    x = jax.random.normal(jax.random.key(0), (2, 5), jnp.float32)
    a = jax.random.normal(jax.random.key(1), (2, 4, 3), jnp.float32)
    out = apply(params, x, a)
    np.testing.assert_allclose(out, apply(params, x, a[:, ::-1]), atol=EXACT)
    assert abs(out - apply(params, x, jnp.sin(3 * a))).max() > 1e-4
    mask = jnp.array([[True, True, False, False]] * 2)
    seen = apply(params, x, a, mask)
    np.testing.assert_array_equal(seen, apply(params, x, a.at[:, 2:].add(1.0), mask))
    assert abs(seen - apply(params, x, a.at[:, :2].add(a[:, 2:]), mask)).max() > 1e-4
    tokens = jnp.stack([x, x], axis=1)
    np.testing.assert_allclose(apply(params, tokens, a), out, atol=EXACT)


class TestGraph:
    indices = jnp.array([[1, 2], [0, 2], [3, 0], [4, 2], [3, 0]])
    features = jax.random.normal(jax.random.key(0), (5, 3), jnp.float32)

    def encoder(self):
        config = models.GraphEncoderConfig(in_features=3, out_features=4, width=8)
        return built(models.GraphEncoder(config, rngs=nnx.Rngs(0)))

    def adjacency(self):
        rows = jnp.arange(5)[:, None]
        return jnp.zeros((5, 5), jnp.float32).at[rows, self.indices].set(2.0)

    @pytest.mark.slow
    def test_three_ways_to_write_a_graph_agree(self):
        mean = jax.jit(models.neighbor_mean)
        lists = mean(self.features, self.indices)
        expected = np.asarray(self.features)[np.asarray(self.indices)].mean(axis=1)
        np.testing.assert_allclose(lists, expected, atol=EXACT)
        dense = mean(self.features, self.adjacency())
        np.testing.assert_allclose(dense, lists, atol=EXACT)
        # Three entries more than there are edges: padding lies outside the matrix.
        rows = np.repeat(np.arange(5), 2)
        edges = np.stack([rows, np.asarray(self.indices).reshape(-1)], axis=1)
        places = jnp.asarray(np.concatenate([edges, np.full((3, 2), 5)]))
        weights = jnp.full((13,), 2.0, jnp.float32)
        sparse_ = sparse.BCOO((weights, places), shape=(5, 5))
        np.testing.assert_allclose(mean(self.features, sparse_), lists, atol=EXACT)

    @pytest.mark.slow
    def test_numbering_the_vertices_anew_numbers_the_embeddings_anew(self):
        params, apply = self.encoder()
        order = jnp.array([3, 1, 4, 0, 2])
        dense = self.adjacency()
        moved = apply(params, self.features[order], dense[order][:, order])
        out = apply(params, self.features, dense)
        np.testing.assert_allclose(moved, out[order], atol=EXACT)

    def test_a_vertex_sees_as_far_as_there_are_rounds(self):
        config = models.GraphEncoderConfig(
            in_features=3, out_features=4, width=8, depth=1
        )
        params, apply = built(models.GraphEncoder(config, rngs=nnx.Rngs(0)))
        out = apply(params, self.features, self.indices)
        moved = apply(params, self.features.at[4].add(1.0), self.indices)
        changed = np.abs(moved - out).max(axis=1) > 1e-6
        assert changed.tolist() == [False, False, False, True, True]

    def test_a_vertex_without_edges_has_the_mean_zero(self):
        lonely = self.adjacency().at[0].set(0.0)
        mean = models.neighbor_mean(self.features, lonely)
        np.testing.assert_array_equal(mean[0], 0)
        np.testing.assert_allclose(
            mean[1], (self.features[0] + self.features[2]) / 2, atol=EXACT
        )


@pytest.mark.parametrize("trunk", ["mlp", "transformer"])
def test_unknown_categories_are_one_category_of_their_own(trunk):
    config = models.TabularEncoderConfig(
        num_numeric=0, cardinalities=(2, 3), trunk=trunk, depth=1, hidden=8, **SMALL
    )
    params, apply = built(models.TabularEncoder(config, rngs=nnx.Rngs(0)))
    codes = jnp.array([[0, 0], [1, 0], [-1, 0], [2, 0], [0, -1], [0, 2]])
    out = np.asarray(apply(params, None, codes))
    np.testing.assert_allclose(out[2], out[3], atol=EXACT)
    gaps = np.abs(out[:, None] - out[None]).max(axis=2) > 1e-4
    assert gaps.sum() == 6 * 6 - 6 - 2


def test_waves_of_the_input_stand_beside_it():
    config = models.MLPConfig(
        in_features=3, out_features=2, hidden=(), num_waves=500, wave_scale=4.0
    )
    params, apply = built(models.MLP(config, rngs=nnx.Rngs(0)))
    frequencies = params["frequencies"]["kernel"]
    # Of 1,500 numbers: the standard error of theirs is 2 %.
    assert abs(frequencies.std() / 4 - 1) < 0.06
    x = jax.random.normal(jax.random.key(0), (5, 3), jnp.float32)
    angle = np.asarray(x, np.float64) @ np.asarray(frequencies, np.float64)
    seen = np.concatenate([x, np.cos(angle), np.sin(angle)], axis=1)
    head = params["head"]
    expected = seen @ np.asarray(head["kernel"], np.float64) + np.asarray(head["bias"])
    np.testing.assert_allclose(apply(params, x), expected, atol=1e-4)
    refused: tuple[dict[str, Any], ...] = ({"num_waves": -1}, {"wave_scale": 0.0})
    for wrong in refused:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            models.MLPConfig(in_features=3, out_features=2, **wrong)


def test_skip_connections_carry_the_input_through():
    config = models.MLPConfig(
        in_features=4, out_features=4, hidden=(4,), activation="tanh"
    )
    module = models.MLP(config, rngs=nnx.Rngs(0))
    layer = module.layers[0].linear
    layer.kernel[...] = jnp.zeros((4, 4), jnp.float32)
    x = jnp.arange(8.0, dtype=jnp.float32).reshape(2, 4)
    np.testing.assert_allclose(module(x), module.head(x), atol=EXACT)
    plain = models.MLPConfig(in_features=4, out_features=4, hidden=(4,), skip=False)
    assert len(jax.tree.leaves(nnx.state(models.MLP(plain, rngs=nnx.Rngs(0))))) == 4


def too_long():
    params, apply = text()
    return apply(params, jnp.zeros((1, 7), jnp.int32))


BAD = [
    (lambda: models.MLPConfig(in_features=3, out_features=0), "out_features must be"),
    (
        lambda: models.MLPConfig(in_features=3, out_features=2, hidden=(4, 0)),
        "hidden must be at least 1; got 0",
    ),
    (
        lambda: models.MLPConfig(in_features=3, out_features=2, activation="sine"),
        "activation must be one of gelu, relu, silu, tanh; got 'sine'",
    ),
    (
        lambda: models.MLPConfig(in_features=3, out_features=2, dtype=jnp.int32),
        "dtype must be a floating dtype",
    ),
    (
        lambda: models.TransformerConfig(out_features=2, width=6, num_heads=4),
        "num_heads must divide width, 6; got 4 heads",
    ),
    (
        lambda: models.VisionTransformerConfig(out_features=2, image_size=(8, 6)),
        r"patch_size must divide the image, \(8, 6\); got 4",
    ),
    (
        lambda: models.TabularEncoderConfig(out_features=2, num_numeric=0),
        "at least one column",
    ),
    (
        lambda: models.TabularEncoderConfig(
            out_features=2, num_numeric=1, trunk="tree"
        ),
        "trunk must be",
    ),
    (
        lambda: models.ConvNet(
            models.ConvNetConfig(in_channels=1, out_features=2, channels=(4,)),
            rngs=nnx.Rngs(0),
        )(jnp.zeros((5, 0, 8, 1))),
        r"images of at least 1 pixel; got shape \(5, 0, 8, 1\)",
    ),
    (
        lambda: models.ConvNetConfig(out_features=2, channels=()),
        "channels must have at least one entry",
    ),
    (
        lambda: models.MLP(
            models.MLPConfig(in_features=3, out_features=2, hidden=()),
            rngs=nnx.Rngs(0),
        )(jnp.zeros((5, 4))),
        r"x must have shape \(any, 3\); got \(5, 4\)",
    ),
    (
        lambda: too_long(),
        "between 1 and max_length = 6 tokens a row; got 7",
    ),
    (
        lambda: models.neighbor_mean(jnp.zeros((5, 2)), jnp.zeros((5, 4))),
        r"neighbors must have shape \(any, 5\); got \(5, 4\)",
    ),
    (
        lambda: models.neighbor_mean(jnp.zeros((5, 2)), [["a", "b"]]),
        "neighbors must hold real numbers; got text",
    ),
    (
        lambda: models.TabularEncoder(
            models.TabularEncoderConfig(
                num_numeric=1, cardinalities=(2,), depth=0, **SMALL
            ),
            rngs=nnx.Rngs(0),
        )(jnp.zeros((5, 1))),
        "codes must be given",
    ),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input_is_refused_with_what_was_expected_and_what_came(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_configurations_are_hashable():
    config = models.MLPConfig(in_features=3, out_features=2)
    again = models.MLPConfig(in_features=3, out_features=2)
    assert hash(config) == hash(again)
    assert config == again
