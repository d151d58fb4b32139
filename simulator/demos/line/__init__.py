"""The demo: a simulated line is inspected, its verdicts travel over MQTT, and everything is compared with the truth."""
