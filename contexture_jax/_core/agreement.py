"""Processes of one program compare what they are about to do, before they do it.

A program over devices of several processes whose shapes or dtypes differ between them
ends in an error of one, or never; where options differ it gives numbers of nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from contexture_jax._core.fingerprint import fingerprint

__all__ = ["DisagreementError", "agree", "agree_on_tree"]

# One size for all processes and all calls: nothing that could differ is in the program.
_SIZE = 4096
_LONG = 200  # letters of a fact that are told in full


class DisagreementError(ValueError):
    """Processes are about to do different things, or one of them cannot go on."""


def agree(facts: Mapping[str, Any], problem: str = "") -> None:
    """Find out whether all processes say the same. All of them call it.

    Args:
        facts: by name; whatever JSON can tell, or `str`.
        problem: why this process cannot go on; empty if it can.

    Raises:
        DisagreementError: in all processes, with the first name whose fact differs and
            what two processes say, or the problem of the first that has one.
    """
    if jax.process_count() == 1:
        if problem:
            raise DisagreementError(problem)
        return
    told = [[str(name), _short(value)] for name, value in facts.items()]
    problem = " ".join(problem.split())
    text = json.dumps([told, problem]).encode()
    # What does not fit is cut to a digest, and a problem to its beginning.
    if len(text) > _SIZE:
        digest = hashlib.sha256(text).hexdigest()
        text = json.dumps([[["facts", digest]], problem[:_LONG]]).encode()
    row = np.zeros(_SIZE, np.uint8)
    row[: len(text)] = np.frombuffer(text, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(row))
    told = [json.loads(bytes(each).rstrip(b"\0")) for each in rows]
    for index, (_, words) in enumerate(told):
        if words:
            msg = f"process {index} of {len(told)}: {words}"
            raise DisagreementError(msg)
    first = told[0][0]
    for index, (others, _) in enumerate(told):
        if others != first:
            msg = f"processes differ: {_difference(first, others, index)}"
            raise DisagreementError(msg)


def agree_on_tree(what: str, tree: Any, mesh: Mesh | None, **facts: Any) -> None:
    """`agree` on a pytree that a program over a mesh of several processes takes.

    Args:
        what: how messages call it.
        tree: arrays that are cut over all processes, of which shapes and dtypes are
            compared, or that each has for itself, of which values are compared too.
        mesh: of the program; nothing is compared if it is of one process.
        facts: beside the tree.
    """
    if mesh is None or not mesh.is_multi_process:
        return
    leaves, structure = jax.tree.flatten(tree)
    own = [leaf for leaf in leaves if getattr(leaf, "is_fully_addressable", True)]
    mark = fingerprint(own)
    agree(
        {
            f"the kind of {what}": type(tree).__name__,
            f"shapes of {what}": [list(np.shape(leaf)) for leaf in leaves],
            f"dtypes of {what}": [str(_dtype(leaf)) for leaf in leaves],
            # Functions among static fields print with an address, which says nothing.
            f"options of {what}": re.sub(r" at 0x[0-9a-f]+", "", str(structure)),
            f"values of {what}": None if mark is None else _digest(np.asarray(mark)),
            **facts,
        }
    )


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def _digest(values: np.ndarray) -> str:
    return f"digest {hashlib.sha256(values.tobytes()).hexdigest()[:16]}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    if len(text) <= _LONG:
        return text
    # Long lists of shapes, and structures of trees: told apart, not told.
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[:40]}… (digest {digest})"


def _difference(first: list[list[str]], other: list[list[str]], index: int) -> str:
    for (name, one), (another, two) in zip(first, other, strict=False):
        if name != another:
            return f"process 0 is at {name} and process {index} at {another}"
        if one != two:
            return f"{name} is {one} in process 0 and {two} in process {index}"
    return f"process 0 tells {len(first)} facts and process {index} {len(other)}"
