"""The version of mini-qemu, where reading it costs nothing: asking the installed distribution takes 20 ms."""

VERSION = "0.1.0"
