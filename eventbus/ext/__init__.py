"""The bus inside of web frameworks and servers. Each module needs its own extra: `jxt-eventbus[flask]` and so on."""
