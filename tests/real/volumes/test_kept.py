"""What real hosted servers keep, on a real platform: over every kind of end, and nowhere in plain."""

import pytest

from real.volumes.conftest import Keeping

pytestmark = pytest.mark.real


@pytest.mark.requirement("volumes:real:stop")
def test_files_survive_a_stop_of_the_server(keeping: Keeping) -> None:
    keeping.write("before the stop")
    keeping.stop()
    assert keeping.read() == "before the stop"


@pytest.mark.requirement("volumes:real:stop")
def test_files_survive_a_server_that_dies_by_itself(keeping: Keeping) -> None:
    keeping.write("before its death")
    body = {"tool": "run", "arguments": {"code": "import os\nos._exit(3)"}}
    assert keeping.api("POST", "/call", body).status_code == 502
    assert keeping.read() == "before its death"
