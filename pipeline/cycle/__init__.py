"""The improvement cycle: from a trigger to a new model on the fleet, or the reason why there is none.

`state_machine` generates pipeline/infra/cycle.asl.json; `handlers` are its Lambda functions, thin shells over the
modules in `steps`; `kensa cloud cycle` starts, shows, approves and stops executions.
"""
