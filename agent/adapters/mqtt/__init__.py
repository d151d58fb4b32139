"""MQTT through paho behind the `Transport` port: mosquitto, AWS IoT Core, any MQTT 3.1.1 or 5 broker."""

from agent.adapters.mqtt.broker_features import FEATURES_FILE
from agent.adapters.mqtt.broker_tls import TlsFiles
from agent.adapters.mqtt.iot_core_limits import check_message
from agent.adapters.mqtt.mqtt_transport import MqttTransport

__all__ = ["FEATURES_FILE", "MqttTransport", "TlsFiles", "check_message"]
