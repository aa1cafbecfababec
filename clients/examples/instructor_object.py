"""Instructor with strop: every draft follows the schema, the best one becomes the object."""

# ruff: noqa: T201
import os

import instructor
from pydantic import BaseModel

from strop.clients import bill, openai_client, refine


class Product(BaseModel):
    """The answer we want."""

    answer: int


url = os.environ.get("STROP_URL", "http://127.0.0.1:8000")
model = os.environ.get("STROP_MODEL", "SmolLM2-135M-Instruct")
plain = openai_client(url, api_key=os.environ.get("STROP_API_KEY", "none"))
client = instructor.from_openai(plain, mode=instructor.Mode.JSON_SCHEMA)
product, response = client.chat.completions.create_with_completion(
    model=model,
    response_model=Product,
    messages=[{"role": "user", "content": "What is 17 * 23?"}],
    extra_body=refine("best_of_n", n=4),
)
print(product)
print("bill:", bill(response))
