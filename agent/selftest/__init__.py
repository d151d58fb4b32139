"""The examining child process, `python -m agent.selftest`: hostile model bytes are loaded here first.

One request on standard input (`agent.children.selftest_protocol`), stages and one result on standard output, a line
each. It limits itself before it reads a byte of the candidate, and it dies with its parent. The inspecting process
never imports this package.
"""
