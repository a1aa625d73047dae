"""mcp-server-git with a repository to look at: made in the server's volume at the first start, kept from then on."""

import importlib
import pathlib
import shutil
import subprocess
import sys
import tempfile
from typing import Final

_PLACE: Final = pathlib.Path("/data/repo")
_README: Final = "# A demo\n\nThis repository lives in a volume of its own: commits are kept when the server stops.\n"


def make(git: str, place: pathlib.Path) -> None:
    """Make the repository. It appears whole or not at all: interrupted starts and two at once do no harm."""
    new = pathlib.Path(tempfile.mkdtemp(dir=place.parent))
    (new / "README.md").write_text(_README, "utf-8")
    for words in (
        ["init", "--quiet", "--initial-branch=main"],
        ["config", "user.name", "Demo"],
        ["config", "user.email", "demo@example.com"],
        ["add", "README.md"],
        ["commit", "--quiet", "--message=The first commit"],
    ):
        subprocess.run([git, *words], cwd=new, check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    try:
        new.rename(place)
    except OSError:
        # Another copy was faster.
        shutil.rmtree(new)


def main() -> None:
    """Serve."""
    git = shutil.which("git")
    if git is None:
        sys.exit("There is no git on this machine. Install it, for instance with apt install git, and deploy again.")
    if not _PLACE.is_dir():
        make(git, _PLACE)
    sys.argv[1:] = ["--repository", str(_PLACE)]
    importlib.import_module("mcp_server_git").main()
