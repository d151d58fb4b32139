"""The self-test child process, `python -m agent.selftest`: loads untrusted model bytes first.

One request on standard input (`agent.children.selftest_protocol`), stages and one result on standard output, a line
each. It sets its limits before it reads a byte of the candidate, and it dies with its parent. The inspecting process
never imports this package.
"""
