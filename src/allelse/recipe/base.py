"""What all recipe parts are made of: frozen pydantic models that know their keys, and the numbers they allow."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from allelse.errors import did_you_mean

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _check_per_block(value: Any) -> int | tuple[int, ...]:
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if not numbers or not all(type(number) is int and 1 <= number <= 65_536 for number in numbers):
        raise ValueError("allowed: a whole number from 1 to 65536, or a list with one for each block")
    return tuple(numbers) if isinstance(value, (list, tuple)) else value


PerBlock = Annotated[Any, PlainValidator(_check_per_block, json_schema_input_type=int | list[int])]

NAMING = ("name", "family")
"""Fields that say which part this is; they are written also where they are the default."""


class Part(BaseModel):
    """Base of every recipe part: frozen, no unknown keys, no silent change of type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        for key in value if isinstance(value, dict) else ():
            if key not in cls.model_fields:
                names, instead = list(cls.model_fields), cls._elsewhere(key)
                allowed = f"did you mean {instead!r}? allowed: {', '.join(names)}" if instead else did_you_mean(key, names)
                raise PydanticCustomError("unknown_key", "unknown key; {allowed}", {"key": key, "allowed": allowed})
        return value

    @classmethod
    def _elsewhere(cls, key: str) -> str:
        """The dotted key that is meant by one that is unknown here; empty where there is none."""
        return ""

    def plain(self) -> dict[str, Any]:
        """What names this part and what differs from its defaults, as plain JSON values that ``model_validate`` takes back.

        Runs are identified by these, so that a later version may add fields without making every run another one.
        """
        return {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if name in NAMING or getattr(self, name) != field.get_default()
        }


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return value.plain()
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _name_to_table(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Named = BeforeValidator(_name_to_table)
Listed = Field(strict=False)  # TOML and JSON give lists, frozen models keep tuples
