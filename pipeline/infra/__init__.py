"""The stack (template.yaml), its state machine (cycle.asl.json), and what scripts/check asks of them."""
