"""LiteLLM with strop: `openai/` says which protocol to speak, the rest is the model id."""

# ruff: noqa: T201
import os

import litellm

from strop.clients import bill, refine

url = os.environ.get("STROP_URL", "http://127.0.0.1:8000")
key = os.environ.get("STROP_API_KEY", "none")
model = os.environ.get("STROP_MODEL", "SmolLM2-135M-Instruct")
question = [{"role": "user", "content": "What is 17 * 23?"}]

response = litellm.completion(
    model=f"openai/{model}", api_base=f"{url}/v1", api_key=key, messages=question, extra_body=refine("best_of_n", n=4)
)
print(response.choices[0].message.content)
print("bill:", bill(response.model_dump()))

preset = litellm.completion(model=f"openai/{model}:vote-8", api_base=f"{url}/v1", api_key=key, messages=question)
print("usage:", preset.usage.completion_tokens)
