"""The launcher: the small privileged process that alone makes namespaces, cgroups, uids and mounts.

Read it in one sitting, in this order: `messages` (all that it can be asked), `server` (what it does with a question),
`child` (what a forked child does until it is bubblewrap), `linux` (the system calls that Python lacks).
"""
