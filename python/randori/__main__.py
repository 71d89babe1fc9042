"""Runs the program that was installed together with this package.

pip puts programs into another folder than packages, and which one depends on how it was called
(into an environment, --user, --target, --prefix). So the program is looked for where it belongs to
the folder that this file lies in, and beside the interpreter last.
"""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

NAME = "randori" + (sysconfig.get_config_var("EXE") or "")


def folders():
    """Where the program may lie, the likeliest first."""
    packages = Path(__file__).resolve().parent.parent
    for scheme in sysconfig.get_scheme_names():
        paths = sysconfig.get_paths(scheme)
        if packages in (Path(paths[kind]).resolve() for kind in ("purelib", "platlib")):
            yield Path(paths["scripts"])
    windows = os.name == "nt"
    scripts = "Scripts" if windows else "bin"
    if packages.name in ("site-packages", "dist-packages"):
        # --prefix: packages are in lib/python3.13/site-packages, or on Windows Lib/site-packages
        yield packages.parents[1 if windows else 2] / scripts
    else:  # --target
        yield packages / "bin"
        yield packages / scripts
    yield Path(sys.executable).parent


def program():
    """The program's path."""
    looked_in = []
    for folder in folders():
        file = folder / NAME
        if file.is_file() and os.access(file, os.X_OK):
            return str(file)
        looked_in.append(str(folder))
    places = ", ".join(dict.fromkeys(looked_in))
    sys.exit(f"randori: the program {NAME} is in none of {places}; install it again")


def main():
    command = [program(), *sys.argv[1:]]
    if os.name != "nt":
        os.execv(command[0], command)
    # there execv would return to the shell before the program ends
    try:
        sys.exit(subprocess.run(command).returncode)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
