"""Compiling a step: for one device or many, in one process or several."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from contexture_jax._core.arrays import as_narrow
from contexture_jax._core.checks import counted
from contexture_jax._core.devices import make_mesh
from contexture_jax._core.meshes import auto_mesh, beside_context, on_auto_axes
from contexture_jax._core.types import Array, summary
from contexture_jax.training._state import TrainState

__all__ = ["CompiledStep", "compile_step", "data_mesh", "global_batch"]

# One name for the mesh, for `shard_map` and for `pmap`: an objective reduces over it
# wherever it runs.
AXIS = "x"

STRATEGIES = ("jit", "shard_map", "pmap")


def data_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh over devices, of all processes, with one axis "x" for rows of batches.

    That of `contexture_jax.make_mesh`, under a name of its own.

    Args:
        num_devices: how many of `jax.devices()`, the first ones; None: all.
    """
    return make_mesh(num_devices, axis=AXIS)


def global_batch(local_batch: Any, mesh: Mesh) -> Any:
    """Rows that each process has read for itself, as one batch cut over the mesh.

    In one process this places the batch. In several, process i holds rows i·b … of the
    whole batch, b each, and gets arrays that span all processes.

    Args:
        local_batch: a pytree of arrays, this process's rows in front, of JAX, NumPy or
            another library that keeps them on the host, as batches of a PyTorch
            DataLoader. Arrays that are cut so already stay as they are.
        mesh: as from `data_mesh`.

    Raises:
        TypeError: if a leaf does not hold numbers, or is one.
        ValueError: if the devices of this process do not divide its rows.
    """
    rows = NamedSharding(auto_mesh(mesh), PartitionSpec(AXIS))
    return jax.tree.map(lambda leaf: _cut(leaf, rows, mesh), local_batch)


# A function of the module: a check of types at run time that wraps inner functions as
# they are made would do so in the thread that places batches, and lose the warnings
# that other threads give meanwhile.
def _cut(leaf: Any, rows: NamedSharding, mesh: Mesh) -> Array:
    # Placed ahead by a thread: nothing to be done in the step.
    if isinstance(leaf, jax.Array) and _lies(leaf, rows):
        return leaf
    # On the host: float64 of NumPy's would be sent and then cut to float32.
    narrow = as_narrow(leaf, "batch")
    _check_rows(narrow, len(mesh.local_devices), type(leaf).__name__)
    if mesh.is_multi_process:
        return jax.make_array_from_process_local_data(rows, np.asarray(narrow))
    return jax.device_put(narrow, rows)


def compile_step(
    step: Callable[..., Any],
    strategy: str = "jit",
    mesh: Mesh | None = None,
    *,
    donate: bool = True,
) -> CompiledStep:
    """Compile a step for a mesh: parameters on every device, rows of the batch cut.

    All strategies compute what one device computes on the whole batch, values and
    gradients, as long as the objective reduces its moments over `axis_name`:

    - "jit": the compiler finds the collectives. The default, and the only one that
      spans processes without any of the user's code knowing of it.
    - "shard_map": each device runs the step on its rows, `axis_name="x"`, and JAX
      checks that what comes out is the same on all devices (`check_vma=True`).
    - "pmap": the same in the older form, in one process, unchecked.

    Args:
        step: as `make_step` returns it.
        strategy: one of the above.
        mesh: with the axis "x" alone; None: `data_mesh()`, all devices.
        donate: whether a call may overwrite the arrays of the state that it is given.
            They must then not be used again; half the memory of the state.

    Example:
        >>> import jax, optax
        >>> import jax.numpy as jnp
        >>> import contexture_jax as cx
        >>> encode = lambda params, batch, key: batch @ params
        >>> def whiten(z, axis_name=None):
        ...     second = z.T @ z / z.shape[0]
        ...     if axis_name is not None:
        ...         second = jax.lax.pmean(second, axis_name)
        ...     return jnp.sum((second - jnp.eye(2)) ** 2)
        >>> optimizer = optax.sgd(0.01)
        >>> step = cx.training.make_step(
        ...     encode, cx.training.from_loss(whiten), optimizer
        ... )
        >>> run = cx.training.compile_step(step, "shard_map")
        >>> key = jax.random.key(0)
        >>> batch = jax.random.normal(key, (8 * jax.device_count(), 3))
        >>> state = cx.training.init_state(jnp.ones((3, 2)), optimizer)
        >>> for _ in range(5):
        ...     state, metrics = run(state, batch, key)
        >>> int(state.step), sorted(metrics), run.num_traces
        (5, ['grad_norm', 'loss'], 1)
    """
    if isinstance(step, CompiledStep) or not callable(step):
        what = "one that is compiled" if isinstance(step, CompiledStep) else repr(step)
        msg = f"step must be a function, as from make_step; got {what}"
        raise TypeError(msg)
    if strategy not in STRATEGIES:
        msg = f'strategy must be "jit", "shard_map" or "pmap"; got {summary(strategy)}'
        raise ValueError(msg)
    mesh = data_mesh() if mesh is None else mesh
    if mesh.axis_names != (AXIS,) or AxisType.Manual in mesh.axis_types:
        msg = (
            f'mesh must have one axis, "{AXIS}", of type Auto, as data_mesh makes it,'
            f" or Explicit; got axes {mesh.axis_names} of types {mesh.axis_types}"
        )
        raise ValueError(msg)
    # The same devices with Auto axes: on Explicit ones a moment of cut rows is an
    # error.
    mesh = auto_mesh(mesh)
    if strategy == "pmap" and mesh.is_multi_process:
        msg = 'strategy "pmap" runs in one process; use "jit" or "shard_map"'
        raise ValueError(msg)
    return CompiledStep(step, strategy, mesh, donate)


class CompiledStep:
    """A step that `compile_step` compiled; called as `step(state, batch, key)`.

    A call places what is not placed yet, so NumPy arrays and a new state may be given.
    What it returns is not yet computed: JAX runs behind the program until it asks for
    values.

    Attributes:
        strategy: "jit", "shard_map" or "pmap".
        mesh: the devices.
        everywhere: the sharding of states: a copy on every device.
        num_traces: how often the step was traced, once for each form of its arguments.
    """

    def __init__(
        self, step: Callable[..., Any], strategy: str, mesh: Mesh, donate: bool
    ) -> None:
        self.strategy = strategy
        self.mesh = mesh
        self.num_traces = 0
        self.everywhere = NamedSharding(mesh, PartitionSpec())
        # A run calls with one key: it is placed once, not at every step.
        self._last_key: tuple[Any, Any] = (None, None)
        self._run = self._compiled(step, donate)

    @beside_context
    def __call__(
        self, state: TrainState, batch: Any, key: Array
    ) -> tuple[TrainState, dict[str, Any]]:
        """One step; see `make_step`."""
        return self._run(*self._arguments(state, batch, key))

    @beside_context
    def lower(self, state: Any, batch: Any, key: Any) -> Any:
        """The program for such arguments, to be compiled and looked at.

        From shapes alone: nothing is placed, and any leaf may be a
        `jax.ShapeDtypeStruct`. The batch is the whole one, of all processes.
        """

        def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
            if not isinstance(leaf, jax.ShapeDtypeStruct):
                leaf = as_narrow(leaf, "batch")
            _check_rows(leaf, self.mesh.size)
            shape = leaf.shape
            if self.strategy == "pmap":
                shape = (self.mesh.size, shape[0] // self.mesh.size, *shape[1:])
            return jax.ShapeDtypeStruct(shape, leaf.dtype)

        batch = jax.tree.map(shape_of, batch)
        # Where arrays lie is of no account: the program says where they are to.
        state, key = jax.eval_shape(lambda *args: args, state, key)
        return self._run.lower(state, batch, key)

    def place_state(self, state: Any) -> Any:
        """Copies of a pytree's arrays on every device, which a step may overwrite."""
        return jax.tree.map(self._place, state)

    def place_batch(self, batch: Any) -> Any:
        """A batch with its rows cut over the devices; see `global_batch`."""
        return global_batch(batch, self.mesh)

    def _place(self, leaf: Any) -> Array:
        if not self.mesh.is_multi_process:
            # On the device where it is, `device_put` alone would not copy.
            return jax.device_put(jnp.array(leaf, copy=True), self.everywhere)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # Arrays of typed keys cannot be made from what processes hold; their words
            # can.
            data = self._place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        return jax.make_array_from_process_local_data(
            self.everywhere, np.array(leaf), np.shape(leaf)
        )

    def _arguments(self, state: TrainState, batch: Any, key: Array) -> Any:
        # Checked here, where the message can say which call took it.
        if any(_is_gone(leaf) for leaf in jax.tree.leaves(state)):
            msg = (
                "the state has been overwritten by a call before; expected the state"
                " that that call returned, or compile_step(..., donate=False)"
            )
            raise ValueError(msg)
        # One leaf stands for the tree, as states are placed whole.
        if not self._is_placed(state.step):
            state = self.place_state(state)
        if not self._is_placed(key):
            if key is not self._last_key[0]:
                self._last_key = (key, self._place(key))
            key = self._last_key[1]
        batch = self.place_batch(batch)
        if self.strategy == "pmap":
            count = self.mesh.size
            # `pmap` takes a device axis in front, the others cut the rows themselves.
            batch = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
        return state, batch, key

    def _is_placed(self, leaf: Array) -> bool:
        return _lies(leaf, self.everywhere)

    def _compiled(self, step: Callable[..., Any], donate: bool) -> Any:
        def traced(*args: Any, **kwargs: Any) -> Any:
            # Runs while JAX traces, and not in the compiled program: a count of
            # compilations.
            self.num_traces += 1
            return step(*args, **kwargs)

        # The state alone: the batch may be the caller's, and the key is used again.
        donated = (0,) if donate else ()
        rows = NamedSharding(self.mesh, PartitionSpec(AXIS))
        if self.strategy == "pmap":
            return jax.pmap(
                # `pmap` does not track what varies: gradients are averaged there, see
                # `make_step`.
                functools.partial(traced, axis_name=AXIS, check_vma=False),
                axis_name=AXIS,
                in_axes=(None, 0, None),
                out_axes=None,
                devices=list(self.mesh.devices.flat),
                donate_argnums=donated,
            )
        if self.strategy == "shard_map":
            traced = jax.shard_map(
                functools.partial(traced, axis_name=AXIS),
                mesh=self.mesh,
                in_specs=(PartitionSpec(), PartitionSpec(AXIS), PartitionSpec()),
                out_specs=PartitionSpec(),
                # Makes it an error if an output differs between devices: a loss that
                # was not reduced.
                check_vma=True,
            )
        return jax.jit(
            traced,
            in_shardings=(self.everywhere, rows, self.everywhere),
            out_shardings=self.everywhere,
            donate_argnums=donated,
        )


def _check_rows(leaf: Any, num_devices: int, kind: str | None = None) -> None:
    """Raise unless an array of a batch has rows that so many devices can share."""
    if not leaf.shape:
        msg = (
            "a batch must be arrays with rows in front; got a"
            f" {kind or type(leaf).__name__}: use np.asarray on lists"
        )
        raise TypeError(msg)
    # Uneven shares would be other weights, or padding that the loss cannot tell from
    # rows.
    if leaf.shape[0] % num_devices:
        msg = (
            "rows of a batch must be a multiple of the"
            f" {counted(num_devices, 'device')} that share them; got shape"
            f" {tuple(leaf.shape)}: choose another batch size, or a mesh of fewer"
            " devices (data_mesh)"
        )
        raise ValueError(msg)


def _is_gone(leaf: Any) -> bool:
    """Whether an array was donated: to use it again may end the process."""
    return isinstance(leaf, jax.Array) and leaf.is_deleted()


def _lies(leaf: Array, sharding: NamedSharding) -> bool:
    """Whether an array is on the mesh already; one device alone is another type."""
    # On one device all shardings are equivalent, but not of one type, which would trace
    # anew.
    same = leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    if not same or not isinstance(leaf.sharding, NamedSharding):
        return False
    return on_auto_axes(leaf) is leaf
