"""The model lifecycle: how one release replaces another on a line.

A release on its way from fetch to slot, one module after the other; each names the next one in its docstring:

 1. `agent.lifecycle.lifecycle`: the thread, `desire` and `step`.
 2. `agent.lifecycle.rollout_steps`: state -> step.
 3. `agent.lifecycle.admission`: FETCHING, STAGED, VERIFIED and SELFTEST.
 4. `agent.children.fetch_client`: starts the fetch child.
 5. `agent.fetch.download`: metadata, manifest, space, files.
 6. `agent.fetch.tuf_client`: trust in the metadata.
 7. `agent.fetch.transfer`: bounded, resumable bytes.
 8. `agent.release.manifest`: what the release states about itself.
 9. `agent.release.release_store`: `adopt` and `verified_dir`.
10. `agent.children.selftest_client`: starts the self-test child.
11. `agent.selftest.self_test`: the gates in order.
12. `agent.lifecycle.trial_runner`: shadow deployment and trial on live parts.
13. `agent.lifecycle.rollout_outcome`: the commit: journal, slot, journal.
14. `agent.lifecycle.active_release`: loads and activates.
15. `agent.slot`: the switch.

The map beside it is `agent.lifecycle.state.transitions`, which is also docs/lifecycle.md. Requests enter through
`agent.lifecycle.rollout_requests`; the rules of the record are in `agent.lifecycle.state`.
"""
