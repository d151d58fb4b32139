"""Selects one candidate of many trainings, registers it, and can reproduce it.

`trainer` trains a plan, `candidate_choice` compares the candidates and chooses, `choice_folder` writes the result,
`registry` stores it, `reproduction` trains it again. Plans, choices and records that cross a process or a machine are
strict JSON.
"""
