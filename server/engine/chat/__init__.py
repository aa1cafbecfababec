"""What engines that speak token ids share: chats to ids, ids to text, text to tool calls, and the words for requests.

`template` renders messages, `translate` stands between strop's ops and `types.TokenRequest`, `spelling` turns tokens
into text with stop strings, `reading` takes finished turns apart, `toolcalls` finds calls in a text and forces them
by a grammar, `schema` bounds the schemas of clients.
"""
