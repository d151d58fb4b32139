"""`python -m greengrass` runs the agent as the component com.kensa.Inspector, started by the nucleus.

It needs only the environment of a component. KENSA_COMPONENT_DIR is the folder of the unpacked artifact, to which
paths in the configuration are relative; KENSA_WORK_DIR is the component's work folder (default: the current one). Exit
codes are those of the command `kensa`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.errors import KensaError
from agent.health.open_files import raise_open_file_limit
from agent.timing.clock import SystemClock
from greengrass.environment import Environment, configure_logging, set_default_region
from greengrass.inspector_component import InspectorComponent

if TYPE_CHECKING:
    from types import FrameType


def main() -> int:
    """Run until SIGTERM."""
    configure_logging()
    try:
        set_default_region(os.environ)
        raise_open_file_limit()
        component = InspectorComponent(environment=Environment.read(os.environ, work=Path.cwd()), clock=SystemClock())

        def request_stop(_number: int, _frame: FrameType | None) -> None:
            component.request_stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, request_stop)
        return component.run()
    except KensaError as error:
        print(f"kensa: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
