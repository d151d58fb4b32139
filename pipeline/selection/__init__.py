"""From many trainings to one candidate: search, comparison with the champion, choice, registry, reproduction.

The order: `search` trains, `choose` compares and chooses, `registry` keeps what was chosen with its `record`,
`reproduce` makes it again. What crosses a process or a machine (plans, choices, records) is strict JSON.
"""
