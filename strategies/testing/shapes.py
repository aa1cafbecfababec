"""The smallest JSON value that fits a schema, with a given answer put into its first free place."""

from __future__ import annotations

from typing import Any


def fitting(schema: dict[str, Any], answer: str) -> Any:
    """A value of the schema that holds `answer` where the schema first leaves room for a text or a number.

    Knows objects, arrays, scalars, enum, const, `minItems` and local `$ref`: enough for tests, not for every schema.
    """
    return _Filler(schema, answer).value(schema)


class _Filler:
    def __init__(self, root: dict[str, Any], answer: str) -> None:
        self._root = root
        self._answer: str | None = answer

    def value(self, schema: dict[str, Any]) -> Any:
        schema = self._resolve(schema)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match kind[0] if isinstance(kind, list) else kind:
            case "object":
                properties = schema.get("properties", {})
                return {name: self.value(properties.get(name, {})) for name in schema.get("required", properties)}
            case "array":
                return [self.value(schema.get("items", {})) for _ in range(max(1, schema.get("minItems", 1)))]
            case "boolean":
                return True
            case "null":
                return None
            case "integer" | "number":
                return self._number()
            case _:
                return self._text()

    def _resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        for key in ("anyOf", "oneOf", "allOf"):
            if schema.get(key):
                return self._resolve(schema[key][0])
        path = schema.get("$ref")
        if not isinstance(path, str):
            return schema
        found: Any = self._root
        for part in path.removeprefix("#/").split("/"):
            found = found[part]
        return self._resolve(found)

    def _number(self) -> int:
        if self._answer is not None and self._answer.lstrip("-").isdigit():
            number, self._answer = int(self._answer), None
            return number
        return 0

    def _text(self) -> str:
        text, self._answer = self._answer or "", None
        return text
