"""`kensa apply CONFIG` changes the configuration of the running agent, without a restart.

All or nothing: a key that is wrong, or needs a restart, is named with its path, and then nothing is changed. Exit code
0: the agent runs with this configuration. 2: the configuration is wrong. 5: no agent runs on its state directory, or a
key needs a restart.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from agent import config as configuration
from agent import control
from agent.errors import ConfigError, RestartNeededError


def main(argv: list[str]) -> int:
    """Send the configuration to the agent and print the answer."""
    parser = argparse.ArgumentParser(
        prog="kensa apply", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="the changed configuration")
    parser.add_argument("--dry-run", action="store_true", help="only print what it would do")
    parser.add_argument("--json", action="store_true", help="one JSON object: changed, reopened, digest")
    arguments = parser.parse_args(argv)
    config = configuration.load(arguments.config)
    tree = config.model_dump(mode="json")
    answer = control.request(config.state_dir, "config.apply", config=tree, dry_run=arguments.dry_run)
    if "restart" in answer:
        raise RestartNeededError(answer["restart"])
    if "wrong" in answer:
        raise ConfigError(answer["wrong"])
    applied = answer["applied"]
    if arguments.json:
        print(json.dumps(applied))
    elif not applied["changed"]:
        print("the agent runs with this configuration already")
    else:
        print("\n".join([*applied["changed"], *(f"camera {name}: opened again" for name in applied["reopened"])]))
        print(f"{'would apply' if arguments.dry_run else 'applied'}; config_digest {applied['digest'][:12]}")
    return 0
