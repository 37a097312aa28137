"""What a call asks for, without a service."""

from replicate_batch_process.connection import options, variables
from replicate_batch_process.file_names import distinct, numbered


def test_several_outputs_are_numbered_before_the_ending():
    assert ["a/b.png"] == numbered("a/b.png", 1)
    assert ["a/b_1.png", "a/b_2.png"] == numbered("a/b.png", 2)
    assert ["a.b/c_1", "a.b/c_2"] == numbered("a.b/c", 2)


def test_only_names_that_repeat_are_numbered():
    assert ["a_1.png", "b.png", "a_2.png"] == distinct(["a.png", "b.png", "a.png"])


def test_the_lines_of_a_dotenv_file_are_read_as_the_shell_would(tmp_path):
    file = tmp_path / ".env"
    file.write_text("# A=1\nexport B='two # 2'\nC = three=3  # third\nD=\n\nnothing\nE=\"five\" # fifth\n")

    assert {"B": "two # 2", "C": "three=3", "D": "", "E": "five"} == variables(file)
    assert {} == variables(tmp_path / "none")


def test_a_key_of_the_environment_comes_before_those_of_the_file(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text(
        "RCG_URL=http://other\nRCG_API_KEY=rcg_file\nREPLICATE_API_TOKEN=r8_file\n"
    )
    monkeypatch.delenv("RCG_URL")
    monkeypatch.delenv("REPLICATE_API_TOKEN")
    from_file = {"url": "http://other", "api_key": "rcg_file", "replicate_api_token": "r8_file"}
    assert from_file == options()
    assert from_file | {"replicate_api_token": "r8_mine"} == options("r8_mine")

    monkeypatch.setenv("RCG_API_KEY", "rcg_env")
    assert {"url": "http://other", "replicate_api_token": None} == options()
