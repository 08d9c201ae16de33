"""Lines of a host's log."""

import io

from launcher.host.log import HostLog, secret_values


def written(text: str, *secrets: str) -> str:
    stream = io.BytesIO()
    log = HostLog(stream, "algo-2")
    log.hide(secrets)
    log.write(text)
    return stream.getvalue().decode("utf-8")


def test_every_line_names_the_host() -> None:
    assert written("one\ntwo 语音\n") == "algo-2 | one\nalgo-2 | two 语音\n"
    assert written("") == "algo-2 | \n"
    assert written("\x1b[33m(raylet)\x1b[0m gone") == "algo-2 | (raylet) gone\n"


def test_secrets_are_masked() -> None:
    token = "0123abcd" * 8
    assert written(f"token={token}!", token) == "algo-2 | token=***!\n"
    assert written(f"{token[:16]} {token}", token[:16], token) == "algo-2 | *** ***\n"
    assert written("-BEGIN-KEY-\nabcdefghij", "-BEGIN-KEY-\nabcdefghij\n") == (
        "algo-2 | ***\nalgo-2 | ***\n"
    )
    assert written("false", "false") == "algo-2 | false\n"  # too short to be one


def test_half_a_character_does_not_stop_the_log() -> None:
    assert written("a\ud800b") == "algo-2 | a?b\n"


def test_a_closed_stream_does_not_stop_the_job() -> None:
    stream = io.BytesIO()
    log = HostLog(stream, "algo-2")
    stream.close()
    log.write("nobody hears this")


def test_names_say_what_is_secret() -> None:
    environment = {
        "AWS_SECRET_ACCESS_KEY": "a",
        "AWS_SESSION_TOKEN": "b",
        "DB_PASSWORD": "c",
        "AWS_REGION": "eu-west-1",
        "TRAINING_JOB_NAME": "digits",
    }
    assert secret_values(environment) == ["a", "b", "c"]
