"""What an OpenVINO build can be asked for."""

from __future__ import annotations

from edgevit.export.base import Options


class OpenVinoOptions(Options):
    """Options of the OpenVINO target."""
