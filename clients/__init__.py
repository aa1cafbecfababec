"""Python convenience for strop: choose a strategy, read the bill, ask, compare.

from openai import OpenAI
from strop.clients import bill, refine

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
response = client.chat.completions.create(
    model="SmolLM2-135M-Instruct", messages=[...], extra_body=refine("best_of_n", n=8)
)
print(bill(response))
"""

from strop.clients.bill import Bill, bill
from strop.clients.chat import Answer, Listener, ServerError, ask, compare
from strop.clients.refine import Choice, openai_client, refine

__all__ = ["Answer", "Bill", "Choice", "Listener", "ServerError", "ask", "bill", "compare", "openai_client", "refine"]
