"""Where the address and the keys come from."""

import pytest
from replicate_concurrent import ConfigError, config
from replicate_concurrent.config import Settings


@pytest.fixture
def load(tmp_path):
    def loaded(*passed, **environ):
        return config.load(*passed, environ={"RCG_CONFIG": str(tmp_path / "config.toml"), **environ})

    return loaded


def test_arguments_come_before_the_environment_and_it_before_the_file(load, tmp_path):
    config.write(Settings("http://file.test", "rcg_file"), tmp_path / "config.toml")

    assert Settings("http://file.test", "rcg_file") == load()
    assert Settings("http://file.test", "rcg_env") == load(RCG_API_KEY="rcg_env")
    assert Settings("http://env.test", "rcg_arg") == load(None, "rcg_arg", RCG_URL="http://env.test/")


def test_simulated_work_never_reaches_the_service_of_the_file(load, tmp_path):
    config.write(Settings("http://file.test", "rcg_file"), tmp_path / "config.toml")

    assert Settings() == load(RCG_SIMULATE="1")
    assert Settings("http://file.test", "rcg_file") == load(RCG_SIMULATE="0")
    assert "http://env.test" == load(RCG_SIMULATE="1", RCG_URL="http://env.test").url


def test_the_key_of_a_file_is_only_for_its_address(load, tmp_path):
    config.write(Settings("http://file.test", "rcg_file"), tmp_path / "config.toml")

    assert Settings("http://other.test") == load("http://other.test")


def test_a_token_that_is_passed_comes_before_a_key_of_the_environment(load):
    settings = load("http://a.test", None, "r8_mine", RCG_API_KEY="rcg_env")

    assert "r8_mine" == settings.key


def test_the_file_is_for_its_user_alone_and_no_key_is_in_a_repr(load, tmp_path):
    config.write(Settings("http://a.test", "rcg_secret", "r8_secret"), tmp_path / "config.toml")

    assert 0o600 == (tmp_path / "config.toml").stat().st_mode & 0o777
    assert "secret" not in repr(load())
    assert Settings("http://a.test", "rcg_secret", "r8_secret") == load()


@pytest.mark.parametrize(
    "url",
    [
        "localhost:5000", "ftp://a.test", "http://", "http://u:p@a.test", "http://a.test/?x=1",
        "http://a.test:99999", "http://a.test:0", "http://a.test:abc", "http://[::1",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(load, url):
    with pytest.raises(ConfigError):
        load(url)


def test_a_file_that_cannot_be_read_is_named(load, tmp_path):
    (tmp_path / "config.toml").write_text("url = ")

    with pytest.raises(ConfigError, match=r"config\.toml"):
        load()
