"""The named shadow `kensa` of AWS IoT behind the `DesiredState` port."""

from agent.adapters.device_shadow.shadow_desired_state import ShadowDesiredState

__all__ = ["ShadowDesiredState"]
