"""A local Gemini: the text models of Google's Gemini Developer API, REST v1beta, beside the simulated Replicate.

It is on the same address as the Replicate: `GEMINI_BASE_URL` is the address of the simulator. It answers
`generateContent`, `streamGenerateContent`, `countTokens` and the list of models. It has no models: answers are filler,
or an instance of the schema that was sent. Everything around the answer is as in the real API: fields and refusals,
limits by project, thinking, usage, prices.

A call passes these modules: `web` reads it, `service` finds key, project and model, `requests` checks the body,
`tokens` counts it, `projects` admits it, `marks` and `faults` choose its course, `answers` plans the answer with the
texts of `texts` and the instances of `instances`, `course` sends it chunk by chunk, and `books` bills it by the table
of `models`. `refusals` has the bodies of errors. `controls` has the HTTP calls that only a simulator has, and `remote`
the same for Python.

Everything but `web` and `controls` knows no HTTP server. So thousands of calls can run in virtual time.
"""
