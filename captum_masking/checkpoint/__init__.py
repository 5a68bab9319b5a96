"""Save and load: the only folder that touches disk formats. Safetensors and JSON, no pickle."""

from captum_masking.checkpoint.errors import CheckpointError
from captum_masking.checkpoint.fingerprint import fingerprint
from captum_masking.checkpoint.model import (
    CONFIG,
    WEIGHTS,
    check_destination,
    load_model,
    read_config,
    save_model,
)
from captum_masking.checkpoint.state import read_state, write_state
from captum_masking.checkpoint.training import Checkpoints, check_no_checkpoints

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "CheckpointError",
    "Checkpoints",
    "check_destination",
    "check_no_checkpoints",
    "fingerprint",
    "load_model",
    "read_config",
    "read_state",
    "save_model",
    "write_state",
]
