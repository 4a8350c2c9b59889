"""Where a meta-training is: on disk whole or not at all, and read back to the bit."""

import hashlib
import io
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

import torch

from estimators import Params
from estimators.base.errors import OptionError
from harness.support.files import atomic_file

SCHEMA = 1
_ANEW = "; --fresh begins anew"
_CHECKSUM = hashlib.sha256().digest_size


@dataclass
class Checkpoint:
    """A meta-training after some steps.

    Attributes:
        training: digest of what is trained and how.
        step: how many steps were taken.
        params: theta.
        optimizer: state of the outer optimiser.
        estimator: what the estimator has fitted; empty where it fits nothing.
        judged_step: the step that was judged last; -1 before the first.
        score: what came out, larger is better.
        best_step: the step with the best score so far.
        best_score: that score.
        best_params: theta of that step.
        worse: validations since then.
    """

    training: str
    step: int = 0
    params: Params = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    estimator: dict[str, Any] = field(default_factory=dict)
    judged_step: int = -1
    score: float = -float("inf")
    best_step: int = 0
    best_score: float = -float("inf")
    best_params: Params = field(default_factory=dict)
    worse: int = 0

    def save(self, path: Path) -> None:
        """Writes the checkpoint; a process that is killed meanwhile leaves the older one.

        Raises:
            OSError: it cannot be written.
        """
        buffer = io.BytesIO()
        # Its own fields alone: `asdict` would copy each tensor.
        content = {one.name: getattr(self, one.name) for one in fields(self)}
        torch.save({"schema": SCHEMA} | content, buffer)
        payload = buffer.getvalue()
        with atomic_file(path, synced=True) as file:
            file.write(hashlib.sha256(payload).digest() + payload)

    @classmethod
    def load(cls, path: Path, training: str, like: Params) -> Self:
        """Reads a checkpoint.

        Raises:
            OptionError: the file is broken, of another version, training or model.
            OSError: it cannot be read.
        """
        content = path.read_bytes()
        checksum, payload = content[:_CHECKSUM], content[_CHECKSUM:]
        if hashlib.sha256(payload).digest() != checksum:
            raise OptionError(f"{path} is no checkpoint, or a broken one{_ANEW}")
        try:
            told: dict[str, Any] = torch.load(
                io.BytesIO(payload), map_location="cpu", weights_only=True
            )
            schema = told.pop("schema")
            if schema != SCHEMA:
                raise OptionError(f"{path} has schema {schema}; this version reads {SCHEMA}{_ANEW}")
            found = cls(**told)
        except OptionError:
            raise
        except Exception as error:
            raise OptionError(f"{path} is no checkpoint: {type(error).__name__}{_ANEW}") from None
        shapes, wanted = (
            {name: (tuple(value.shape), value.dtype) for name, value in params.items()}
            for params in (found.params, like)
        )
        if shapes != wanted:
            raise OptionError(f"{path} is a checkpoint of another model{_ANEW}")
        if found.training != training:
            raise OptionError(f"{path} is a checkpoint of another training{_ANEW}")
        return found
