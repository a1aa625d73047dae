"""Servers that are Cloudflare Workers: isolates of V8 in a process (workerd) that is their tenant's alone.

| file | what it knows |
|---|---|
| `config` | what workerd is told: isolates, bindings, sockets, as text |
| `bindings` | what a Worker's bindings lead to, behind its process's one door |
| `process` | one workerd in one cell: its start, its health, its end |
| `logs` | which server a line of it belongs to |
| `house` | the processes of one tenant: who lives in which, and how one takes over from another |
| `driver` | instances: conversations with an isolate |
"""
