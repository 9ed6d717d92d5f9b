"""What can go wrong with a registry after the work is done."""

import shlex
import sys


class RegistrationPending(Exception):
    """The output folder is complete, but the tracking server could not take it; exit code 1.

    ``command`` registers the folder later.
    """

    def __init__(self, folder: str, uri: str, reason: str, *, credentials: bool = False) -> None:
        """Say what happened, that nothing is lost, and the command; ``uri`` comes without credentials."""
        self.command = f"{shlex.quote(sys.executable)} -m beear.registry {shlex.quote(folder)}"
        again = f"MLFLOW_TRACKING_URI='{uri}' (with your credentials in it) {self.command}" if credentials else self.command
        super().__init__(
            f"{uri}: the model could not be registered ({reason}); everything is in {folder}; register it later with: {again}"
        )
