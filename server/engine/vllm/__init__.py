"""The vLLM engine: an AsyncLLM owned by this process, for production on CUDA and for tests on a CPU.

A request's life: `engine.VllmEngine` translates the op (`strop.server.engine.chat`), `guard` refuses what would harm
the engine, `params` turns it into vLLM's SamplingParams, `generation` runs one vLLM request per draft and bills it.
`lifeline` boots the engine and replaces one that died. `extension` and the hooks live in vLLM's worker processes and
send exact entropies back through the channel that `channel` describes. Nothing here imports vLLM before it is needed.
"""
