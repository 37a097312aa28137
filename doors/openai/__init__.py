"""The door for clients of OpenAI's images API, such as its `openai` package and Open WebUI."""
