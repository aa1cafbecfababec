"""LangChain with strop. LangChain drops fields it does not know, so the bill does not get here; the usage does."""

# ruff: noqa: T201
import os

from langchain_openai import ChatOpenAI

from strop.clients import refine

url = os.environ.get("STROP_URL", "http://127.0.0.1:8000")
key = os.environ.get("STROP_API_KEY", "none")
model = os.environ.get("STROP_MODEL", "SmolLM2-135M-Instruct")

best = ChatOpenAI(base_url=f"{url}/v1", api_key=key, model=model, extra_body=refine("best_of_n", n=4))
answer = best.invoke("What is 17 * 23?")
print(answer.content)
print("usage:", answer.usage_metadata)

preset = ChatOpenAI(base_url=f"{url}/v1", api_key=key, model=f"{model}:vote-8")
for piece in preset.stream("What is 17 * 23?"):
    print(piece.content, end="")
print()
