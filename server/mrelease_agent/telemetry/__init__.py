"""What the agent tells about itself: metrics, health over HTTP, logs, systemd. It is told; it does not ask."""
