"""Units on hosts that have only an SSH server: one runner, through OpenSSH's own client."""
