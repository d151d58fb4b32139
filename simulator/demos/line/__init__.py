"""The demo: inspects a simulated line and compares the verdicts over MQTT with the truth."""
