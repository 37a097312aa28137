"""The service's Gemini key is replaced in its file, and the old one is revoked."""

from tests.support.text_calls import ask

FIRST, SECOND = "AQ.first-key", "AQ.second-key"


def test_calls_go_on_with_a_new_gemini_key(make_app, simulator, tmp_path):
    simulator.gemini.configure(first_seconds=0, seconds=0)
    file = tmp_path / "key"
    file.write_text(FIRST)
    client = make_app(GEMINI_API_KEY_FILE=file, GEMINI_BASE_URL=simulator.url).test_client()
    call = {"model": "gemini-3.8-flash", "prompt": "Hello world"}

    assert 200 == ask(client, call).status_code
    file.write_text(SECOND)
    simulator.gemini.project(FIRST, state="refused")
    answer = ask(client, call)

    assert 200 == answer.status_code, answer.text
