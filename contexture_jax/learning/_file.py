"""One file for what was learned: arrays of an .npz, and a header of JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from contexture_jax import contexts, zoo
from contexture_jax._core.archives import read_archive, write_archive
from contexture_jax.learning._towers import Tower, rebuild

__all__ = ["Part", "check_savable", "read", "write"]

_FORMAT, _VERSION = "contexture_jax.learning", 1
# Arrays by their number of axes, and what the header says by its type.
_NEEDED = {"singular_values": 1, "left": 2, "mean": 1, "rotation": 2}
_SAID = {"source": str, "status": str, "message": str, "num_steps": int}
_SAID |= {"preprocessing": object}  # anything, or nothing
_PLAIN = (str, int, float, bool, type(None))
_EXPORT = "jax.export of transform (whose serialize takes the package flatbuffers)"


Part = tuple[Tower, Any, np.ndarray | None]


def check_savable(parts: list[Part]) -> None:
    """Raise as `write` does of an encoder or a context that no file can tell of."""
    for tower, context, values in parts:
        # The values of Ψ are all that is asked of it.
        if values is None and tower.made_of is None:
            msg = (
                "the encoder is a function of the caller's own, of which no file can"
                f" tell; expected a cx.learning.Encoder, or {_EXPORT}"
            )
            raise TypeError(msg)
        if context is not None:
            _context_fields(context, "context", {})


def write(
    path: str | Path,
    header: dict[str, Any],
    arrays: dict[str, np.ndarray],
    parts: list[Part],
) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file.
        header: what JSON can hold.
        arrays: by name.
        parts: one, or one for each context of a mixture: the tower, the context to hold
            beside it or None, and what stands for the tower or None.
    """
    check_savable(parts)
    held = dict(arrays)
    laid = [
        _part_fields(*part, _prefix(number), held) for number, part in enumerate(parts)
    ]
    header = {**header, "format": _FORMAT, "version": _VERSION, **laid[0]}
    header["more"] = laid[1:]
    text = json.dumps(header, allow_nan=False).encode()
    leaves = {name: np.asarray(leaf) for name, leaf in held.items()}
    write_archive(Path(path), {"header": np.frombuffer(text, np.uint8), **leaves})


def _prefix(number: int) -> str:
    return f"part{number}/" if number else ""


def _part_fields(
    tower: Tower,
    context: Any,
    values: np.ndarray | None,
    prefix: str,
    held: dict[str, np.ndarray],
) -> dict[str, Any]:
    """What a header says of a tower and a context, whose arrays go to `held`."""
    if values is not None:
        held[f"{prefix}values"] = values
    else:
        named = _named(tower.params)
        held |= {f"{prefix}tower/{name}": leaf for name, leaf in named}
    laid = None
    if context is not None:
        laid = _context_fields(context, f"{prefix}context", held)
    return {"tower": tower.made_of, "context": laid}


def read(
    path: str | Path,
) -> tuple[dict[str, Any], dict[str, np.ndarray], list[tuple[Tower, Any, Any]]]:
    """Header, arrays, and the parts of a file that `write` wrote."""
    arrays: dict[str, np.ndarray] = {}
    try:
        # A file may come from anywhere: nothing in it is run.
        arrays = read_archive(path)
        header = json.loads(arrays.pop("header").tobytes())
        is_ours = header["format"] == _FORMAT
    # It is not there, or may not be read, which is no damage.
    except OSError:
        raise
    except Exception:  # damaged bytes raise errors of any kind
        is_ours, header = False, {}
    if not is_ours:
        msg = f"{path} is no file that Learned.save wrote, or it is damaged"
        raise ValueError(msg)
    version = header.get("version")
    if isinstance(version, int) and version > _VERSION:
        msg = (
            f"{path} is of version {version} of this kind of file; this"
            f" contexture_jax reads {_VERSION}: take a newer one"
        )
        raise ValueError(msg)
    try:
        # What is missing is told here, and not at its first use.
        _check(header, arrays)
        parts = [
            (
                _tower(one["tower"], _prefix(number), arrays),
                _context(one["context"], arrays),
                arrays.get(f"{_prefix(number)}values"),
            )
            for number, one in enumerate([header, *header.get("more", [])])
        ]
    # What a header asks for may be anything, and so are the errors of making it.
    except Exception as error:
        what = " ".join(str(error).split())[:100]
        msg = f"{path} is damaged: {what} is missing or not as it was written"
        raise ValueError(msg) from error
    return header, arrays, parts


def _check(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Raise unless all that every file holds is there, of the kind that it should be.

    Raises:
        KeyError: naming the first that is not.
    """
    for name, kind in _SAID.items():
        if not isinstance(header[name], kind):
            raise KeyError(name)
    for name, num_axes in _NEEDED.items():
        array = arrays[name]
        if array.ndim != num_axes or array.dtype.kind != "f":
            raise KeyError(name)
    if not isinstance(header.get("weights", []), list):
        raise KeyError("weights")


def _named(params: Any) -> list[tuple[str, Any]]:
    # By path and not by position, which a new layer would shift.
    flat = jax.tree_util.tree_flatten_with_path(params)[0]
    return [
        (jax.tree_util.keystr(path, simple=True, separator="/"), leaf)
        for path, leaf in flat
    ]


def _tower(made_of: Any, prefix: str, arrays: dict[str, np.ndarray]) -> Tower:
    if f"{prefix}values" in arrays:  # which stand for it
        return Tower(None, _no_tower, made_of)
    # First their shapes alone: a few words may ask for any amount of memory.
    shapes = jax.eval_shape(lambda: rebuild(made_of, nnx.Rngs(0))[0])
    leaves = []
    for name, leaf in _named(shapes):
        held = arrays[f"{prefix}tower/{name}"]
        if held.shape != leaf.shape:
            raise KeyError(f"{prefix}tower/{name} of shape {leaf.shape}")
        leaves.append(jax.numpy.asarray(held))
    # Drawn for their structure: each leaf is replaced.
    params, apply = rebuild(made_of, nnx.Rngs(0))
    return Tower(jax.tree.unflatten(jax.tree.structure(params), leaves), apply, made_of)


def _no_tower(params: Any, x: Any) -> Any:
    raise NotImplementedError("a file of an average encoder holds values, no encoder")


def _context_fields(
    value: Any, name: str, held: dict[str, np.ndarray]
) -> dict[str, Any]:
    """A class by name with its fields, whose arrays go to `held`."""
    # By the class and not by its name, which another may bear.
    kind = next((n for n, known in _kinds().items() if known is type(value)), None)
    if kind is None:
        raise _unsaved(f"a {value._kind}, a class of the caller's own")
    fields = {
        field.name: _laid(getattr(value, field.name), f"{name}/{field.name}", held)
        for field in dataclasses.fields(value)
    }
    return {"class": kind, "fields": fields}


def _laid(value: Any, name: str, held: dict[str, np.ndarray]) -> Any:
    if isinstance(value, _PLAIN):
        return {"is": value}
    if isinstance(value, (np.ndarray, np.generic, jax.Array)):
        held[name] = np.asarray(value)
        # What is computed in float64 on the host is to come back to it.
        return {"array": name, "host": not isinstance(value, jax.Array)}
    # A NamedTuple would come back as a tuple.
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [_laid(v, f"{name}/{i}", held) for i, v in enumerate(value)]}
    if isinstance(value, contexts.Context):
        return _context_fields(value, name, held)
    raise _unsaved(f"{name}, a {type(value).__name__}")


def _unsaved(what: str) -> TypeError:
    return TypeError(
        "functions that are averages T Ψ are saved with their context, and no file can"
        f" tell of {what}; expected a context of cx.contexts or cx.zoo without"
        " functions, or functions of Φ, which are saved without it: learn with"
        ' loss="svme", or source="phi" where both encoders are trained; or take'
        f" {_EXPORT}"
    )


def _kinds() -> dict[str, type]:
    """The classes of contexts that a file may name; those of the zoo as zoo.Name."""
    found: dict[str, type] = {}
    below: list[type] = [contexts.Context]
    while below:
        kind = below.pop()
        below += kind.__subclasses__()
        package = kind.__module__.rpartition(".")[0]
        if package == zoo.__name__:
            found[f"zoo.{kind.__name__.lstrip('_')}"] = kind
        elif getattr(contexts, kind.__name__, None) is kind:
            found[kind.__name__] = kind
    return found


def _context(laid: Any, arrays: dict[str, np.ndarray]) -> Any:
    if laid is None:
        return None
    if "is" in laid:
        return laid["is"]
    if "array" in laid:
        array = arrays[laid["array"]]
        return array if laid.get("host") else jax.numpy.asarray(array)
    if "tuple" in laid:
        return tuple(_context(one, arrays) for one in laid["tuple"])
    # Contexts alone: a name in a file is not to call anything else.
    kind = _kinds()[laid["class"]]
    return kind(**{n: _context(v, arrays) for n, v in laid["fields"].items()})
