import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from clf.cores import usable_cores
from clf.errors import UserError
from clf.main import main
from clf.service.settings import Settings

DOCS = Path(__file__).parent.parent / "docs" / "serve.md"


def test_a_flag_wins_over_its_variable_and_that_over_the_default() -> None:
    environment = {"CLF_PORT": "9000", "CLF_TIMEOUT": "2.5", "CLF_DEVICE": "", "HOME": "/"}
    settings = Settings.read({"port": "9001"}, environment)
    assert (settings.port, settings.timeout, settings.device, settings.host) == (9001, 2.5, "auto", "127.0.0.1")


def test_worker_processes_get_equal_settings() -> None:
    settings = Settings(model="x", api_key="secret", timeout=0.25, workers=3, max_bytes=7)
    assert Settings.read({}, settings.to_environment()) == settings


def test_processes_share_the_cores_unless_they_are_told_otherwise() -> None:
    cores = usable_cores()
    assert Settings().network_threads == cores
    assert Settings(workers=cores * 4).network_threads == 1
    assert Settings(workers=cores * 4, threads=3).network_threads == 3


@pytest.mark.parametrize(
    ("flags", "environment", "complaint"),
    [
        ({"port": "http"}, {}, "--port='http' is not a whole number"),
        ({}, {"CLF_PORT": "http"}, "CLF_PORT='http' is not a whole number"),
        ({"port": "70000"}, {}, "port=70000 must be 0 or more and at most 65535"),
        ({"workers": "0"}, {}, "workers=0 must be 1 or more"),
        ({"threads": "99999999999999"}, {}, "threads=99999999999999 must be 0 or more and at most 1024"),
        ({"host": ""}, {}, "host='' would let all machines in"),
        ({}, {"CLF_API_KEY": " spaced "}, "api_key begins or ends with a space"),
        ({"max_pixels": "200000000"}, {}, "max_pixels=200000000 must be 1 or more and at most 178956970"),
        ({"port": "_8__0_"}, {}, "--port='_8__0_' is not a whole number"),
        ({"timeout": "0"}, {}, "timeout=0.0 must be more than 0"),
        ({"timeout": "nan"}, {}, "timeout=nan must be more than 0"),
        ({"batch_wait": "-1"}, {}, "batch_wait=-1.0 must be 0 or more"),
        ({"device": "gpu"}, {}, "device='gpu' is none of auto, cpu, cuda"),
        ({"log_level": "warn"}, {}, "did you mean 'warning'?"),
        ({"queue": "4"}, {}, "max_files=32 is more than queue=4"),
        ({}, {"CLF_API_KEY": "schlüssel"}, "api_key has characters that no header can carry"),
        ({"uploads_dir": __file__}, {}, "is a file; name a folder"),
        ({"uploads_dir": "kept", "processed_dir": "x/../kept"}, {}, "'x/../kept' are one folder; name two"),
        ({}, {"CLF_MAXBYTES": "1"}, "CLF_MAXBYTES is no setting of the service; did you mean 'CLF_MAX_BYTES'?"),
    ],
)
def test_a_wrong_setting_is_refused_with_key_value_and_fix(
    flags: dict[str, str], environment: dict[str, str], complaint: str
) -> None:
    with pytest.raises(UserError) as raised:
        Settings.read(flags, environment)
    assert complaint in str(raised.value)


def test_the_variables_of_the_compose_file_and_the_command_are_no_mistakes() -> None:
    names = ("CLF_MODELS", "CLF_MODEL_NAME", "CLF_PUBLISH", "CLF_STOP", "CLF_DEBUG", "CLF_SHARED_DATA")
    assert Settings.read({}, dict.fromkeys(names, "x")) == Settings()


def test_a_wrong_key_is_not_repeated() -> None:
    with pytest.raises(UserError) as raised:
        Settings(api_key="schlüssel")
    assert "schl" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([], "clf serve needs --model DIR (or CLF_MODEL)"),
        (["--modle", "x"], "unknown argument '--modle'; did you mean '--model'?"),
        (["--api_key", "secret"], "unknown argument '--api_key'; set CLF_API_KEY"),
        (["--model"], "expected one argument"),
        (["--model", "x", "--port", "-5"], "port"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_code_2(
    words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words]) == 2
    said = capsys.readouterr().err
    assert complaint in said
    assert said.count("\n") == 1
    assert "secret" not in said


def test_every_setting_is_in_the_help_and_in_the_docs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    said, docs = capsys.readouterr().out, DOCS.read_text()
    for each in fields(Settings):
        assert f"CLF_{each.name.upper()}" in said
        row = f"| `CLF_{each.name.upper()}` |"
        assert row in docs, row
        if each.default != "":
            line = next(line for line in docs.splitlines() if line.startswith(row))
            assert f"| {each.default} |" in line


def test_where_the_extra_is_missing_it_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from clf.main import main\n"
        "sys.exit(main(['serve', '--model', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "clf: clf serve needs uvicorn; install its extra: pip install '.[serve]' in clf's checkout\n"
