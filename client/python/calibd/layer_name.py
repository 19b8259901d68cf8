"""What a layer may be called."""

from __future__ import annotations

from calibd import arguments
from calibd.errors import CalibdError, make_error

_MAX_BYTES = 512


def check_layer_name(name: str) -> None:
    """Raises InvalidArgumentError (LAYER_NAME_INVALID)."""
    if not isinstance(name, str):
        raise arguments.refusal("layer", name, "its name must be a str", "LAYER_NAME_INVALID")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        size = 0  # a lone surrogate
    if not 0 < size <= _MAX_BYTES:
        raise make_error(
            "INVALID_ARGUMENT",
            f"layer name {name[:64]!r} of {len(name)} characters: must be UTF-8 of 1 to {_MAX_BYTES} bytes",
            "LAYER_NAME_INVALID",
        )


def of_layer(name: str, error: CalibdError) -> CalibdError:
    """The same error, which names its layer."""
    return make_error(error.code, f'layer "{name}": {error}', error.reason, error.metadata)
