"""One supervised child process and all below it: spawn, log, signal, stop; and the ports it listens on."""
