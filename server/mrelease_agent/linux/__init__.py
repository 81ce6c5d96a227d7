"""The only room that speaks to the kernel: system calls, pidfds, /proc, cgroups, capabilities."""
