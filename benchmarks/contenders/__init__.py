"""Those that train the same models on the same rows: our ``fit``, its peers, and the floor under them all.

Each module has a ``train(job, laps, **settings)``, run by ``python -m contenders NAME`` in a process of its own, in
our environment or in the peers'. What is here imports neither torch nor a peer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Contender:
    """One who trains: the module that does it, with what settings, and on which of the workloads A, B and C."""

    name: str
    module: str
    workloads: str
    ours: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""


OURS = (
    Contender("lowerbound", "lowerbound_fit", "ABC", True, {}, "`lb.fit`, its defaults, float32"),
    Contender("lowerbound compile", "lowerbound_fit", "ABC", True, {"compile": True}, "`AEVB(compile=True)`"),
    Contender(
        "lowerbound bf16",
        "lowerbound_fit",
        "ABC",
        True,
        {"compile": True, "precision": "bf16"},
        '`AEVB(compile=True, precision="bf16")`',
    ),
    Contender(
        "lowerbound bf16 eager", "lowerbound_fit", "ABC", True, {"precision": "bf16"}, '`AEVB(precision="bf16")`'
    ),
)
PEERS = (
    Contender("jax scan", "jax_scan", "AB", about="JAX and optax, an epoch in one `lax.scan`, data resident"),
    Contender(
        "pytorch tuned", "pytorch_loops", "ABC", settings={"style": "tuned"},
        about="eager PyTorch: data resident, fused Adam, no read-back, `set_flush_denormal(True)`",
    ),
    Contender(
        "pytorch examples", "pytorch_loops", "ABC", settings={"style": "examples"},
        about="as in pytorch/examples/vae: DataLoader, sigmoid + BCE, `.item()` each step",
    ),
    Contender("pythae", "pythae_trainer", "AC", about="`BaseTrainer` with `VAE`"),
    Contender("pyro", "pyro_svi", "A", about="`SVI` with `Trace_ELBO`, data resident, validation of arguments off"),
    Contender("lightning", "lightning_trainer", "A", about="`Trainer` with a DataLoader, no logger, no checkpoints"),
)  # fmt: skip
FLOOR = Contender("floor", "floor", "ABC", True, {}, "matrix products or convolutions, and Adam, alone")
SPEED = (*OURS, *PEERS, FLOOR)

EVERYTHING = Contender("everything on", "overhead", "A", True)
IN_MEMORY = Contender("in memory", "scaling", "A", True, {"mapped": False})
MAPPED = Contender("memory-mapped", "scaling", "A", True, {"mapped": True})

ALL = {contender.name: contender for contender in (*SPEED, EVERYTHING, IN_MEMORY, MAPPED)}
