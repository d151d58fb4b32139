"""The improvement cycle: from a trigger to a model that the fleet runs, or to the reason why there is none.

`machine` is the state machine (pipeline/infra/cycle.asl.json is made from it), `handlers` are its Lambda functions,
thin shells over the steps in the other modules; `kensa cloud cycle` starts, shows, approves and stops executions.
"""
