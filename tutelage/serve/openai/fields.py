"""What the models of all requests have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Shape(BaseModel):
    """Base of what a client sends: types are strict, and unknown fields are kept so that ``refuse_unknown`` can name them."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
