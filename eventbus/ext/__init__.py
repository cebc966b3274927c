"""What joins a bus to web frameworks and servers. Each module needs its framework, and nothing else imports it."""
