"""The door for clients of OpenAI's images and chats, such as its `openai` package and Open WebUI."""
