"""The embedded engine: a Hugging Face model run token by token in this process.

A request's life: `loop.Engine.submit` -> `batcher.Batcher` (prefill, fork, decode, leave) -> `runner.Runner` (one
forward pass over the KV slots of `cache`) -> `sampling` -> `draft.DraftState` (text, stops, limits) -> `handle.Handle`.
It speaks token ids; `strop.server.engine.chat` turns chats into ids and text back into tool calls.
"""
