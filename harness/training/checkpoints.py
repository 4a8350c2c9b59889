"""Checkpoints of a meta-training: written whole or not at all, read back to the bit."""

import hashlib
import io
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch

from estimators import Params
from estimators.base.errors import UserError
from harness.support.files import atomic_file

SCHEMA = 2
_REMEDY = "; --fresh begins anew"
_CHECKSUM = hashlib.sha256().digest_size


@dataclass
class Checkpoint:
    """A meta-training after some steps.

    Attributes:
        training: digest of the configuration, code and machine.
        compiled: whether the estimator runs by compiled programs from the beginning on.
        evaluated_step: the step of the last validation; -1 before the first.
        score: of that validation, larger is better.
    """

    training: str
    step: int = 0
    compiled: bool = False
    params: Params = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    evaluated_step: int = -1
    score: float = -float("inf")
    best_step: int = 0
    best_score: float = -float("inf")
    best_params: Params = field(default_factory=dict)
    validations_since_best: int = 0

    def save(self, path: Path) -> None:
        """Write the checkpoint; a process that is killed meanwhile leaves the older one."""
        buffer = io.BytesIO()
        # `asdict` would copy each tensor.
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        torch.save({"schema": SCHEMA} | content, buffer)
        payload = buffer.getvalue()
        with atomic_file(path, synced=True) as file:
            file.write(hashlib.sha256(payload).digest() + payload)

    @classmethod
    def load(cls, path: Path, training: str, like: Params) -> Self:
        """Read a checkpoint."""
        content = path.read_bytes()
        checksum, payload = content[:_CHECKSUM], content[_CHECKSUM:]
        if hashlib.sha256(payload).digest() != checksum:
            raise UserError(f"{path} is no checkpoint, or a broken one{_REMEDY}")
        try:
            saved: dict[str, Any] = torch.load(
                io.BytesIO(payload), map_location="cpu", weights_only=True
            )
            schema = saved.pop("schema")
            if schema != SCHEMA:
                raise UserError(f"{path} has schema {schema}; this version reads {SCHEMA}{_REMEDY}")
            if saved.pop("estimator", None):  # of calibrated ones, before these were retired
                raise UserError(
                    f"{path} is a checkpoint of a calibrated estimator, which are no more{_REMEDY}"
                )
            checkpoint = cls(**saved)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"{path} is no checkpoint: {type(error).__name__}{_REMEDY}") from None
        if _shapes(checkpoint.params) != _shapes(like):
            raise UserError(f"{path} is a checkpoint of another model{_REMEDY}")
        if checkpoint.training != training:
            raise UserError(f"{path} is a checkpoint of another training{_REMEDY}")
        return checkpoint


def _shapes(params: Params) -> dict[str, Any]:
    return {name: (tuple(value.shape), value.dtype) for name, value in params.items()}
