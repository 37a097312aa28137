"""The provider of text models at Google: the Gemini API."""
